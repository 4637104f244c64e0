"""Matches a recipe's values strictly to constructor parameters, and reports every mismatch with its place.

The only conversion is int to float. Nothing is built here; the result is a tree of :mod:`genfw.recipes.bound_values`.
"""

from __future__ import annotations

import math
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from genfw.errors import ContractError, NoSuchComponentError, PluginError, article, closest, did_you_mean, quoted, shown
from genfw.plugins import signature
from genfw.plugins.component import KINDS, Component, Settings
from genfw.plugins.registry import Registry
from genfw.plugins.signature import INJECTED, Parameter, alternatives, interface_kind, is_settings, parameters
from genfw.recipes.bound_values import Block, BoundValue, Items, PlainValue, RoleReference, Table
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.recipe import folder
from genfw.recipes.yaml_nodes import BAD, Node

_FROM = {
    "data_shape": "the recipe's data:",
    "latent_layout": "the recipe's prior:",
    "noise_layout": "the recipe's prior: and decoder:, built before",
    "model": "the finished model, which only train:, sample:, evaluate: and trackers: can be given",
}


@attrs.frozen
class Scope:
    """What a part may refer to.

    Arguments:
        roles: Role -> kind, of the parts built before.
        later: Role -> kind, of the recipe's other parts.
        supplied: Injected parameters that genfw can fill.
    """

    roles: Mapping[str, str]
    later: Mapping[str, str]
    supplied: frozenset[str]


class Binder:
    """Binds the blocks of one recipe.

    Arguments:
        registry: Registry of the components.
        faults: Collects every fault.
        smoke: Apply the caps that classes declare for smoke runs.
        pinned: ``kind/name`` -> the distribution that supplied it when the recipe was resolved.
        written_paths: Leave relative paths as written; otherwise they are relative to their file.
    """

    def __init__(
        self,
        registry: Registry,
        faults: FaultList,
        *,
        smoke: bool = False,
        pinned: Mapping[str, str] | None = None,
        written_paths: bool = False,
    ) -> None:
        self.registry, self.pinned = registry, pinned or {}
        self.faults, self.smoke, self.written_paths = faults, smoke, written_paths

    # -- blocks -------------------------------------------------------------------------------------------------------

    def block(self, node: Node, kind: str, scope: Scope, what: str, expected: type | None = None) -> BoundValue | None:
        """Bind ``{use: ...}`` to a component of a kind; ``None`` after a fault."""
        if node.value is BAD:
            return None
        if not node.is_map or "use" not in node.value:
            self._no_block(node, kind, what)
            return None
        use: Node = node.value["use"]
        if use.value is BAD:
            return None
        found = self._component(kind, use)
        if found is None:
            return None
        component, cls = found
        if expected is not None and not issubclass(cls, expected):
            self.faults.add("GF205", f"{what} takes {expected.__name__}; {cls.__name__} is none", use.mark)
            return None
        keys = {key: child for key, child in node.value.items() if key != "use"}
        hint = f"genfw show {kind}/{component.name}"
        filled = self._arguments(cls, keys, node.mark, use.mark, scope, hint)
        if filled is None:
            return None
        prefix = use.value.rpartition("/")[0]
        name = f"{prefix}/{component.name}" if prefix else component.name
        return Block(cls, filled[0], filled[1], node.mark, component, name, _origin(use))

    def _component(self, kind: str, use: Node) -> tuple[Component, type] | None:
        """The component that ``use`` names, and its class; ``None`` after a fault."""
        name = use.value
        if not isinstance(name, str):
            self.faults.add("GF208", f"'use' names {article(kind)}, got {use.shown()}", use.mark)
            return None
        provider, _, bare = name.rpartition("/")
        if re.search(r"[.:]", bare) or "/" in provider:
            say = f"'{shown(name)}' looks like an import path; a recipe names components and runs no code"
            hint = f"genfw list {kind}; or offer the class from a plugin file under 'plugins:'"
            self.faults.add("GF207", say, use.mark, hint)
            return None
        # The distribution that supplied it when the recipe was resolved, if it still does.
        pinned = f"{self.pinned.get(f'{kind}/{name}')}/{bare}"
        if not provider and any(component.kind == kind for component in self.registry.search(pinned)):
            name = pinned
        try:
            component = self.registry.find(kind, name)
            return component, self.registry.load_class(component)
        except NoSuchComponentError as error:
            self.faults.add(error.code, str(error), use.mark, f"genfw list {kind}")
        except PluginError as error:
            self.faults.add("GF211", str(error), use.mark)
        return None

    def settings(self, node: Node, cls: type, scope: Scope) -> Block | None:
        """Bind a mapping to a Settings class; ``None`` after a fault."""
        if node.value is BAD:
            return None
        keys = node.value if node.is_map else {}
        found = self._arguments(cls, keys, node.mark, node.mark, scope, "")
        return None if found is None else Block(cls, found[0], found[1], node.mark, origin=_origin(node))

    def _no_block(self, node: Node, kind: str, what: str) -> None:
        a_kind = article(kind)
        if isinstance(node.value, str):
            hint = f"write {{use: {shown(node.value)}}}"
            self.faults.add("GF208", f"{what} must be {a_kind} block, got '{shown(node.value)}'", node.mark, hint)
        elif not node.is_map:
            self.faults.add(
                "GF208", f"{what} must be {a_kind} block such as {{use: NAME}}, got {node.shown()}", node.mark
            )
        else:
            slip = closest("use", node.value) or closest("ref", node.value)
            say = f"{what} must be {a_kind} block, with 'use'" + (f"; is '{slip}' meant to be it?" if slip else "")
            self.faults.add("GF208", say, node.mark, f"genfw list {kind}")

    # -- parameters ---------------------------------------------------------------------------------------------------

    def _arguments(
        self, cls: type, keys: Mapping[str, Node], mark: Mark, use_mark: Mark, scope: Scope, hint: str
    ) -> tuple[dict[str, BoundValue], dict[str, Any]] | None:
        before = len(self.faults)
        try:
            known = parameters(cls)
        except ContractError as error:
            self.faults.add("GF211", str(error), use_mark)
            return None
        slips = self._unknown_keys(cls, keys, known, hint)
        arguments: dict[str, BoundValue] = {}
        injected: dict[str, Any] = {}
        for parameter in known:
            if parameter.injected:
                self._inject(cls, parameter, scope, mark, injected)
                continue
            if parameter.name in keys:
                what = f"'{parameter.name}' of {cls.__name__}"
                bound = self.value(keys[parameter.name], parameter.annotation, scope, what)
                self._check_finite(keys[parameter.name], parameter.default, what)
            else:
                bound = self._absent(cls, parameter, scope, mark, hint, parameter.name in slips)
            if bound is not None:
                arguments[parameter.name] = bound
        if len(self.faults) > before or any(child.value is BAD for child in keys.values()):
            return None
        return self._capped(cls, arguments), injected

    def _check_finite(self, node: Node, default: Any, what: str) -> None:
        """Refuse NaN and infinity, which pass most comparisons in silence, unless they are what the default is."""
        if node.is_list:
            for index, item in enumerate(node.value):
                self._check_finite(item, default, f"item {index} of {what}")
        elif isinstance(node.value, float) and not math.isfinite(node.value) and repr(node.value) != repr(default):
            self.faults.add("GF206", f"{what} must be a finite number, got {node.value}", node.mark)

    def _unknown_keys(
        self, cls: type, keys: Mapping[str, Node], known: Sequence[Parameter], hint: str
    ) -> set[str | None]:
        """Report unknown keys; return the parameters that they probably misspell."""
        free = [parameter.name for parameter in known if not parameter.injected]
        slips: set[str | None] = set()
        for key, child in keys.items():
            if key in free:
                continue
            if key in INJECTED:
                say = f"'{key}' of {cls.__name__} is filled by genfw; leave it out"
                self.faults.add("GF210", say, child.entry_mark, hint)
                continue
            slips.add(closest(key, [name for name in free if name not in keys]))
            say = getattr(cls, "instead", {}).get(key) or (did_you_mean(key, free) if free else "; it takes none")
            self.faults.add("GF203", f"{cls.__name__} has no parameter '{shown(key)}'{say}", child.entry_mark, hint)
        return slips

    def _inject(self, cls: type, parameter: Parameter, scope: Scope, mark: Mark, injected: dict[str, Any]) -> None:
        if parameter.name in scope.supplied or not parameter.required:
            injected[parameter.name] = None if parameter.required else parameter.default
        elif parameter.nullable:
            injected[parameter.name] = None
        else:
            source = _FROM.get(parameter.name, "genfw")
            self.faults.add("GF214", f"{cls.__name__} needs {parameter.name}, which comes from {source}", mark)

    def _absent(
        self, cls: type, parameter: Parameter, scope: Scope, mark: Mark, hint: str, slip: bool
    ) -> BoundValue | None:
        kinds = [kind for option in alternatives(parameter.annotation) if (kind := interface_kind(option))]
        if kinds and (parameter.required or parameter.default is None):
            roles = [role for role, kind in scope.roles.items() if kind == kinds[0]]
            if len(roles) == 1:
                return RoleReference(roles[0], f"the recipe's {roles[0]}")
            if roles and parameter.required:
                say = f"{cls.__name__} needs '{parameter.name}', and the recipe has several: {quoted(roles)}"
                self.faults.add("GF214", say, mark, f"choose one: {parameter.name}: {{ref: {roles[0]}}}")
                return None
        if isinstance(parameter.default, Settings):  # an empty mapping: written out in full, and capped
            return self.settings(Node({}, mark), type(parameter.default), scope)
        if not parameter.required:
            return PlainValue(parameter.default, f"default of {cls.__name__}")
        if not slip:
            say = f"{cls.__name__} needs '{parameter.name}' ({signature.type_name(parameter.annotation)})"
            self.faults.add("GF204", say, mark, hint)
        return None

    def _capped(self, cls: type, arguments: dict[str, BoundValue]) -> dict[str, BoundValue]:
        if not self.smoke:
            return arguments
        result = dict(arguments)
        for name, cap in getattr(cls, "smoke", {}).items():
            bound = arguments.get(name)
            if bound is None:
                continue
            now = bound.value if isinstance(bound, PlainValue) else None
            if _is_number(now) and _is_number(cap) and now <= cap:
                continue
            origin = f"smoke cap of {cls.__name__}"
            if isinstance(cap, list | tuple) and isinstance(bound, Items):
                result[name] = Items(tuple(PlainValue(item, origin) for item in cap), bound.make, origin)
            else:
                result[name] = PlainValue(float(cap) if isinstance(now, float) and _is_number(cap) else cap, origin)
        return result

    # -- values -------------------------------------------------------------------------------------------------------

    def value(self, node: Node, annotation: Any, scope: Scope, what: str) -> BoundValue | None:
        """Bind one value to a type; ``None`` after a fault."""
        if node.value is BAD:
            return None
        fitting = [option for option in alternatives(annotation) if _fits(node, option)]
        # An exact type precedes a wider one: 3 stays an int for `float | int`.
        fitting.sort(key=lambda option: option is not type(node.value))
        if not fitting:
            self._wrong_type(node, annotation, what)
            return None
        trials: list[FaultList] = []
        for option in fitting:
            trial = self._fresh()
            bound = trial._bind_option(node, option, annotation, scope, what)
            if not trial.faults.faults:
                return bound
            trials.append(trial.faults)
        self.faults.take(min(trials, key=len).faults)
        return None

    def _fresh(self) -> Binder:
        return Binder(
            self.registry, FaultList(), smoke=self.smoke, pinned=self.pinned, written_paths=self.written_paths
        )

    def _bind_option(self, node: Node, option: Any, annotation: Any, scope: Scope, what: str) -> BoundValue | None:
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        kind = interface_kind(option)
        if kind is not None:
            if node.is_map and "ref" in node.value:
                return self._ref(node, kind, scope, what)
            exact = f"{option.__module__}:{option.__qualname__}" == KINDS[kind]
            return self.block(node, kind, scope, what, None if exact else option)
        if is_settings(option):
            return self.settings(node, option, scope)
        if origin is Literal:
            return self._literal(node, arguments, annotation, what)
        if option is Path:
            return PlainValue(self._path(node), _origin(node))
        if option is float:
            return PlainValue(float(node.value), _origin(node))
        if node.is_list and arguments:
            return self._items(node, option, scope, what)
        if node.is_map and arguments:
            entries = {
                key: self.value(child, arguments[1], scope, f"'{key}' in {what}") for key, child in node.value.items()
            }
            return Table({key: entry for key, entry in entries.items() if entry is not None}, _origin(node))
        plain = node.plain()
        return PlainValue(tuple(plain) if option is tuple else plain, _origin(node))

    def _items(self, node: Node, option: Any, scope: Scope, what: str) -> Items | None:
        arguments = typing.get_args(option)
        make = tuple if typing.get_origin(option) is tuple else list
        fixed = make is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis)
        if fixed and len(arguments) != len(node.value):
            self.faults.add(
                "GF205", f"{what} must be {signature.type_name(option)}, got {len(node.value)} items", node.mark
            )
            return None
        types = arguments if fixed else [arguments[0]] * len(node.value)
        bound = [
            self.value(item, item_type, scope, f"item {index} of {what}")
            for index, (item, item_type) in enumerate(zip(node.value, types, strict=True))
        ]
        return Items(tuple(item for item in bound if item is not None), make, _origin(node))

    def _literal(self, node: Node, choices: Sequence[Any], annotation: Any, what: str) -> PlainValue | None:
        for choice in choices:
            if type(choice) is type(node.value) and choice == node.value:
                return PlainValue(choice, _origin(node))
        words = [choice for choice in choices if isinstance(choice, str)]
        likely = closest(node.value, words) if isinstance(node.value, str) else None
        say = f" - did you mean '{likely}'?" if likely else ""
        self.faults.add(
            "GF206", f"{what} must be {signature.type_name(annotation)}, got {node.shown()}{say}", node.mark
        )
        return None

    def _path(self, node: Node) -> Path:
        if self.written_paths:
            return Path(node.value)
        return folder(node.copied or node.mark).joinpath(os.path.expanduser(node.value)).absolute()

    def _ref(self, node: Node, kind: str, scope: Scope, what: str) -> RoleReference | None:
        ref: Node = node.value["ref"]
        unknown = [key for key in node.value if key != "ref"]
        if unknown:
            say = f"a reference takes no further keys, got {quoted(unknown)}"
            self.faults.add("GF203", say, node.value[unknown[0]].entry_mark)
        role = ref.value if isinstance(ref.value, str) else str(ref.plain())
        energies = [name for name in {**scope.roles, **scope.later} if name.startswith("energy.")]
        if role == "energy" and len(energies) == 1:
            role = energies[0]
        if role in scope.roles:
            if scope.roles[role] == kind:
                return RoleReference(role, _origin(ref))
            say = f"{what} takes {article(kind)}; '{role}' is {article(scope.roles[role])}"
        elif role in scope.later:
            say = f"'{role}' is built later than this part, or is this part itself"
        else:
            there = [name for name, its_kind in scope.roles.items() if its_kind == kind] or list(scope.roles)
            say = f"the recipe has no part '{shown(role)}'{did_you_mean(role, there)}"
        self.faults.add("GF209", say, ref.mark)
        return None

    def _wrong_type(self, node: Node, annotation: Any, what: str) -> None:
        options = alternatives(annotation)
        kinds = [kind for option in options if (kind := interface_kind(option))]
        if kinds and isinstance(node.value, str):
            self._no_block(node, kinds[0], what)
            return
        hint = ""
        if int in options and isinstance(node.value, float) and node.value.is_integer():
            hint = f"write {int(node.value)}"
        elif str in options and not (node.is_map or node.is_list):
            hint = "quote it to make it a string"
        elif any(typing.get_origin(option) in (list, Sequence, tuple) for option in options) and not node.is_list:
            hint = "write a list: [ ... ]"
        self.faults.add(
            "GF205", f"{what} must be {signature.type_name(annotation)}, got {node.shown()}", node.mark, hint
        )


def _fits(node: Node, option: Any) -> bool:
    """Whether a value has the outer form of a type."""
    origin, value = typing.get_origin(option), node.value
    if option is Any:
        return True
    if node.is_map:
        return interface_kind(option) is not None or is_settings(option) or (origin or option) in (dict, Mapping)
    if node.is_list:
        return (origin or option) in (list, tuple, Sequence)
    if origin is Literal:
        return any(type(choice) is type(value) for choice in typing.get_args(option))
    if option is float:
        return type(value) in (int, float)
    return type(value) is (str if option is Path else option)


def _origin(node: Node) -> str:
    return f"{node.mark}" if node.copied is None else f"{node.mark}, copied from {node.copied}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
