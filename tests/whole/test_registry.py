"""The list of components is proved against its classes, and each kind of lie is found."""

import runpy
import sys
import textwrap

import pytest

from genfw.plugins import load_plugins
from genfw.plugins.component import Component
from genfw.plugins.registry import Registry
from genfw.plugins.signature import parameters
from places import ROOT
from registry_check import problems_of

MODULE = '''
    from genfw.interfaces.energy import Energy
    from genfw.interfaces.values import Size

    class Quad(Energy):
        """Quadratic | well.

        Arguments:
            data_shape: Shape of one item.
            stiffness: Curvature, in nats
                per squared unit.
        """

        def __init__(self, data_shape: Size, stiffness: float = 1.0) -> None:
            super().__init__()

        def forward(self, v):
            return v.square().flatten(1).sum(1)

    class Unexplained(Quad):
        """Says nothing of its argument."""

        def __init__(self, width: int) -> None:
            super().__init__((1,))

    class Undocumented(Quad):
        pass

    class Loose(Quad):
        """Takes anything."""

        def __init__(self, **options: int) -> None:
            super().__init__((1,))

    class _Private(Quad):
        """Not meant to be listed."""

    class Partial(Energy):
        """Abstract: not meant to be listed."""
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package ``shop`` with a module of energies, a folder of tests and one of recipes."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "energy.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_quad.py").write_text("from shop.energy import Quad\n")
    (tmp_path / "recipes" / "deep").mkdir(parents=True)
    (tmp_path / "recipes" / "deep" / "quad.yaml").write_text("energy: {use: genfw-shop/quad, stiffness: 2}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def listed(name="quad", target="shop.energy:Quad", summary="a well", **more):
    return Component("energy", name, target, summary, provider="genfw-shop", version="1", **more)


def check(project, *components):
    return problems_of(Registry(components), project / "tests", project / "recipes", "genfw-shop")


OTHERS = [f"shop.energy:{name}" for name in ("Unexplained", "Undocumented", "Loose")]


def test_what_is_left_out_is_found_and_what_is_private_or_abstract_is_not(project):
    assert check(project, listed()) == [
        f"{name}: no component names this energy; list it, or begin its name with _" for name in OTHERS
    ]


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        (listed("gone", "shop.energy:Gone"), "can't be imported: AttributeError"),
        (listed("other", "pathlib:Path"), "is not a subclass of genfw.interfaces.energy.Energy"),
        (listed("partial", "shop.energy:Partial"), "does not define forward"),
        (listed("loose", "shop.energy:Loose"), "'**options: int'"),
        (listed("plain", "shop.energy:Undocumented"), "Undocumented has no docstring of its own"),
        (listed("dim", "shop.energy:Unexplained"), "the 'Arguments:' of Unexplained's docstring leave out width"),
        (listed(summary=" "), "the list gives no summary"),
        (listed("dim", "shop.energy:Unexplained"), "no test under"),
        (listed("dim", "shop.energy:Unexplained"), "has 'use: dim'"),
        # A longer name is not a mention of the shorter one.
        (listed("qua"), "has 'use: qua'"),
    ],
)
def test_a_false_line_is_found(project, component, expected):
    own = [problem for problem in check(project, component) if problem.startswith(f"energy/{component.name}: ")]
    assert any(expected in problem for problem in own), own


def test_an_alias_counts_as_a_mention(project):
    (project / "recipes" / "deep" / "quad.yaml").write_text("energy: {use: well}\n")
    own = [problem for problem in check(project, listed(aliases=("well",))) if problem.startswith("energy/")]
    assert own == []


def test_a_class_whose_package_is_absent_is_no_lie_but_a_hidden_one_is(project):
    (project / "shop" / "extra.py").write_text("import package_that_is_absent\n")
    hidden = [problem for problem in check(project, listed()) if problem.startswith("shop.extra")]
    assert hidden == ["shop.extra: can't be imported: ModuleNotFoundError: No module named 'package_that_is_absent'"]
    needs = {"package_that_is_absent": "pip install it"}
    problems = check(project, listed(), listed("extra", "shop.extra:Extra", needs=needs))
    assert not [problem for problem in problems if problem.startswith("shop.extra")]


def page_of(*arguments):
    return runpy.run_path(str(ROOT / "docs" / "write_components.py"))["text"](*arguments)


def test_page_names_every_argument_with_type_default_and_meaning(project):
    page = page_of(Registry([listed(aliases=("well",), reference="a | b")]), "genfw-shop")
    assert "| energy | [quad](#energy-quad) | a well | a \\| b |" in page
    assert "## energy quad" in page
    assert "Also called `well`." in page
    assert "| `data_shape` | " in page
    assert "| `stiffness` | float | `1.0` | Curvature, in nats per squared unit. |" in page


def test_every_built_in_component_is_what_registry_yaml_says():
    registry = load_plugins(enabled=False)
    assert [broken.line() for broken in registry.broken] == []
    assert problems_of(registry, ROOT / "tests", ROOT / "recipes") == []


def test_the_page_in_docs_is_up_to_date():
    page = (ROOT / "docs" / "components.md").read_text(encoding="utf-8")
    assert page == page_of(), "run: python docs/write_components.py"


def test_three_to_five_arguments_of_a_large_component_matter_first():
    registry = load_plugins(enabled=False)
    for component in registry.components:
        cls = registry.load_class(component, check_needs=False)
        own = [parameter.name for parameter in parameters(cls) if not parameter.injected]
        assert set(component.primary) <= set(own), component.name
        assert len(own) <= 5 or 3 <= len(component.primary) <= 5, f"{component.kind}/{component.name}: {own}"
