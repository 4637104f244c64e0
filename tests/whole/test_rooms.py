"""Who may import whom, read from the sources: rooms in one order, no cycle of files; and what must not import torch.

Every import counts: at the top of a file, inside a function, and under ``TYPE_CHECKING``.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from places import ROOT

CORE, PLUGINS = ROOT / "core" / "genfw", ROOT / "plugins" / "genfw_plugins"
#: The rooms of the core, low to high: each imports those before it.
ROOMS = [
    "errors",
    "randomness",
    "plugins",
    "interfaces",
    "nn",
    "runs",
    "models",
    "training",
    "evaluation",
    "recipes",
    "engine",
    "weights",
    "testing",
]


def imports(path):
    """Modules that a file imports, wherever in it, with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            # "from package import module" imports the module, if there is one.
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in whole if module_file(name)]
            found.extend((name, node.lineno) for name in modules)
            if len(modules) < len(whole):
                found.append((node.module, node.lineno))
    return found


def module_file(name):
    for top in (ROOT / "core", ROOT / "plugins", ROOT / "cli"):
        stem = top / name.replace(".", "/")
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file
    return None


def room(file):
    return file.relative_to(CORE).parts[0].removesuffix(".py")


CORE_FILES = sorted(file for file in CORE.rglob("*.py") if file != CORE / "__init__.py")


def core_imports(file):
    """Files of the core that a file of it imports. The package itself is above all rooms, and imports when asked."""
    for module, line in imports(file):
        imported = module_file(module) if module.partition(".")[0] == "genfw" else None
        if imported is not None and imported != CORE / "__init__.py":
            yield imported, line


def test_the_core_has_these_rooms_and_no_others():
    assert {room(file) for file in CORE_FILES} == set(ROOMS)
    assert len([entry for entry in CORE.iterdir() if entry.name not in ("py.typed", "__pycache__")]) <= 14


@pytest.mark.parametrize("file", CORE_FILES, ids=lambda file: str(file.relative_to(CORE)))
def test_a_file_imports_from_its_room_and_those_before_it(file):
    wrong = []
    for module, line in imports(file):
        assert module.partition(".")[0] not in ("genfw_plugins", "genfw_cli"), f"{file}:{line}: imports {module}"
    for imported, line in core_imports(file):
        if ROOMS.index(room(imported)) > ROOMS.index(room(file)):
            wrong.append(f"{file}:{line}: {room(file)} imports {room(imported)}, which comes after it")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    graph = {file: {imported for imported, _ in core_imports(file)} - {file} for file in CORE_FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(file.relative_to(CORE)) for file in error.args[1]))


@pytest.mark.parametrize("package", sorted(file.parent for file in CORE.rglob("__init__.py")), ids=lambda p: p.name)
def test_a_room_says_what_it_holds(package):
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert len(text.splitlines()) >= 3


@pytest.mark.parametrize("file", CORE_FILES, ids=lambda file: str(file.relative_to(CORE)))
def test_a_file_of_the_core_is_read_in_a_sitting(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("file", sorted(PLUGINS.glob("*/**/*.py")), ids=lambda file: str(file.relative_to(PLUGINS)))
def test_plugin_imports_genfw_and_itself(file):
    own = file.relative_to(PLUGINS).parts[0]
    for module, line in imports(file):
        assert not module.startswith("genfw_cli"), f"{file}:{line}: a plugin imports the command line"
        if module.startswith("genfw_plugins."):
            other = module.split(".")[1]
            assert other == own, f"{file}:{line}: plugin '{own}' imports plugin '{other}'; share it through genfw"


def torch_after(code):
    """Whether torch is in ``sys.modules`` after ``code`` in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('torch' in sys.modules, 'pytest' in sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import genfw; genfw.__version__; dir(genfw)",
        "import genfw; genfw.Component, genfw.hookimpl, genfw.errors, genfw.load_recipe, genfw.Registry",
        "from genfw.plugins import load_plugins\nassert load_plugins().find('energy', 'mlp')",
        "from genfw.recipes.recipe import load_recipe\nimport genfw.plugins.signature, genfw.plugins.scaffold",
        "import genfw.runs.directory, genfw.recipes, genfw.plugins.help",
    ],
)
def test_light_parts_import_no_torch(code):
    assert torch_after(code) == ["False", "False"]


@pytest.mark.slow
def test_using_the_library_imports_no_pytest():
    assert torch_after("import genfw.testing\nfrom genfw import Model, compose, run") == ["True", "False"]


def test_package_exports_what_it_says():
    import genfw

    for name in genfw.__all__:
        assert getattr(genfw, name) is not None
    assert set(genfw.__all__) == {"__version__", "errors", "interfaces", *genfw._EXPORTS}
    assert set(genfw.__all__) <= set(dir(genfw))
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        _ = genfw.nothing_of_the_kind


def test_interfaces_name_those_of_training_and_evaluation_too():
    import genfw

    for name in genfw.interfaces.__all__:
        assert getattr(genfw.interfaces, name) is getattr(genfw, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        _ = genfw.interfaces.nothing_of_the_kind


def test_version_is_that_of_the_distribution():
    import tomllib

    import genfw

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert genfw.__version__ == project["version"]
