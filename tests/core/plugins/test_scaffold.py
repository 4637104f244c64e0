"""What ``genfw new`` writes loads as a plugin and passes the tests it comes with, for every kind."""

import importlib
import inspect
import tomllib

import pytest
from packaging.requirements import Requirement

import genfw
from genfw.errors import PluginError
from genfw.plugins import load_plugins
from genfw.plugins.component import KINDS
from genfw.plugins.scaffold import new_plugin
from genfw.plugins.signature import class_problems


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """One package per kind, all on the path, with the metadata that installing them would write."""
    root = tmp_path_factory.mktemp("packages")
    folders = {kind: new_plugin(kind, f"my-{kind}", root) for kind in KINDS}
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders.values():
            project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
            info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
            lines = [f"{name} = {value}" for name, value in project["entry-points"]["genfw"].items()]
            (info / "entry_points.txt").write_text("\n".join(["[genfw]", *lines]))
            patch.syspath_prepend(str(folder))
            patch.syspath_prepend(str(folder / "tests"))
        yield folders


@pytest.mark.parametrize("kind", KINDS)
def test_new_package_loads_and_is_documented(packages, kind):
    registry = load_plugins()
    assert registry.broken == ()
    component = registry.find(kind, f"my-{kind}")
    assert (component.provider, component.version) == (f"genfw-my-{kind}", "0.1.0")
    assert class_problems(registry.load_class(component)) == []
    (record,) = [plugin for plugin in registry.plugins if plugin.distribution == component.provider]
    assert record.heavy == ()


@pytest.mark.parametrize("kind", KINDS)
def test_new_package_passes_its_tests(packages, kind, tmp_path):
    module = importlib.import_module(f"test_my_{kind}")
    (suite,) = [cls for name, cls in vars(module).items() if name == f"TestMy{kind.capitalize()}"]
    laws = [method for name, method in inspect.getmembers(suite(), inspect.ismethod) if name.startswith("test_")]
    assert len(laws) >= 4
    for law in laws:
        law()
    for name, function in vars(module).items():
        if name.startswith("test_"):
            function(tmp_path)


def test_pytest_collects_and_runs_them(packages):
    class Outcomes:
        passed = 0

        def pytest_runtest_logreport(self, report):
            self.passed += report.when == "call" and report.passed

    outcomes, folder = Outcomes(), str(packages["energy"])
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = pytest.main([*options, "--rootdir", folder, folder], plugins=[outcomes])
    assert (code, outcomes.passed) == (pytest.ExitCode.OK, 15)


def test_smallest_package_is_small(packages):
    package = packages["energy"]
    assert len((package / "pyproject.toml").read_text().split("[project]")[1].strip().splitlines()) == 8
    hook = (package / "genfw_my_energy" / "__init__.py").read_text()
    code = [line for line in hook.splitlines() if line.strip() and '"""' not in line]
    assert len(code) == 5


def test_new_package_says_what_it_needs(packages):
    project = tomllib.loads((packages["energy"] / "pyproject.toml").read_text())["project"]
    (needed,) = map(Requirement, project["dependencies"])
    assert needed.name == "genfw"
    assert needed.specifier.contains(genfw.__version__)
    assert not needed.specifier.contains("0.2.0"), "another minor version may change the contract"
    assert project["optional-dependencies"] == {"test": ["pytest"]}
    assert 'pip install -e ".[test]"' in (packages["energy"] / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("enrgy", "quad", "there is no kind 'enrgy' - did you mean 'energy'?"),
        ("energy", "Quad", "lower-case words joined by '-'"),
        ("energy", "../quad", "lower-case words joined by '-'"),
        ("energy", "1quad", "lower-case words joined by '-'"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, kind, name, expected):
    with pytest.raises(PluginError) as caught:
        new_plugin(kind, name, tmp_path)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_existing_work_is_not_overwritten(tmp_path):
    folder = new_plugin("energy", "quad", tmp_path)
    (folder / "genfw_quad" / "energy.py").write_text("mine")
    with pytest.raises(PluginError, match="exists and is not empty"):
        new_plugin("energy", "quad", tmp_path)
    assert (folder / "genfw_quad" / "energy.py").read_text() == "mine"
