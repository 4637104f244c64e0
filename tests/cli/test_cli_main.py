"""Global options, and what a failure looks like from outside."""

import json

import pytest

import genfw
from genfw.errors import ContractError, DataError, PluginError, RecipeError
from genfw_cli.main import main

OFFERS = """
    from genfw.plugins.component import Component
    from genfw.plugins.hookspecs import hookimpl

    @hookimpl
    def genfw_components():
        return [Component("energy", "well", "{module}_energy:Well", "a well", status="experimental", tags=("toy",))]
"""


def test_version_is_the_package_s(call):
    assert call("--version").out == f"genfw {genfw.__version__}\n"


def test_help_names_every_command_in_its_place(call):
    said = call("--help")
    assert said.code == 0
    order = [
        "run ",
        "resume ",
        "runs ",
        "sample ",
        "evaluate ",
        "report ",
        "list ",
        "show ",
        "check ",
        "new ",
        "verify ",
    ]
    places = [said.out.index(f"\n  {name}") for name in order]
    assert places == sorted(places)
    assert "130 interrupted" in said.out
    assert call().out == said.out


def test_every_command_has_help_with_every_option_explained(call):
    for name in ("run", "resume", "runs", "sample", "evaluate", "report", "list", "show", "check", "schema", "doctor"):
        said = call(name, "--help")
        assert said.code == 0
        assert said.out.startswith(f"Usage: genfw {name} ")


@pytest.mark.parametrize("arguments", [["lst"], ["list", "--colour"], ["show"], ["sample", "x", "--count", "many"]])
def test_wrong_usage_exits_2_and_says_where_help_is(call, arguments):
    said = call(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert "Error: " in said.err
    assert "-h' for help" in said.err


def test_mistyped_command_is_guessed(call):
    assert "Did you mean 'list'?" in call("lst").err


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("no data"), 1), (RecipeError("no recipe"), 3), (PluginError("no plugin"), 4), (ContractError("no"), 4)],
)
def test_expected_failures_are_one_sentence_and_an_exit_code(call, monkeypatch, error, code):
    def fail(**_):
        raise error

    monkeypatch.setattr("genfw.plugins.load_plugins", fail)
    said = call("list")
    assert said.code == code
    assert str(error) in said.err
    assert "Traceback" not in said.err


def test_unexpected_failures_name_themselves_and_debug_raises(call, monkeypatch):
    def fail(**_):
        raise KeyError("odd")

    monkeypatch.setattr("genfw.plugins.load_plugins", fail)
    said = call("list")
    assert said.code == 1
    assert "KeyError: 'odd'" in said.err
    assert "--debug" in said.err
    with pytest.raises(KeyError):
        main(["list", "--debug"])
    monkeypatch.setenv("GENFW_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["list"])


def test_interruption_exits_130(call, monkeypatch):
    def fail(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("genfw.plugins.load_plugins", fail)
    assert call("list").code == 130


def test_broken_plugin_costs_one_line(call, distribution):
    distribution("genfw-broken", "brokenplug", "import nothing_of_this_name\n")
    said = call("list", "prior")
    assert said.code == 0
    assert said.rows[0][:2] == ["prior", "nvae"]
    (line,) = said.err.splitlines()
    assert "genfw-broken:brokenplug 0.3" in line
    assert "nothing_of_this_name" in line
    assert "brokenplug.py:1" in line
    assert "GENFW_DISABLE_PLUGINS=genfw-broken:brokenplug" in line


def test_no_plugins_leaves_installed_ones_out_before_or_after_the_command(call, distribution):
    distribution("genfw-well", "wellplug", OFFERS.format(module="wellplug"))
    everything = call("list", "energy")
    assert ["energy", "well", "a well (experimental)", "genfw-well 0.3"] in everything.rows
    for arguments in (("--no-plugins", "list", "energy"), ("list", "energy", "--no-plugins")):
        assert "well" not in call(*arguments).out


def test_a_plugin_file_is_loaded_when_it_is_named(call, write):
    path = write("local_well.py", OFFERS.format(module="local_well"))
    for arguments in (("--plugin", path, "list"), ("list", "--plugin", path), ("list", f"--plugin={path}")):
        assert "a well (experimental)" in call(*arguments).out
    assert "a well" not in call("list").out
    missing = call("list", "--plugin", "nowhere.py")
    assert missing.code == 4
    assert "nowhere.py" in missing.err


def test_words_after_two_dashes_are_left_alone(call):
    said = call("show", "--", "--debug")
    assert said.code == 4
    assert "'--debug'" in said.err


def test_schema_is_json_schema(call, tmp_path):
    schema = json.loads(call("schema").out)
    assert "$schema" in schema
    assert call("schema", "--out", "s.json").code == 0
    assert json.loads((tmp_path / "s.json").read_text()) == schema


def test_doctor_tells_of_broken_plugins_and_exits_5(call, distribution):
    healthy = call("doctor", "--json")
    found = json.loads(healthy.out)
    assert healthy.code == 0
    assert found["ok"] is True
    names = {finding["name"] for finding in found["findings"]}
    assert {"version", "torch", "torchvision", "build", "CPU", "folder", "free", "genfw:basics"} <= names
    distribution("genfw-broken", "brokenplug2", "raise OSError('gone')\n")
    said = call("doctor")
    assert said.code == 5
    assert ["fault", "plugin", "genfw-broken:brokenplug2"] in [row[:3] for row in said.rows]
