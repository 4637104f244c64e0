"""Check a recipe against the installed components: binds every value and fills every default, but builds nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import attrs
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from genfw.errors import PluginError, RecipeError
from genfw.models.sampling import SampleSettings
from genfw.plugins.registry import Registry
from genfw.recipes.binder import Binder, Scope
from genfw.recipes.bound_values import BoundValue, components
from genfw.recipes.faults import FaultList
from genfw.recipes.recipe import FORMAT, Recipe
from genfw.recipes.yaml_nodes import BAD, Node, dump
from genfw.training.health import HealthSettings
from genfw.training.settings import EngineSettings

#: Role -> kind, in the order in which roles are built.
ROLES: Mapping[str, str] = {
    "data": "dataset",
    "prior": "prior",
    "decoder": "decoder",
    "encoder": "encoder",
    "energy": "energy",
    "amortizer": "amortizer",
}
#: Sections that are mappings of settings -> their class.
SETTINGS: Mapping[str, type] = {"sample": SampleSettings, "engine": EngineSettings, "health": HealthSettings}
#: Sections that are lists of blocks -> kind.
LISTS: Mapping[str, str] = {"train": "stage", "evaluate": "metric", "trackers": "tracker"}

_ALWAYS = frozenset({"device", "generator"})


@attrs.frozen
class Resolved:
    """A recipe with every parameter of every component known.

    Arguments:
        recipe: The recipe as read.
        parts: ``data``, ``energy.0``, ``train.1``, ``sample``, ... -> bound value, in the order of building.
        smoke: Whether the caps of a smoke run are applied.
        registry: Registry of the components.
        notes: Notes for the user: dropped keys, versions that differ from those recorded.
        unbound: Roles of the recipe whose blocks have faults -> their kind; empty in a recipe without faults.
    """

    recipe: Recipe
    parts: Mapping[str, BoundValue]
    smoke: bool
    registry: Registry = attrs.field(repr=False)
    notes: tuple[str, ...] = ()
    unbound: Mapping[str, str] = attrs.field(factory=dict)

    def plain(self) -> dict[str, Any]:
        """All sections with all defaults, as plain values, from which a recipe composes to the same objects.

        ``components`` records provider and version of each component; ``extends``, ``vars`` and ``${...}`` are gone.
        """
        own = self.recipe.plain()
        plain: dict[str, Any] = {"genfw": FORMAT, "name": self.recipe.name}
        if own.get("description"):
            plain["description"] = own["description"]
        plain["seed"] = self.recipe.seed
        if self.smoke:
            plain["smoke"] = True
        if self.recipe.plugins:
            plain["plugins"] = [str(path.resolve()) for path in self.recipe.plugins]
        if own.get("requires"):
            plain["requires"] = own["requires"]
        plain.update(self._sections(own))
        if own.get("paper"):
            plain["paper"] = own["paper"]
        plain["components"] = self._components()
        return plain

    def _sections(self, own: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for section in (*ROLES, "train", "sample", "evaluate", "trackers", "engine", "health"):
            if section in self.parts:
                result[section] = self.parts[section].plain()
                continue
            items = [bound.plain() for part, bound in self.parts.items() if part.startswith(f"{section}.")]
            if items:
                result[section] = items[0] if section == "energy" and isinstance(own["energy"], dict) else items
        return result

    def _components(self) -> dict[str, dict[str, str]]:
        found = {}
        for bound in self.parts.values():
            for block in components(bound):
                component = block.component
                assert component is not None  # `components` yields only components
                found[f"{component.kind}/{block.use}"] = {"provider": component.provider, "version": component.version}
        return dict(sorted(found.items()))

    def dump(self) -> str:
        """The text of ``resolved.yaml``."""
        return dump(self.plain())

    def origins(self) -> list[tuple[str, Any, str]]:
        """``(path, value, origin)`` of every leaf; its origin is a file and line, an override, or a default."""
        single = isinstance(self.recipe.plain().get("energy"), dict)
        result: list[tuple[str, Any, str]] = []
        for part, bound in self.parts.items():
            result.extend(bound.leaves("energy" if single and part == "energy.0" else part))
        return result


def check(recipe: Recipe, registry: Registry, *, smoke: bool = False, held: Iterable[str] = ()) -> Resolved:
    """Bind every block of a recipe. Imports the classes it uses; builds nothing.

    Arguments:
        recipe: The recipe.
        registry: Registry of the components.
        smoke: Apply the caps that classes declare for smoke runs.
        held: Roles that a model made in Python has in place of the recipe.

    Raises:
        RecipeError: With every fault, including those of reading.
        PluginError: The recipe has no fault, but some of its components can't be loaded.
    """
    resolved, faults = bind(recipe, registry, smoke=smoke, held=held)
    raise_faults(faults)
    return resolved


def bind(
    recipe: Recipe, registry: Registry, *, smoke: bool = False, held: Iterable[str] = ()
) -> tuple[Resolved, FaultList]:
    """:func:`check` without its exception: what could be bound, and the faults of the rest.

    Arguments:
        recipe: The recipe.
        registry: Registry of the components.
        smoke: Apply the caps that classes declare for smoke runs.
        held: See :func:`check`.
    """
    faults = FaultList(recipe.faults)
    smoke = smoke or recipe.smoke
    recorded = _recorded(recipe)
    pinned = {key: entry["provider"] for key, entry in recorded.items() if entry.get("provider")}
    binder = Binder(registry, faults, smoke=smoke, pinned=pinned, written_paths=recipe.resolved)
    _check_requirements(recipe, faults)
    sections = _Sections(recipe, binder, held)
    parts = sections.bind()
    notes = (*recipe.notes, *_drift(parts.values(), recorded))
    unbound = {role: kind for role, kind in sections.kinds.items() if role not in (*parts, *held)}
    return Resolved(recipe, parts, smoke, registry, notes, unbound), faults


def raise_faults(faults: FaultList) -> None:
    """Raise the collected faults, if there are any, by who can mend them.

    Arguments:
        faults: All that was found.

    Raises:
        RecipeError: The recipe has faults.
        PluginError: It has none, but components that it names are broken.
    """
    if faults.faults and all(fault.code in ("GF211", "GF216") for fault in faults.faults):
        raise PluginError(str(RecipeError(faults.ordered())))
    faults.raise_any()


class _Sections:
    """Binds the sections in the order of building, so that each knows the parts before it."""

    def __init__(self, recipe: Recipe, binder: Binder, held: Iterable[str]) -> None:
        self.recipe, self.binder = recipe, binder
        self.parts: dict[str, BoundValue] = {}
        self.nodes = {section: node for section in ROLES if (node := _present(recipe, section)) is not None}
        roles = [*held, *(role for section in self.nodes for role in self._roles(section))]
        self.kinds = {role: ROLES[role.partition(".")[0]] for role in roles}
        self.present = {role.partition(".")[0] for role in roles}

    def _roles(self, section: str) -> list[str]:
        node = self.nodes[section]
        if section != "energy":
            return [section]
        return [f"energy.{index}" for index in range(len(node.value) if node.is_list else 1)]

    def bind(self) -> dict[str, BoundValue]:
        before: dict[str, str] = {}
        for section, node in self.nodes.items():
            blocks = node.value if section == "energy" and node.is_list else [node]
            for role, block in zip(self._roles(section), blocks, strict=True):
                later = {part: kind for part, kind in self.kinds.items() if part not in before}
                scope = Scope(dict(before), later, self._supplied(section))
                self._put(role, self.binder.block(block, ROLES[section], scope, f"'{role}'"))
                before[role] = ROLES[section]
        self._bind_rest(Scope(self.kinds, {}, self._supplied(None)))
        return self.parts

    def _bind_rest(self, scope: Scope) -> None:
        root = Node({}, self.recipe.root.mark)
        for section, kind in LISTS.items():
            node = _present(self.recipe, section)
            for index, item in enumerate(node.value if node is not None and node.is_list else ()):
                self._put(f"{section}.{index}", self.binder.block(item, kind, scope, f"'{section}.{index}'"))
        for section, cls in SETTINGS.items():
            node = _present(self.recipe, section)
            if node is None or node.is_map:
                self._put(section, self.binder.settings(node or root, cls, scope))

    def _put(self, part: str, bound: BoundValue | None) -> None:
        if bound is not None:
            self.parts[part] = bound

    def _supplied(self, section: str | None) -> frozenset[str]:
        """The injected parameters that genfw can fill while ``section`` is built; ``None``: after the model."""
        order = list(ROLES)
        passed = order if section is None else order[: order.index(section)]
        names = set(_ALWAYS)
        if "data" in self.present and "data" in passed:
            names.add("data_shape")
        if "prior" in self.present and "prior" in passed:
            names.add("latent_layout")
            if "decoder" in passed:
                names.add("noise_layout")
        if section is None:
            names.add("model")
            if "decoder" in self.present:
                names.add("data_shape")
        return frozenset(names)


def _present(recipe: Recipe, section: str) -> Node | None:
    node = recipe.root.child(section)
    return None if node is None or node.value is None or node.value is BAD else node


def _recorded(recipe: Recipe) -> dict[str, dict[str, str]]:
    node = _present(recipe, "components")
    table = node.plain() if node is not None and node.is_map else {}
    return {key: entry for key, entry in table.items() if isinstance(entry, dict)}


def _drift(parts: Iterable[BoundValue], recorded: Mapping[str, Mapping[str, str]]) -> list[str]:
    notes = []
    for block in (block for bound in parts for block in components(bound)):
        component = block.component
        assert component is not None  # `components` yields only components
        before = recorded.get(f"{component.kind}/{block.use}", {}).get("version", component.version)
        if before != component.version:
            notes.append(
                f"{component.kind}/{component.name} was recorded with {component.provider} {before}, "
                f"and {component.version} is installed"
            )
    return list(dict.fromkeys(notes))


def _check_requirements(recipe: Recipe, faults: FaultList) -> None:
    node = _present(recipe, "requires")
    for name, wanted in node.value.items() if node is not None and node.is_map else ():
        if wanted.value is BAD:
            continue
        try:
            specifier = SpecifierSet(wanted.value)
        except (InvalidSpecifier, TypeError, AttributeError):
            faults.add("GF213", f"'{wanted.value}' is no version range; write for instance \">=0.2\"", wanted.mark)
            continue
        install = f"pip install '{name}{specifier}'"
        try:
            version = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            version = ""
        if not version or not specifier.contains(version, prereleases=True):
            there = f"; {version} is installed" if version else ", which is not installed"
            faults.add("GF213", f"the recipe requires {name} {specifier}{there}", wanted.entry_mark, install)
