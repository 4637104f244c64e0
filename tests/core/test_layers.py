"""Who may import whom, read from the sources; and what the light parts must not import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE, PLUGINS = ROOT / "core" / "genfw", ROOT / "plugins" / "genfw_plugins"


def table():
    """Core files in the order of docs/design.md's table; folders end in ``/``."""
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("| core/genfw/ | lives there |", 1)[1]
    rows = [line.split("|")[1] for line in section.split("\n\n", 1)[0].splitlines()[1:] if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`(\w+(?:\.py|/))`", row)]


def imports(path):
    """Modules that a file imports when it runs: not under ``TYPE_CHECKING``, but inside functions too."""
    found = []

    def walk(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child)
            return
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
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found


def module_file(name):
    for top in (ROOT / "core", ROOT / "plugins", ROOT / "cli"):
        stem = top / name.replace(".", "/")
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file
    return None


def entry(file):
    """A core file's row: its own name, or that of its folder."""
    parts = file.relative_to(CORE).parts
    return parts[0] if len(parts) == 1 else f"{parts[0]}/"


CORE_FILES = sorted(file for file in CORE.rglob("*.py") if file != CORE / "__init__.py")


def test_every_core_file_has_its_row():
    present = {entry(file) for file in CORE_FILES}
    listed = table()
    assert sorted(listed) == sorted(set(listed)), "a file stands twice in docs/design.md's table"
    assert present - set(listed) == set(), "files that docs/design.md's table leaves out"
    assert set(listed) - present == {"templates/"}, "files that are gone"


@pytest.mark.parametrize("file", CORE_FILES, ids=lambda file: str(file.relative_to(CORE)))
def test_core_file_imports_only_what_is_above_it(file):
    order = table()
    own = entry(file)
    wrong = []
    for module, line in imports(file):
        top = module.partition(".")[0]
        assert top not in ("genfw_plugins", "genfw_cli"), f"{file}:{line}: the core imports {module}"
        imported = module_file(module) if top == "genfw" else None
        if imported is None or imported == CORE / "__init__.py" or entry(imported) == own:
            continue
        if order.index(entry(imported)) > order.index(own):
            wrong.append(f"{file}:{line}: {own} imports {entry(imported)}, which stands below it in docs/design.md")
    assert not wrong, "\n".join(wrong)


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
        "from genfw.recipe import load_recipe\nimport genfw.signature, genfw.scaffold, genfw.catalogue",
    ],
)
def test_light_parts_import_no_torch(code):
    assert torch_after(code) == ["False", "False"]


def test_using_the_library_imports_no_pytest():
    assert torch_after("import genfw.testing\nfrom genfw import Model, compose, run") == ["True", "False"]


def test_package_exports_what_it_says():
    import genfw

    for name in genfw.__all__:
        assert getattr(genfw, name) is not None
    assert set(genfw.__all__) <= set(dir(genfw))
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        _ = genfw.nothing_of_the_kind


def test_a_submodule_does_not_take_the_place_of_the_function_of_its_name():
    code = "import genfw.compose\nfrom genfw.compose import Composition\nimport genfw\n"
    check = "assert callable(genfw.compose) and genfw.compose.__name__ == 'compose'"
    assert torch_after(code + check)[0] == "True"


def test_version_is_that_of_the_distribution():
    import tomllib

    import genfw

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert genfw.__version__ == project["version"]
