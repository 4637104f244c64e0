"""Plugins are defined here, written to a folder as installed distributions, and loaded from it."""

import importlib
import importlib.metadata
import os
import sys
import textwrap

import pytest

from genfw.errors import PluginError
from genfw.plugins import load_plugins
from genfw.plugins.component import Component
from genfw.plugins.registry import Registry

QUAD = """
    from genfw.plugins.component import Component
    from genfw.plugins.hookspecs import hookimpl

    @hookimpl
    def genfw_components():
        return [Component("energy", "quadratic-well", "{module}.energy:Quad", "k |v|^2 / 2", aliases=("well",))]
"""

ENERGY = """
    from genfw.interfaces.energy import Energy

    class Quad(Energy):
        def forward(self, v):
            return v.square().flatten(1).sum(1)

    class Abstract(Energy):
        pass

    class NotAnEnergy:
        pass
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes distributions into a folder of ``sys.path``."""

    class Site:
        path = tmp_path / "site"

        def module(self, name, text):
            file = self.path / f"{name.replace('.', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
            # Python may have listed the folder a moment ago, and sees no change within one tick of the clock.
            importlib.invalidate_caches()
            return file

        def distribution(self, name, version, entries):
            info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            lines = "\n".join(f"{entry} = {value}" for entry, value in entries.items())
            (info / "entry_points.txt").write_text(f"[genfw]\n{lines}\n")

        def quad(self, name="genfw-quad", version="0.2", entry="quad", module="quadpkg"):
            self.module(f"{module}.__init__", QUAD.format(module=module))
            self.module(f"{module}.energy", ENERGY)
            self.distribution(name, version, {entry: module})

    Site.path.mkdir()
    monkeypatch.delenv("GENFW_DISABLE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(str(Site.path))
    before = set(sys.modules)
    yield Site()
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)) or name.startswith("genfw_local_"):
            del sys.modules[name]


def names(registry):
    return {plugin.name for plugin in registry.plugins}


def test_built_in_plugins_load_whole():
    registry = load_plugins(enabled=False)
    assert registry.broken == ()
    assert {plugin.source for plugin in registry.plugins} == {"built-in"}
    component = registry.find("prior", "standard-normal")
    assert (component.provider, component.plugin) == ("genfw", "genfw:basics")
    assert all((folder / "quickstart.yaml").is_file() for folder in registry.recipe_dirs())


def test_installed_plugin_is_found_with_provider_and_version(site):
    site.quad()
    registry = load_plugins()
    component = registry.find("energy", "quadratic-well")
    assert (component.provider, component.version, component.plugin) == ("genfw-quad", "0.2", "genfw-quad:quad")
    assert component.source == "installed"
    assert component.file == str(site.path / "quadpkg" / "__init__.py")
    assert registry.find("energy", "well") == component
    assert registry.find("energy", "Genfw_Quad/quadratic-well") == component
    assert registry.load_class(component).__name__ == "Quad"


BROKEN = {
    "syntax": ("def broken(:\n", "SyntaxError", 1),
    "import": ("\nimport absent_package\n", "ModuleNotFoundError: No module named 'absent_package'", 2),
    "exit": ("\n\nraise SystemExit(7)\n", "SystemExit: 7", 3),
    "hook": (
        "from genfw.plugins.hookspecs import hookimpl\n@hookimpl\ndef genfw_components():\n    return [1 / 0]\n",
        "ZeroDivisionError: division by zero",
        4,
    ),
    "kind": (
        "from genfw.plugins.hookspecs import hookimpl\nfrom genfw.plugins.component import Component\n"
        "@hookimpl\ndef genfw_components():\n    return [Component('enrgy', 'a', 'a:B', '')]\n",
        "unknown kind 'enrgy'",
        5,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_costs_one_line_and_nothing_else(site, case):
    text, error, line = BROKEN[case]
    file = site.module("broken", text)
    site.distribution("genfw-broken", "1.5", {"bad": "broken"})
    site.quad()
    registry = load_plugins()
    assert "genfw-quad:quad" in names(registry)
    assert "genfw:basics" in names(registry)
    (broken,) = registry.broken
    shown = broken.line()
    assert "\n" not in shown
    for part in ("genfw-broken:bad 1.5", error, f"{file}:{line}", "GENFW_DISABLE_PLUGINS=genfw-broken:bad"):
        assert part in shown
    assert registry.manager.get_plugin("genfw-broken:bad") is None
    assert not registry.search("genfw-broken/a")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("@hookimpl\ndef genfw_component():\n    return []\n", "no hook genfw_component; the hooks are"),
        ("@hookimpl\ndef genfw_components(registry):\n    return []\n", "PluginValidationError"),
        ("@hookimpl\ndef genfw_components():\n    return ['quad']\n", "Component objects, got 'quad'"),
        ("@hookimpl\ndef genfw_components():\n    return None\n", "TypeError"),
        ("@hookimpl\ndef genfw_recipes():\n    return [7]\n", "TypeError"),
    ],
)
def test_plugin_that_misunderstands_the_contract_is_rolled_back(site, text, error):
    site.module("broken", "from genfw.plugins.hookspecs import hookimpl\n" + text)
    site.distribution("genfw-broken", "1.5", {"bad": "broken"})
    registry = load_plugins()
    assert [broken.name for broken in registry.broken] == ["genfw-broken:bad"]
    assert error in registry.broken[0].line()
    assert registry.manager.get_plugin("genfw-broken:bad") is None


def test_entry_point_of_an_absent_module_is_named(site):
    site.distribution("genfw-ghost", "1", {"ghost": "no_such_module_at_all"})
    (broken,) = load_plugins().broken
    assert broken.where == "entry point ghost = no_such_module_at_all"


def test_keyboard_interrupt_is_not_a_broken_plugin(site):
    site.module("broken", "raise KeyboardInterrupt\n")
    site.distribution("genfw-broken", "1.5", {"bad": "broken"})
    with pytest.raises(KeyboardInterrupt):
        load_plugins()


def test_two_distributions_with_one_entry_point_name_both_load(site):
    site.quad("genfw-one", "1.0", "quad", "quad_one")
    site.quad("genfw-two", "2.0", "quad", "quad_two")
    registry = load_plugins()
    assert {"genfw-one:quad", "genfw-two:quad"} <= names(registry)
    with pytest.raises(PluginError) as caught:
        registry.find("energy", "quadratic-well")
    for part in ("genfw-one/quadratic-well (version 1.0)", "genfw-two/quadratic-well (version 2.0)"):
        assert part in str(caught.value)
    assert registry.find("energy", "genfw-two/quadratic-well").version == "2.0"
    with pytest.raises(PluginError, match="offered by 2"):
        registry.find("energy", "well")


@pytest.mark.parametrize("extra", ["", ", aliases=('standard-normal',)"])
def test_built_in_component_is_never_silently_replaced(site, extra):
    name = "other" if extra else "standard-normal"
    offer = f"[Component('prior', '{name}', 'usurper:Prior', ''{extra})]"
    site.module(
        "usurper",
        "from genfw.plugins.hookspecs import hookimpl\nfrom genfw.plugins.component import Component\n"
        f"@hookimpl\ndef genfw_components():\n    return {offer}\n",
    )
    site.distribution("genfw-usurper", "9", {"usurper": "usurper"})
    registry = load_plugins()
    assert registry.broken == ()
    with pytest.raises(PluginError, match=r"genfw/standard-normal \(version .*genfw-usurper/"):
        registry.find("prior", "standard-normal")
    assert registry.find("prior", "genfw/standard-normal").source == "built-in"
    assert registry.find("prior", "genfw-usurper/standard-normal").target == "usurper:Prior"


def test_one_distribution_may_not_offer_a_name_twice(site):
    site.quad(module="quad_one")
    site.module("quad_two", QUAD.format(module="quad_one"))
    site.distribution("genfw-pair", "1", {"a": "quad_one", "b": "quad_two"})
    registry = load_plugins(disable=["genfw-quad"])
    assert [broken.name for broken in registry.broken] == ["genfw-pair:b"]
    assert "energy 'quadratic-well' is offered twice" in registry.broken[0].error


@pytest.mark.parametrize("name", ["genfw-quad", "GENFW_QUAD", "genfw-quad:quad", "quad"])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_plugin_is_disabled_by_any_of_its_names(site, monkeypatch, name, by):
    site.module("quadpkg", "raise AssertionError('a disabled plugin is not even imported')\n")
    site.distribution("genfw-quad", "0.2", {"quad": "quadpkg"})
    if by == "environment":
        monkeypatch.setenv("GENFW_DISABLE_PLUGINS", f"something-else, {name}")
        registry = load_plugins()
    else:
        registry = load_plugins(disable=[name])
    assert registry.broken == ()
    assert registry.disabled == ("genfw-quad:quad",)
    with pytest.raises(PluginError, match="disabled: genfw-quad:quad"):
        registry.find("energy", "quadratic-well")


def test_without_plugins_the_built_in_ones_remain(site, tmp_path):
    site.quad()
    (tmp_path / "here.py").write_text(textwrap.dedent(QUAD.format(module="here")))
    registry = load_plugins(enabled=False, local=[tmp_path / "here.py"])
    assert {plugin.source for plugin in registry.plugins} == {"built-in"}


LOCAL = """
    from genfw import Component, Energy, hookimpl

    print("a plugin that talks")

    class Quad(Energy):
        def forward(self, v):
            return {factor} * v.square().flatten(1).sum(1)

    @hookimpl
    def genfw_components():
        return [Component("energy", "quad", "quad:Quad", "k |v|^2 / 2")]
"""


def test_local_plugin_is_one_file(site, tmp_path, capsys):
    file = tmp_path / "quad.py"
    file.write_text(textwrap.dedent(LOCAL.format(factor=1)))
    registry = load_plugins(local=[file])
    component = registry.find("energy", "quad.py/quad")
    assert (component.source, component.plugin, component.file) == ("local", "quad.py:quad", str(file))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a plugin that talks\n")
    first = registry.load_class(component)
    assert "quad" not in sys.modules
    again = load_plugins(local=[file])
    assert again.load_class(again.find("energy", "quad")) is first
    # An edited file of the same length and time stamp is loaded anew.
    stamp = file.stat().st_mtime_ns
    file.write_text(textwrap.dedent(LOCAL.format(factor=2)))
    os.utime(file, ns=(stamp, stamp))
    edited = load_plugins(local=[file])
    assert edited.find("energy", "quad").version != component.version
    assert edited.load_class(edited.find("energy", "quad")) is not first
    assert not list(tmp_path.glob("__pycache__"))


def test_nothing_is_picked_up_from_the_working_folder(site, tmp_path, monkeypatch):
    (tmp_path / "quad.py").write_text(textwrap.dedent(LOCAL.format(factor=1)))
    monkeypatch.chdir(tmp_path)
    assert not load_plugins().search("quad")
    assert load_plugins(local=["./quad.py"]).search("quad")


def test_absent_local_plugin_is_an_error(tmp_path):
    with pytest.raises(PluginError, match=r"no plugin file .*nowhere\.py"):
        load_plugins(local=[tmp_path / "nowhere.py"])


def test_broken_local_plugin_leaves_no_module(site, tmp_path):
    file = tmp_path / "quad.py"
    file.write_text("x = 1\nimport absent_package\n")
    before = set(sys.modules)
    (broken,) = load_plugins(local=[file]).broken
    assert broken.where == f"{file}:2"
    assert not [name for name in set(sys.modules) - before if name.startswith("genfw_local")]


def test_load_time_and_heavy_imports_are_recorded(site):
    site.module("jax", "")  # the name is all that counts
    site.module("slow", "import time, jax\ntime.sleep(0.02)\n")
    site.distribution("genfw-slow", "1", {"slow": "slow"})
    (record,) = [plugin for plugin in load_plugins().plugins if plugin.name == "genfw-slow:slow"]
    assert record.heavy == ("jax",)
    assert 0.02 <= record.seconds < 5
    assert record.components == 0


def test_entry_points_are_scanned_once(site, monkeypatch):
    calls = []
    scan = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: calls.append(kw) or scan(**kw))
    load_plugins()
    load_plugins()
    assert calls == [{"group": "genfw"}]


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("quadpkg.energy:Missing", "has no attribute 'Missing'"),
        ("quadpkg.nowhere:Quad", "No module named 'quadpkg.nowhere'"),
        ("quadpkg.bad:Quad", r"ZeroDivisionError: division by zero \(.*bad\.py:2\)"),
        ("quadpkg.energy:NotAnEnergy", "is not a subclass of genfw.interfaces.energy.Energy"),
        ("quadpkg.energy:Abstract", "does not define forward"),
    ],
)
def test_class_that_cannot_be_used_names_its_provider(site, target, error):
    site.quad()
    site.module("quadpkg.bad", "\n1 / 0\n")
    component = Component("energy", "quad", target, "", provider="genfw-quad", version="0.2")
    with pytest.raises(PluginError, match=error) as caught:
        Registry([component]).load_class(component)
    assert "energy 'quad' of genfw-quad 0.2" in str(caught.value)


@pytest.mark.parametrize("imported", [True, False])
def test_missing_package_comes_with_the_way_to_install_it(site, imported):
    site.quad()
    (site.path / "absent_package").mkdir()  # a folder is not a package
    site.module("quadpkg.needy", ("from absent_package import x\n" if imported else "") + textwrap.dedent(ENERGY))
    needs = {"absent_package": "pip install 'genfw-quad[extra]'"}
    component = Component("energy", "quad", "quadpkg.needy:Quad", "", needs=needs)
    registry = Registry([component])
    with pytest.raises(PluginError, match=r"needs absent_package, .* installed: pip install 'genfw-quad\[extra\]'"):
        registry.load_class(component)
    if imported:
        with pytest.raises(PluginError, match="which is not installed"):
            registry.load_class(component, check_needs=False)
    else:
        assert registry.load_class(component, check_needs=False).__name__ == "Quad"


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("energy", "mpl", "there is no energy 'mpl' - did you mean 'mlp'?"),
        ("sampler", "standard-normal", "'standard-normal' is a prior, not a sampler"),
        ("prior", "nothing-like-it", "there is no prior 'nothing-like-it'; there is standard-normal"),
        ("tracker", "bars", "there is no tracker 'bars'; no plugin offers any tracker"),
        ("enrgy", "mlp", "there is no kind of component 'enrgy'; the kinds are prior, decoder"),
    ],
)
def test_unknown_name_says_what_exists(kind, name, expected):
    registry = Registry([Component("energy", "mlp", "a:B", ""), Component("prior", "standard-normal", "a:C", "")])
    with pytest.raises(PluginError) as caught:
        registry.find(kind, name)
    assert str(caught.value).startswith(expected)


def test_unknown_name_mentions_what_did_not_load(site):
    site.module("broken", "1 / 0\n")
    site.distribution("genfw-broken", "1.5", {"bad": "broken"})
    with pytest.raises(PluginError, match=r"\(plugins that did not load: genfw-broken:bad\)"):
        load_plugins().find("energy", "quadratic-well")


def test_run_hooks_of_every_plugin_are_at_the_manager(site):
    listener = "heard = []\n@hookimpl\ndef genfw_run_end(status):\n    heard.append(status)\n"
    site.module("ear", "from genfw.plugins.hookspecs import hookimpl\n" + listener)
    site.distribution("genfw-ears", "1", {"ear": "ear"})
    registry = load_plugins()
    registry.manager.hook.genfw_run_end(status="finished")
    assert sys.modules["ear"].heard == ["finished"]
