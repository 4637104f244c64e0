"""The help of a component, which ``genfw show`` prints: what it is, who supplies it, what a recipe can set on it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import PluginError, closest
from genfw.plugins.component import KINDS, Component
from genfw.plugins.registry import Registry
from genfw.plugins.signature import Parameter, alternatives, interface_kind, is_settings, parameters, type_name

#: Kind of which a recipe has one -> its section.
_ROLES = {
    "dataset": "data",
    "prior": "prior",
    "decoder": "decoder",
    "encoder": "encoder",
    "energy": "energy",
    "amortizer": "amortizer",
}


@attrs.frozen
class Setting:
    """One argument of a constructor, which a recipe sets or genfw fills in.

    Arguments:
        name: Its key; ``chain.steps`` within the mapping ``chain``.
        type: Its type, in words.
        default: Its default in YAML, or in words; empty where it is required.
        description: Its description in the class's docstring.
        required: Whether a recipe must set it.
        injected: Whether genfw fills it in and no recipe can set it.
        primary: Whether it is one of those that matter first.
    """

    name: str
    type: str
    default: str
    description: str
    required: bool
    injected: bool = False
    primary: bool = False


@attrs.frozen
class ComponentHelp:
    """Everything about one component.

    Arguments:
        component: The component as its plugin offers it.
        doc: The class's docstring, down to its arguments.
        settings: Arguments of its constructor.
    """

    component: Component
    doc: str
    settings: tuple[Setting, ...]

    def block(self) -> str:
        """A block to paste into a recipe, with every default; required arguments are marked."""
        rows = [f"use: {self.component.name}"]
        closed = ""
        for setting in self.settings:
            if setting.injected or (closed and setting.name.startswith(closed)):
                continue
            nested = any(other.name.startswith(f"{setting.name}.") for other in self.settings)
            # An optional mapping is written as its default, a required one key by key.
            closed = f"{setting.name}." if nested and not setting.required else ""
            head = f"{'  ' * setting.name.count('.')}{setting.name.rpartition('.')[2]}:"
            if nested and setting.required:
                rows.append(head)
            elif setting.required:
                rows.append(f"{head}  # must be given: {setting.type}")
            elif _is_yaml(setting.default):
                rows.append(f"{head} {setting.default}")
            else:
                rows.append(f"# {head} {setting.default}")
        return "\n".join(rows) + "\n"


def components_named(text: str, registry: Registry) -> tuple[Component, ...]:
    """The components that ``text`` names: ``name`` or ``distribution/name``, each optionally after ``kind/``.

    Raises:
        PluginError: There is none.
    """
    kind, slash, name = text.partition("/")
    if slash and kind in KINDS:
        found = tuple(component for component in registry.search(name) if component.kind == kind)
        return found or (registry.find(kind, name),)
    found = registry.search(text)
    if not found:
        names = {f"{component.kind}/{component.name}" for component in registry.components}
        bare = {component.name for component in registry.components}
        near = closest(text, sorted(names | bare))
        hint = f" - did you mean '{near}'?" if near else "; 'genfw list' shows them all"
        raise PluginError(f"there is no component '{text}'{hint}")
    return found


def component_help(component: Component, registry: Registry) -> ComponentHelp:
    """Read the class of a component, also where a package that it needs is absent.

    Raises:
        PluginError: The class can't be imported.
        ContractError: Its constructor can't be read as a schema.
    """
    cls = registry.load_class(component, check_needs=False)
    doc = inspect.cleandoc(cls.__doc__ or "")
    head = re.split(r"^(?:Arguments|Args|Parameters):$", doc, maxsplit=1, flags=re.MULTILINE)[0]
    settings = [attrs.evolve(setting, primary=_is_primary(setting, component.primary)) for setting in _settings(cls)]
    # Stable: within both groups the order is the constructor's.
    return ComponentHelp(component, head.strip(), tuple(sorted(settings, key=lambda setting: not setting.primary)))


def _is_primary(setting: Setting, primary: tuple[str, ...]) -> bool:
    head, nested, _ = setting.name.partition(".")
    return not setting.injected and (not primary or head in primary or (setting.required and not nested))


def _settings(cls: type, prefix: str = "", above: tuple[type, ...] = ()) -> Iterator[Setting]:
    for parameter in parameters(cls):
        nested = next((option for option in alternatives(parameter.annotation) if is_settings(option)), None)
        yield Setting(
            prefix + parameter.name,
            "filled in by genfw" if parameter.injected else type_name(parameter.annotation),
            _default(parameter),
            parameter.description,
            parameter.required and not parameter.injected and _role(parameter) is None,
            parameter.injected,
        )
        if nested is not None and not parameter.injected and nested not in above:
            yield from _settings(nested, f"{prefix}{parameter.name}.", (*above, cls))


def _default(parameter: Parameter) -> str:
    if parameter.injected:
        return ""
    if parameter.required:
        return f"the recipe's {_role(parameter)}" if _role(parameter) else ""
    return _written(parameter.default)


def _role(parameter: Parameter) -> str | None:
    """The section of a recipe that supplies a required part where the block leaves it out."""
    kinds = (interface_kind(option) for option in alternatives(parameter.annotation))
    return next((_ROLES[kind] for kind in kinds if kind in _ROLES), None)


def _written(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    try:
        return json.dumps(list(value) if isinstance(value, tuple) else value)
    except (TypeError, ValueError):
        return f"a {type(value).__name__}"


def _is_yaml(text: str) -> bool:
    return not text.startswith(("the ", "a "))
