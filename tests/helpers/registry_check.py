"""What is wrong with a list of components: the list against its classes, the tests and the recipes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from genfw.errors import PluginError
from genfw.plugins.component import KINDS, Component
from genfw.plugins.registry import Registry, one_line
from genfw.plugins.signature import class_problems


def problems_of(registry: Registry, tests_dir: Path, recipes_dir: Path, provider: str = "genfw") -> list[str]:
    """What is wrong with the components of one distribution, in the order of the list: nothing, if all is well.

    A component's class can be imported and is of its kind; its constructor is a schema, documented argument by
    argument; a test names the class or the component; a recipe (shipped, or in a test) uses it. And nothing is left
    out: every concrete class of an interface in the same packages is on the list.
    """
    tests = _texts(tests_dir, "*.py")
    recipes = _texts(recipes_dir, "*.yaml") + tests
    components = [component for component in registry.components if component.provider == provider]
    problems = []
    for component in components:
        name = f"{component.kind}/{component.name}"
        try:
            cls = registry.load_class(component, check_needs=False)
        except PluginError as error:
            problems.append(f"{name}: {error}")
            continue
        found = class_problems(cls)
        if not component.summary.strip():
            found.append("the list gives no summary")
        if not _tested(component, tests):
            found.append(f"no test under {tests_dir} names {cls.__name__} or '{component.name}'")
        if not _used(component, recipes):
            found.append(f"no recipe under {recipes_dir} or in a test has 'use: {component.name}'")
        problems += [f"{name}: {message}" for message in found]
    return [*problems, *_left_out(components)]


def _texts(folder: Path, pattern: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob(pattern)))


def _tested(component: Component, tests: str) -> bool:
    class_name = component.target.partition(":")[2]
    return _used(component, tests) or re.search(rf"\b{class_name}\b|[\"']{component.name}[\"']", tests) is not None


def _used(component: Component, recipes: str) -> bool:
    names = "|".join(re.escape(name) for name in (component.name, *component.aliases))
    return re.search(rf"\buse[\"']?: *[\"']?(?:[\w.-]+/)?(?:{names})(?![\w-])", recipes) is not None


def _left_out(components: Sequence[Component]) -> Iterator[str]:
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
                yield f"{module_name}: can't be imported: {one_line(error)}"
            continue
        for name, cls in vars(module).items():
            if not inspect.isclass(cls) or cls.__module__ != module_name or inspect.isabstract(cls) or name[0] == "_":
                continue
            kinds = [kind for kind, interface in interfaces.items() if issubclass(cls, interface)]
            if kinds and f"{module_name}:{name}" not in listed:
                yield f"{module_name}:{name}: no component names this {kinds[0]}; list it, or begin its name with _"


def _modules(package: str) -> Iterator[str]:
    root = importlib.import_module(package)
    yield package
    for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{package}.", onerror=lambda _: None):
        yield info.name


def _resolve(target: str) -> type:
    module, _, name = target.partition(":")
    cls: type = getattr(importlib.import_module(module), name)
    return cls
