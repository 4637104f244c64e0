"""`list` and `show`."""

import json

import yaml

from genfw.plugins.component import KINDS


def test_piped_rows_have_four_cells_and_no_heading(call):
    said = call("list")
    assert said.code == 0
    assert said.err == ""
    assert {len(row) for row in said.rows} == {4}
    assert ["prior", "standard-normal", "z ~ N(0, I)"] in [row[:3] for row in said.rows]
    assert "\033" not in said.out


def test_a_terminal_gets_a_table_with_headings(call, terminal):
    said = call("list", "sampler")
    assert "what it is" in said.out
    assert "─" in said.out
    assert "langevin" in said.out
    assert all(len(line) <= 100 for line in said.out.splitlines())


def test_filters_narrow(call):
    everything, samplers = call("list").rows, call("list", "sampler").rows
    assert 0 < len(samplers) < len(everything)
    assert {row[0] for row in samplers} == {"sampler"}
    assert call("list", "sampler", "--search", "LANGEVIN").rows == [row for row in samplers if "angevin" in str(row)]
    tagged = call("list", "--tag", "gradient")
    assert "langevin" in tagged.out
    assert "standard-normal" not in tagged.out
    nothing = call("list", "--search", "no such words")
    assert nothing.out == ""
    assert "no component fits" in nothing.err


def test_unknown_kind_is_wrong_usage(call):
    said = call("list", "smapler")
    assert said.code == 2
    assert "sampler" in said.err


def test_json_has_every_field(call):
    found = json.loads(call("list", "prior", "--json").out)
    normal = next(component for component in found if component["name"] == "standard-normal")
    assert normal["provider"] == "genfw"
    assert normal["source"] == "built-in"
    assert normal["target"].endswith(":StandardNormal")


def test_components_come_by_kind_and_then_by_name(call, terminal):
    found = [(component["kind"], component["name"]) for component in json.loads(call("list", "--json").out)]
    assert found == sorted(found, key=lambda each: (list(KINDS).index(each[0]), each[1]))
    shown = call("list").out.splitlines()
    assert sum(line.split()[:1] == ["sampler"] for line in shown) == 1, "a terminal shows a kind once"


def test_recipes_are_listed_with_data_and_what_a_run_to_the_end_took(call):
    rows = {row[0]: row[1:] for row in call("list", "--recipes").rows}
    data, tried, words = rows["quickstart"]
    assert data == "gaussian-grid"
    assert tried == "2 min, two cores of a shared AMD EPYC"
    assert words.startswith("VAEBM on 25 Gaussians")
    # The data are those of a recipe two below; nobody has run this one to its end.
    assert rows["damc-cifar10-lebm"][:2] == ["cifar10", "-"]
    (found,) = json.loads(call("list", "--recipes", "--search", "quickstart", "--json").out)
    assert (found["name"], found["hours"]) == ("quickstart", 0.04)


def test_show_gives_signature_reference_and_provider(call):
    said = call("show", "sampler/langevin")
    assert said.code == 0
    assert ["step_size", "float", "must be given"] in [row[:3] for row in said.rows]
    assert ["steps", "int", "20", "Moves in one chain."] in said.rows
    assert "genfw 0.1.0 (built-in" in said.out
    assert "Roberts & Tweedie" in said.out
    assert ":math:" not in said.out


def test_show_puts_the_parameters_that_matter_first(call):
    said = call("show", "stage/elbo")
    before, after = said.out.split("Further parameters:")
    assert "\nbeta\t" in before
    assert "\nfree_bits\t" in after


def test_a_recipe_is_shown_with_the_head_of_its_file(call, write):
    path = write(
        "headed.yaml",
        """
        # Run to the end: 3 minutes.
        # FID 12.
        name: headed
        # not of the head
        seed: 3
    """,
    )
    assert call("show", path).out == "# Run to the end: 3 minutes.\n# FID 12.\n{name: headed, seed: 3}\n"


def test_show_needs_no_kind_and_shows_all_that_answer(call):
    said = call("show", "mlp")
    assert [line for line in said.out.splitlines() if line in ("decoder/mlp", "encoder/mlp", "energy/mlp")] == [
        "decoder/mlp",
        "encoder/mlp",
        "energy/mlp",
    ]
    components = json.loads(call("show", "genfw/mlp", "--json").out)
    assert [component["component"]["kind"] for component in components] == ["decoder", "encoder", "energy"]
    assert all(setting["description"] for component in components for setting in component["settings"])


def test_filled_component_is_a_block_to_paste(call):
    block = yaml.safe_load(call("show", "energy/mlp", "--fill").out)
    assert block["use"] == "mlp"
    assert block["hidden"] == [200, 200]
    assert "data_shape" not in block
    opened = call("show", "stage/contrastive", "--fill").out
    assert "\nnegatives:\n" in opened
    assert "must be given" in opened
    assert yaml.safe_load(opened)["steps"] is None


def test_show_guesses_what_was_meant(call):
    said = call("show", "energy/mpl")
    assert said.code == 4
    assert "did you mean 'mlp'" in said.err
    assert call("show", "nowhere.yaml").code == 3


def test_show_recipe_plain_filled_and_with_origins(call, tiny):
    shown = yaml.safe_load(call("show", tiny).out)
    assert shown["name"] == "tiny"
    assert "on" not in shown["encoder"]
    filled = yaml.safe_load(call("show", tiny, "--fill").out)
    assert filled["engine"]["keep"] == 3
    assert filled["decoder"]["sigma"] == 0.2
    assert filled["decoder"].keys() > shown["decoder"].keys()
    assert json.loads(call("show", tiny, "--fill", "--json").out)["engine"]["log_every"] == 2
    origins = {row[0]: row[1:] for row in call("show", tiny, "--origin").rows}
    assert origins["decoder.sigma"][0] == "0.2"
    assert "tiny.yaml:8" in origins["decoder.sigma"][1]
    assert "default" in origins["engine.keep"][1]
    listed = json.loads(call("show", tiny, "--origin", "--json").out)
    assert {"path": "prior.dim", "value": 2, "origin": origins["prior.dim"][1]} in listed


def test_show_finds_shipped_recipes_by_name(call):
    assert yaml.safe_load(call("show", "quickstart").out)["name"] == "quickstart"
