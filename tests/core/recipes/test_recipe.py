"""Reading recipes: scalars, places, extends, overrides, references, and the way back to YAML."""

import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genfw.errors import RecipeError, did_you_mean
from genfw.recipes.faults import CODES
from genfw.recipes.find import find_recipe, shipped_names, shipped_recipes
from genfw.recipes.recipe import load_recipe, parse_recipe
from genfw.recipes.yaml_nodes import dump
from places import ROOT


def faults(text, **options):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, **options)
    return caught.value.faults


def only(text, **options):
    (fault,) = faults(text, **options)
    return fault


def read(text):
    """Any value, under vars."""
    return parse_recipe(f"vars:\n  x: {text}\n").plain()["vars"]["x"]


# -- scalars ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5E6", 5e6),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("200_000", 200_000),
        ("1_0.5", 10.5),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_", "1_"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    got = read(text)
    assert got == value
    assert type(got) is type(value)


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(["no", "1e3", "0o7", "1_000", "12:30", "=", "<<", "~", "", " x", "- a", "a: b", "#", "null"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


def _readable(value):
    """References and merge keys mean something else in a recipe than the text they are written as."""
    if isinstance(value, dict):
        return all(key != "<<" and _readable(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_readable, value))
    return not (isinstance(value, str) and "${" in value)


@given(plain_values.filter(_readable))
def test_what_is_dumped_reads_back_equal(value):
    got = parse_recipe(dump({"vars": {"x": value}})).plain()["vars"]["x"]
    assert got == value
    assert repr(got) == repr(value)  # 1 is not 1.0, and False is not 0


def test_what_yaml_can_not_write_is_refused():
    with pytest.raises(RecipeError, match="can't hold a value of type PosixPath"):
        dump({"vars": {"x": [Path("a")]}})
    assert parse_recipe(dump({"vars": {"x": (1, 2)}})).plain()["vars"]["x"] == [1, 2]


def test_dumped_text_means_the_same_to_readers_of_yaml_1_1():
    import yaml

    value = {"a": "no", "b": "12:30", "c": "1e3", "d": 1e-5, "e": 1e20, "f": "2024-01-01"}
    assert yaml.safe_load(dump(value)) == value


# -- places -----------------------------------------------------------------------------------------------------------


def test_every_key_and_value_knows_its_place():
    recipe = parse_recipe("seed: 1\ndata:\n  use: toy\n  sizes: [10, 20]\n", file="a.yaml")
    use, size = recipe.get("data.use"), recipe.get("data.sizes.1")
    assert (use.key_mark.line, use.key_mark.column, use.mark.line, use.mark.column) == (3, 3, 3, 8)
    assert (size.mark.line, size.mark.column, size.mark.source) == (4, 15, "  sizes: [10, 20]")
    assert recipe.get("data.sizes.2") is None
    assert recipe.get("data.use.x") is None


def test_a_fault_is_shown_with_line_caret_and_code():
    fault = only("seed: 1\n  \nmodell: {}\n", file="a.yaml")
    assert str(fault).splitlines()[0].startswith("a.yaml:3:1: error[GF108]: recipes have no section 'modell'")
    assert str(fault).splitlines()[1:3] == ["    modell: {}", "    ^"]


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("seed: [1, 2\ndata: {}", "GF101", (2, 5)),
        ("a: b: c", "GF101", (1, 5)),
        ("vars: {a: [1], b: [${vars.a}]}", "GF101", None),
        ("seed: 1\nseed: 2", "GF102", (2, 1)),
        ("seed: !!str 1", "GF109", (1, 7)),
        ("vars: {a: !py/object:os.system x}", "GF103", (1, 11)),
        ("vars:" + " {a:" * 60 + " 1" + "}" * 60, "GF104", None),
        ("vars: &a {b: *a}", "GF104", None),
        ("vars: {1: 2}", "GF105", (1, 8)),
        ("vars: {<<: {a: 1}}", "GF105", (1, 8)),
        ("- a\n- b", "GF109", (1, 1)),
        ("genfw: 2", "GF109", (1, 8)),
        ("seed: 1.5", "GF109", (1, 7)),
        ("seed: true", "GF109", (1, 7)),
        ("seed: -1", "GF109", (1, 7)),
        ("name: a/b", "GF109", (1, 7)),
        ("train: {use: x}", "GF109", (1, 8)),
        ("trian: []", "GF108", (1, 1)),
        ("extends: {a: b}", "GF109", (1, 10)),
        ("extends: [3]", "GF107", (1, 11)),
        ("extends: nowhere", "GF107", (1, 10)),
        ("---\na: 1\n---\nb: 2", "GF101", None),
        ("plugins: [./nowhere.py]", "GF115", (1, 11)),
    ],
)
def test_faults_of_reading(text, code, place):
    found = [fault for fault in faults(text) if fault.code == code]
    assert found, [str(fault) for fault in faults(text)]
    if place is not None:
        assert (found[0].line, found[0].column) == place


def test_an_unquoted_reference_inside_brackets_gets_its_remedy():
    assert 'write "${a.b}" in quotes' in only("vars: {a: [1], b: [${vars.a}]}").hint


def test_aliases_are_copies_within_a_limit():
    assert parse_recipe("vars: {a: &x [1, 2], b: *x}").plain()["vars"] == {"a": [1, 2], "b": [1, 2]}
    bomb = "vars:\n  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    assert {fault.code for fault in faults(bomb)} == {"GF104"}
    copies = "vars:\n  a0: [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for i in range(1, 9):
        items = ", ".join([f"'${{vars.a{i - 1}}}'"] * 9)
        copies += f"  a{i}: [{items}]\n"
    assert {fault.code for fault in faults(copies)} == {"GF104"}


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "a.yaml")


def test_a_byte_order_mark_and_an_empty_file_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfseed: 1")
    (tmp_path / "b.yaml").write_text("# nothing\n")
    assert load_recipe(tmp_path / "a.yaml").seed == 1
    assert load_recipe(tmp_path / "b.yaml").plain() == {}


# -- extends ----------------------------------------------------------------------------------------------------------


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_maps_merge_deep_lists_and_scalars_replace(tmp_path):
    write(
        tmp_path,
        base="name: base\nseed: 1\nengine: {keep: 3, threads: 2}\ntrain: [{use: a}, {use: b}]",
        child="extends: base.yaml\nengine: {keep: 5}\ntrain: [{use: c}]",
    )
    recipe = load_recipe(tmp_path / "child.yaml")
    assert recipe.plain() == {
        "seed": 1,
        "engine": {"keep": 5, "threads": 2},
        "train": [{"use": "c"}],
    }
    assert recipe.name == "child"  # a name belongs to its file
    assert recipe.get("engine.threads").mark.file == str(tmp_path / "base.yaml")
    assert recipe.get("engine.keep").mark.file == str(tmp_path / "child.yaml")


def test_later_parents_lie_over_earlier_ones_and_may_share_a_grandparent(tmp_path):
    write(
        tmp_path,
        root="vars: {a: 0, b: 0, c: 0, d: 0}",
        one="extends: root\nvars: {a: 1, b: 1, c: 1}",
        two="extends: root\nvars: {b: 2, c: 2}",
        child="extends: [one, two]\nvars: {c: 3}",
    )
    # `two` brings root's a = 0 again, over one's: a parent is all that it says, and what it extends.
    assert load_recipe(tmp_path / "child.yaml").plain()["vars"] == {"a": 0, "b": 2, "c": 3, "d": 0}


def test_a_circle_of_parents_is_refused_with_its_path(tmp_path):
    write(tmp_path, a="extends: b", b="extends: c", c="extends: a")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "a.yaml")
    (fault,) = caught.value.faults
    assert fault.code == "GF107"
    assert "a.yaml -> b.yaml -> c.yaml -> a.yaml" in fault.message
    assert fault.file.endswith("c.yaml")


def test_parents_are_found_beside_the_file_and_among_the_shipped(tmp_path):
    write(tmp_path / "shipped" / "base", damc="seed: 7")
    write(tmp_path, child="extends: base/damc", slip="extends: chidl")
    search = [tmp_path / "shipped"]
    assert load_recipe(tmp_path / "child.yaml", search=search).seed == 7
    assert shipped_names(search) == ["damc"]
    assert find_recipe("damc", search) == find_recipe("damc.yaml", search)
    assert find_recipe("base/damc", search).name == "damc.yaml"
    with pytest.raises(RecipeError, match=r"1:10: error\[GF107\].*did you mean 'child'"):
        load_recipe(tmp_path / "slip.yaml")
    with pytest.raises(RecipeError, match=r"GF106.*did you mean 'damc'"):
        find_recipe("dmac", search)


def test_a_shipped_name_is_found_in_any_folder_unless_two_have_it(tmp_path):
    root = tmp_path / "shipped"
    write(root / "damc", cifar="seed: 1", small="seed: 2")
    write(root / "vaebm", small="seed: 3", child="extends: cifar")
    write(root, top="extends: vaebm/small", torn="extends: small")
    assert shipped_names([root]) == ["child", "cifar", "damc/small", "top", "torn", "vaebm/small"]
    assert load_recipe("child", search=[root]).seed == 1  # of another folder
    assert load_recipe("top", search=[root]).seed == 3
    both = r"'small' is the name of 2 recipes: damc/small, vaebm/small; write one of them in full"
    with pytest.raises(RecipeError, match=rf"GF106.*{both}"):
        find_recipe("small", [root])
    with pytest.raises(RecipeError, match=rf"GF107.*{both}"):
        load_recipe("torn", search=[root], strict=True)


def test_of_two_search_folders_the_first_with_a_name_decides(tmp_path):
    write(tmp_path / "one" / "deep", quad="seed: 1")
    write(tmp_path / "two", quad="seed: 2")
    assert load_recipe("quad", search=[tmp_path / "one", tmp_path / "two"]).seed == 1
    assert load_recipe("quad", search=[tmp_path / "two", tmp_path / "one"]).seed == 2


def test_faults_of_a_parent_are_shown_in_the_parent(tmp_path):
    write(tmp_path, base="seed: 1\nvars: {a: 1, a: 2}", child="extends: base\nsed: 2")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "child.yaml")
    assert {(Path(f.file).name, f.code, f.line) for f in caught.value.faults} == {
        ("base.yaml", "GF102", 2),
        ("child.yaml", "GF108", 2),
    }


def test_a_change_of_use_drops_the_other_components_keys_and_says_so(tmp_path):
    write(
        tmp_path,
        base="energy:\n  use: mlp\n  hidden: [3]\n  scale: 2.0",
        child="extends: base\nenergy: {use: resnet, width: 5}",
        same="extends: base\nenergy: {use: mlp, scale: 5.0}",
    )
    recipe = load_recipe(tmp_path / "child.yaml")
    assert recipe.plain()["energy"] == {"use": "resnet", "width": 5}
    (note,) = recipe.notes
    assert "energy uses 'resnet' instead of 'mlp'" in note
    assert re.search(r"dropped hidden \(.*base.yaml:3\), scale \(.*base.yaml:4\)", note)
    same = load_recipe(tmp_path / "same.yaml")
    assert same.plain()["energy"] == {"use": "mlp", "hidden": [3], "scale": 5.0}
    assert same.notes == ()


# -- overrides --------------------------------------------------------------------------------------------------------

SMALL = "energy: {use: mlp, width: 3}\ntrain: [{use: fit, steps: 5}, {use: fit}]\nvars: {a: 1}"


def test_overrides_set_and_unset():
    recipe = parse_recipe(
        SMALL,
        sets=["train.0.steps=7", "energy.on=latent", "engine.keep=4", "train.1={use: other, xs: [1e-3]}", "vars.a=no"],
        unsets=["energy.width"],
    )
    assert recipe.plain() == {
        "energy": {"use": "mlp", "on": "latent"},
        "train": [{"use": "fit", "steps": 7}, {"use": "other", "xs": [1e-3]}],
        "vars": {"a": "no"},
        "engine": {"keep": 4},
    }
    steps = recipe.get("train.0.steps")
    assert (steps.mark.file, steps.mark.column, str(steps.mark)) == ("--set", 15, "--set train.0.steps=7")


def test_unset_counts_positions_before_anything_is_removed():
    text = "train: [" + ", ".join(f"{{use: s{i}}}" for i in range(12)) + "]"
    recipe = parse_recipe(text, unsets=["train.1", "train.2", "train.11"])
    assert [stage["use"] for stage in recipe.plain()["train"]] == ["s0", *(f"s{i}" for i in range(3, 11))]


def test_an_override_of_use_drops_the_files_keys_but_no_other_override():
    for sets in (["energy.use=resnet", "energy.depth=2"], ["energy.depth=2", "energy.use=resnet"]):
        recipe = parse_recipe(SMALL, sets=sets)
        assert recipe.plain()["energy"] == {"use": "resnet", "depth": 2}
        assert "dropped width" in recipe.notes[0]
    assert parse_recipe(SMALL, sets=["energy.use=mlp"]).notes == ()


@pytest.mark.parametrize(
    ("sets", "unsets", "code", "words"),
    [
        (["energy.width"], [], "GF113", "path=VALUE"),
        (["a b=1"], [], "GF113", "path=VALUE"),
        (["energy.width=[1"], [], "GF113", "not readable"),
        (["train.2.steps=1"], [], "GF114", "'train' is a list of 2, counted from 0; it has no item '2'"),
        (["train.x=1"], [], "GF114", "no item 'x'"),
        (["energy.width.x=1"], [], "GF114", "'energy.width' is a single value"),
        (["vars.b=1"], [], "GF114", "'vars' has no 'b'"),
        (["extends=x"], [], "GF114", "'extends' is followed before overrides"),
        (["enrgy.width=1"], [], "GF108", "did you mean 'energy'"),
        ([], ["energy.wdith"], "GF114", "did you mean 'width'"),
        ([], ["data"], "GF114", "the recipe has no 'data'"),
        ([], ["..."], "GF113", "--unset takes a path"),
    ],
)
def test_overrides_of_nothing_are_refused(sets, unsets, code, words):
    fault = only(SMALL, sets=sets, unsets=unsets)
    assert (fault.code, fault.file) == (code, "--set" if sets else "--unset")
    assert words in fault.message
    assert fault.source == (sets or unsets)[0]


# -- references -------------------------------------------------------------------------------------------------------


def test_references_copy_values_and_whole_blocks_last():
    recipe = parse_recipe(
        "vars: {dim: 4, twice: '${vars.dim}', block: {use: noise}}\nprior: {dim: '${ vars.twice }'}\n"
        "sample: {start: '${vars.block}', first: '${train.0.steps}'}\ntrain: [{steps: 5}]",
        sets=["vars.dim=8"],
    )
    plain = recipe.plain()
    assert plain["prior"]["dim"] == 8
    assert plain["sample"] == {"start": {"use": "noise"}, "first": 5}
    dim = recipe.get("prior.dim")
    assert dim.mark.line == 2  # the fault of a copied value is where it is used
    assert str(dim.copied) == "--set vars.dim=8"  # and its origin where it was said


@pytest.mark.parametrize(
    ("text", "codes", "words"),
    [
        ("vars: {dim: 1, x: '${vars.dmi}'}", ["GF110"], "did you mean 'dim'"),
        ("vars: {x: '${var.dim}'}", ["GF110"], "did you mean 'vars'"),
        ("vars: {x: '${vars.x}'}", ["GF111"], "vars.x -> vars.x"),
        ("vars: {a: '${vars.b}', b: '${vars.a}'}", ["GF111", "GF111"], "vars.b -> vars.a -> vars.b"),
        ("vars: {a: {b: '${vars}'}}", ["GF111"], "leads back"),
        ("vars: {a: 1, b: 'x${vars.a}'}", ["GF112"], "stands alone"),
        ("vars: {a: 1, b: '${vars.a + 1}'}", ["GF112"], "no expressions"),
    ],
)
def test_references_that_lead_nowhere(text, codes, words):
    found = faults(text)
    assert [fault.code for fault in found] == codes
    assert words in str(found[0])


# -- the whole --------------------------------------------------------------------------------------------------------


def test_faults_can_wait_for_those_of_binding():
    recipe = parse_recipe("sed: 1\nvars: {a: 1, a: 2}\nseed: 4", strict=False)
    assert [fault.code for fault in recipe.faults] == ["GF108", "GF102"]
    assert recipe.seed == 4


def test_a_recipe_is_a_frozen_record():
    recipe = parse_recipe("seed: 2")
    assert (recipe.name, recipe.seed, recipe.path) == ("recipe", 2, None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        recipe.text = ""


def test_codes_are_documented_and_all_used():
    table = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| (GF\d{3}) \| (.+?) \|", table, flags=re.MULTILINE))
    assert {code: text.replace("``", "`") for code, text in CODES.items()} == documented
    used = set()
    for path in (ROOT / "core/genfw").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r'"(GF\d{3})"', text))
    assert used == set(CODES)


def test_did_you_mean_names_the_slip_or_what_there_is():
    assert did_you_mean("wdith", ["width", "depth"]) == " - did you mean 'width'?"
    assert did_you_mean("step_size", ["step-size"]) == " - did you mean 'step-size'?"
    assert did_you_mean("q", ["width", "depth"]) == "; there are width, depth"
    assert did_you_mean("q", []) == ""


def test_reading_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, genfw.recipes.recipe, genfw.plugins.signature; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_run_took_belongs_to_one_recipe(tmp_path):
    (tmp_path / "below.yaml").write_text("tried: {hardware: one core, hours: 0.5}\nseed: 3\n")
    (tmp_path / "above.yaml").write_text("extends: below\n")
    assert load_recipe(tmp_path / "below.yaml").plain()["tried"] == {"hardware": "one core", "hours": 0.5}
    assert load_recipe(tmp_path / "above.yaml").plain() == {"seed": 3}
    below, above = sorted(shipped_recipes([tmp_path]), key=lambda recipe: recipe.hours is None)
    assert (below.name, below.hardware, below.hours) == ("below", "one core", 0.5)
    assert (above.name, above.hardware, above.hours) == ("above", "", None)


@pytest.mark.parametrize(
    "value", ["{hours: 1}", "{hardware: one core, hours: 0}", "{hardware: 3, hours: 1}", "{hardware: x, hours: long}"]
)
def test_a_malformed_claim_of_a_run_is_a_fault(value):
    with pytest.raises(RecipeError, match=r"GF109.*'tried' is \{hardware: TEXT, hours: NUMBER\}"):
        parse_recipe(f"tried: {value}\n")
