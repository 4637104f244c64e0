"""What `genfw doctor` and `genfw show` are told by the core."""

import attrs
import pytest

from genfw.errors import PluginError
from genfw.plugins import load_plugins
from genfw.plugins.component import Component
from genfw.plugins.help import component_help, components_named
from genfw.plugins.registry import BrokenPlugin, PluginRecord, Registry
from genfw.recipes.find import shipped_recipes
from genfw_cli.doctor import examine, verdict


@pytest.fixture(scope="module")
def registry():
    return load_plugins(enabled=False)


def record(**changes):
    whole = PluginRecord("quad:quad", "quad", "0.1", "quad", "installed", "/quad.py", 0.01, (), 1)
    return attrs.evolve(whole, **changes)


def findings(registry, group):
    return {finding.name: finding for finding in examine(registry) if finding.group == group}


def test_heavy_slow_and_broken_plugins_are_told_apart():
    broken = BrokenPlugin("odd:odd", "odd", "0.1", "ValueError: no", "/odd.py:3")
    heavy, slow = record(name="heavy:heavy", heavy=("torch",)), record(name="slow:slow", seconds=0.5)
    found = findings(Registry(plugins=[record(), heavy, slow], broken=[broken]), "plugin")
    assert {name: finding.level for name, finding in found.items()} == {
        "quad:quad": "ok",
        "heavy:heavy": "warning",
        "slow:slow": "warning",
        "odd:odd": "fault",
    }
    assert "torch" in found["heavy:heavy"].hint
    assert "GENFW_DISABLE_PLUGINS=odd:odd" in found["odd:odd"].hint


def test_data_folder_is_that_of_the_environment(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_DATA", str(tmp_path))
    assert findings(registry, "data")["folder"].level == "ok"
    monkeypatch.setenv("GENFW_DATA", str(tmp_path / "absent"))
    absent = findings(registry, "data")["folder"]
    assert absent.level == "warning"
    assert absent.hint == f"mkdir -p {tmp_path / 'absent'}"


def test_a_full_disk_is_a_warning(registry, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20})())
    assert findings(registry, "disk")["free"].level == "warning"


def test_an_absent_package_is_a_fault_with_its_install_command(registry, monkeypatch):
    import importlib.metadata as metadata

    version = metadata.version

    def without(name):
        if name in ("safetensors", "tensorboard", "torchvision"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    found = findings(registry, "package")
    assert (found["safetensors"].level, found["safetensors"].hint) == ("fault", "pip install safetensors")
    assert found["tensorboard"].level == "ok"
    assert found["torchvision"].level == "warning"


def test_names_may_carry_kind_and_distribution(registry):
    everything = components_named("mlp", registry)
    assert {component.kind for component in everything} == {"decoder", "encoder", "energy"}
    assert components_named("energy/mlp", registry) == components_named("energy/genfw/mlp", registry)
    assert components_named("genfw/mlp", registry) == everything
    with pytest.raises(PluginError, match=r"did you mean 'langevin'"):
        components_named("langevn", registry)
    with pytest.raises(PluginError, match="genfw list"):
        components_named("qqqqqqqq", registry)


def test_every_built_in_component_has_help_and_a_block(registry):
    for component in registry.components:
        shown = component_help(component, registry)
        assert shown.doc, component
        assert all(setting.description for setting in shown.settings), component
        assert shown.block().startswith(f"use: {component.name}\n")


def test_help_marks_what_must_be_given_and_what_genfw_fills(registry):
    (langevin,) = components_named("langevin", registry)
    settings = {setting.name: setting for setting in component_help(langevin, registry).settings}
    assert settings["step_size"].required
    assert settings["steps"].default == "20"
    (energy,) = components_named("energy/mlp", registry)
    settings = {setting.name: setting for setting in component_help(energy, registry).settings}
    assert settings["data_shape"].injected
    assert not settings["data_shape"].required


def test_help_of_what_can_not_be_imported_names_the_plugin():
    gone = Component("energy", "gone", "no_such_module:Gone", "gone", provider="quad", version="0.1")
    with pytest.raises(PluginError, match="no_such_module"):
        component_help(gone, Registry([gone]))


def test_shipped_recipes_have_descriptions_and_unreadable_ones_a_name(tmp_path):
    (tmp_path / "a.yaml").write_text("description: |\n  First line.\n  Second.\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("{not: yaml")
    assert [(recipe.name, recipe.description) for recipe in shipped_recipes([tmp_path])] == [
        ("a", "First line."),
        ("b", ""),
    ]


def test_the_verdict_is_one_sentence():
    assert verdict(0, 0) == "verdict: genfw works here"
    assert verdict(0, 2) == "verdict: genfw works here; 2 warnings above"
    assert verdict(1, 2) == "verdict: genfw will fail on this machine until this is mended"
