"""Prove the list of components against the classes it names, and write it out as a page."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from genfw.errors import PluginError
from genfw.plugins.component import KINDS, Component
from genfw.plugins.registry import Registry, one_line
from genfw.plugins.signature import class_problems, parameters, type_name

__all__ = ["Problem", "registry_check", "registry_docs"]


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

    A component's class can be imported and is of its kind; its constructor is a schema, documented argument by
    argument; a test names the class or the component; a recipe (shipped, or in a test) uses it. And nothing is left
    out: every concrete class of an interface in the same packages is on the list.

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
        found = class_problems(cls)
        if not component.summary.strip():
            found.append("the list gives no summary")
        if not _tested(component, tests):
            found.append(f"no test under {tests_dir} names {cls.__name__} or '{component.name}'")
        if not _used(component, recipes):
            found.append(f"no recipe under {recipes_dir} or in a test has 'use: {component.name}'")
        problems += [Problem(name, message) for message in found]
    return [*problems, *_left_out(components)]


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
    schema = parameters(cls)
    if schema:
        yield from ("", "| argument | type | default | meaning |", "| --- | --- | --- | --- |")
    for parameter in schema:
        if parameter.injected:
            default = "from the model"
        else:
            default = "required" if parameter.required else f"`{_cell(repr(parameter.default))}`"
        words = _cell(type_name(parameter.annotation))
        yield f"| `{parameter.name}` | {words} | {default} | {_cell(parameter.description)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
