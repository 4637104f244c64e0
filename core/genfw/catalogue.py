"""Prove the list of components against the classes it names, and write it out as a page."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from genfw.component import KINDS, Component
from genfw.errors import PluginError
from genfw.registry import Registry, one_line

__all__ = ["Problem", "argument_docs", "registry_check", "registry_docs", "signature_problems"]


@attrs.frozen
class Problem:
    """One thing wrong with the list or with a class on it.

    Arguments:
        component: ``kind/name``, or the class where no component names it.
        message: What is wrong, and what to do.
    """

    component: str
    message: str

    def __str__(self) -> str:
        return f"{self.component}: {self.message}"


def registry_check(
    registry: Registry, tests_dir: Path | str, recipes_dir: Path | str, *, provider: str = "genfw"
) -> list[Problem]:
    """Check every component of one distribution; an empty list is the proof.

    A component's class can be imported and is of its kind; its constructor is annotated, without ``*args`` and
    ``**kwargs``; it is documented, argument by argument; a test names the class or the component; a recipe (shipped, or in a
    test) uses it. And nothing is left out: every concrete class of an interface in the same packages is on the list.

    Arguments:
        registry: What the plugins offer.
        tests_dir: Folder of tests.
        recipes_dir: Folder of recipes.
        provider: The distribution to check.

    Returns:
        What is wrong, in the order of the list.
    """
    tests = _texts(Path(tests_dir), "*.py")
    recipes = _texts(Path(recipes_dir), "*.yaml") + tests
    components = [component for component in registry.components if component.provider == provider]
    problems: list[Problem] = []
    for component in components:
        name = f"{component.kind}/{component.name}"
        try:
            cls = registry.load_class(component, check_needs=False)
        except PluginError as error:
            problems.append(Problem(name, str(error)))
            continue
        found = [*signature_problems(cls), *_documentation_problems(component, cls)]
        if not _tested(component, tests):
            found.append(f"no test under {tests_dir} names {cls.__name__} or '{component.name}'")
        if not _used(component, recipes):
            found.append(f"no recipe under {recipes_dir} or in a test has 'use: {component.name}'")
        problems += [Problem(name, message) for message in found]
    return [*problems, *_left_out(components)]


def signature_problems(cls: type) -> list[str]:
    """What keeps a constructor from being a schema: missing annotations, ``*args``, names that do not resolve."""
    problems = []
    name = cls.__name__
    for parameter in _parameters(cls):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.append(f"{name} takes '{parameter}'; write its arguments out, they are the recipe's schema")
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            problems.append(f"{name}'s '{parameter.name}' is positional only; recipes give arguments by name")
        elif parameter.annotation is parameter.empty:
            problems.append(f"{name}'s '{parameter.name}' has no annotation; annotations are the recipe's schema")
    if not problems:
        try:
            typing.get_type_hints(cls.__init__)  # type: ignore[misc]
        except Exception as error:
            problems.append(f"{name}'s annotations do not resolve: {one_line(error)}")
    return problems


def argument_docs(cls: type) -> dict[str, str]:
    """What the class's docstring says of each constructor argument, from its ``Arguments:`` section."""
    found: dict[str, str] = {}
    lines = inspect.cleandoc(cls.__dict__.get("__doc__") or "").splitlines()
    if "Arguments:" not in lines:
        return found
    current = ""
    for line in lines[lines.index("Arguments:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.fullmatch(r" {4}([A-Za-z_]\w*): (.*)", line)
        if entry:
            current = entry[1]
            found[current] = entry[2]
        elif current and line.strip():
            found[current] += " " + line.strip()
    return found


def _documentation_problems(component: Component, cls: type) -> Iterator[str]:
    if not component.summary.strip():
        yield "the list gives no summary"
    if not (cls.__dict__.get("__doc__") or "").strip():
        yield f"{cls.__name__} has no docstring of its own"
        return
    documented = argument_docs(cls)
    missing = [parameter.name for parameter in _parameters(cls) if parameter.name not in documented]
    if missing:
        yield f"the 'Arguments:' of {cls.__name__}'s docstring leave out {', '.join(missing)}"


def _parameters(cls: type) -> Sequence[inspect.Parameter]:
    """A constructor's parameters; none where the class has no constructor of its own."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return ()
    return list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]


def _texts(folder: Path, pattern: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob(pattern)))


def _tested(component: Component, tests: str) -> bool:
    class_name = component.target.partition(":")[2]
    return _used(component, tests) or re.search(rf"\b{class_name}\b|[\"']{component.name}[\"']", tests) is not None


def _used(component: Component, recipes: str) -> bool:
    names = "|".join(re.escape(name) for name in (component.name, *component.aliases))
    return re.search(rf"\buse[\"']?: *[\"']?(?:[\w.-]+/)?(?:{names})(?![\w-])", recipes) is not None


def _left_out(components: Sequence[Component]) -> Iterator[Problem]:
    """Concrete classes of an interface that lie beside the listed ones and are not listed themselves."""
    interfaces = {kind: _resolve(target) for kind, target in KINDS.items()}
    listed = {component.target for component in components}
    packages = sorted({component.target.partition(":")[0].partition(".")[0] for component in components})
    for module_name in (name for package in packages for name in _modules(package)):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            # Named by its component, if that says it needs the package; an unlisted module has no such excuse.
            if not any(component.target.startswith(f"{module_name}:") for component in components):
                yield Problem(module_name, f"can't be imported: {one_line(error)}")
            continue
        for name, cls in vars(module).items():
            if not inspect.isclass(cls) or cls.__module__ != module_name or inspect.isabstract(cls) or name[0] == "_":
                continue
            kinds = [kind for kind, interface in interfaces.items() if issubclass(cls, interface)]
            if kinds and f"{module_name}:{name}" not in listed:
                message = f"no component names this {kinds[0]}; list it, or begin its name with _"
                yield Problem(f"{module_name}:{name}", message)


def _modules(package: str) -> Iterator[str]:
    root = importlib.import_module(package)
    yield package
    for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{package}.", onerror=lambda _: None):
        yield info.name


def _resolve(target: str) -> type:
    module, _, name = target.partition(":")
    cls: type = getattr(importlib.import_module(module), name)
    return cls


def registry_docs(registry: Registry, *, provider: str = "genfw") -> str:
    """The catalogue page, in Markdown: one table of all components, then each with its arguments.

    Arguments:
        registry: What the plugins offer.
        provider: The distribution to write about.
    """
    components = sorted(
        (component for component in registry.components if component.provider == provider),
        key=lambda component: (list(KINDS).index(component.kind), component.name),
    )
    lines = [
        "# Components",
        "",
        "Written by `genfw registry docs` from `registry.yaml` and the classes; do not edit.",
        "",
        "| kind | name | what it is | reference |",
        "| --- | --- | --- | --- |",
    ]
    for component in components:
        link = f"[{component.name}](#{component.kind}-{component.name})"
        lines.append(f"| {component.kind} | {link} | {_cell(component.summary)} | {_cell(component.reference)} |")
    for component in components:
        lines += ["", *_component_section(registry, component)]
    return "\n".join(lines) + "\n"


def _component_section(registry: Registry, component: Component) -> Iterator[str]:
    # The heading's text gives the anchor that the table links to, on GitHub as elsewhere.
    yield f"## {component.kind} {component.name}"
    yield ""
    yield f"{component.summary}."
    if component.aliases:
        yield f"Also called {', '.join(f'`{alias}`' for alias in component.aliases)}."
    for package, hint in component.needs.items():
        yield f"Needs `{package}`: `{hint}`."
    cls = registry.load_class(component, check_needs=False)
    yield f"Class `{component.target}`."
    documented = argument_docs(cls)
    parameters = _parameters(cls)
    if parameters:
        yield from ("", "| argument | type | default | meaning |", "| --- | --- | --- | --- |")
    for parameter in parameters:
        default = "" if parameter.default is parameter.empty else f"`{_cell(repr(parameter.default))}`"
        kind = _cell(inspect.formatannotation(parameter.annotation).strip("'"))
        yield f"| `{parameter.name}` | `{kind}` | {default} | {_cell(documented.get(parameter.name, ''))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
