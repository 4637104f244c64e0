"""Finds the component that ``use:`` names, and says what is likely meant where there is none."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from genfw.errors import PluginError, did_you_mean, quoted
from genfw.plugins.component import Component
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.yaml_nodes import Node

if TYPE_CHECKING:
    from genfw.plugins.registry import Registry

__all__ = ["Lookup", "article", "shown"]


class Lookup:
    """Components by kind and name, for one recipe.

    Arguments:
        registry: Where components are found.
        faults: Takes every fault.
        pinned: ``kind/name`` -> the distribution that supplied it when the recipe was resolved.
    """

    def __init__(self, registry: Registry, faults: FaultList, pinned: Mapping[str, str]) -> None:
        self.registry, self.faults, self.pinned = registry, faults, pinned

    def find(self, kind: str, use: Node) -> Component | None:
        """The component of a kind that ``use`` names; ``None`` after a fault."""
        name = use.value
        if not isinstance(name, str):
            self.faults.add("GF208", f"'use' names {article(kind)}, got {shown(use)}", use.mark)
            return None
        provider, _, bare = name.rpartition("/")
        if re.search(r"[.:]", bare) or "/" in provider:
            self.faults.add(
                "GF207",
                f"'{name}' looks like an import path; a recipe names components and runs no code",
                use.mark,
                f"genfw list {kind}; or offer the class from a plugin file under 'plugins:'",
            )
            return None
        pinned = self.pinned.get(f"{kind}/{name}")
        for full in ([f"{pinned}/{bare}"] if pinned and not provider else []) + [name]:
            try:
                return self.registry.find(kind, full)
            except PluginError as error:
                problem = str(error)
        self._unknown(kind, bare, bool(provider), problem, use.mark)
        return None

    def _unknown(self, kind: str, name: str, qualified: bool, problem: str, mark: Mark) -> None:
        of_kind = [each for each in self.registry.components if each.kind == kind]
        same = [each for each in of_kind if name in (each.name, *each.aliases)]
        if same:
            self.faults.add("GF201" if qualified else "GF215", problem, mark)
            return
        kinds = [each.kind for each in self.registry.search(name) if name in (each.name, *each.aliases)]
        hint = f"genfw list {kind}"
        if kinds:
            is_a = " and ".join(dict.fromkeys(article(other) for other in kinds))
            self.faults.add("GF202", f"'{name}' is {is_a}, not {article(kind)}", mark, hint)
            return
        names = [option for each in of_kind for option in (each.name, *each.aliases)]
        broken = quoted(each.name for each in self.registry.broken)
        if self.registry.broken:
            hint += f"; plugins that did not load: {broken}"
        self.faults.add("GF201", f"there is no {kind} '{name}'{did_you_mean(name, names)}", mark, hint)

    def load(self, component: Component, use: Node) -> type | None:
        """The component's class; ``None`` after a fault."""
        try:
            cls = self.registry.load_class(component)
        except PluginError as error:
            self.faults.add("GF211", str(error), use.mark)
            return None
        if inspect.isabstract(cls):
            missing = quoted(sorted(getattr(cls, "__abstractmethods__", ())))
            self.faults.add("GF211", f"{cls.__name__} is unfinished: it lacks {missing}", use.mark)
            return None
        return cls


def article(kind: str) -> str:
    """The kind with its article."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def shown(node: Node) -> str:
    """A value in the words of an error message."""
    value = node.value
    if node.is_map:
        return "a mapping"
    if node.is_list:
        return f"a list of {len(value)}"
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the string '{value}'"
        case _:
            return f"{value!r}"
