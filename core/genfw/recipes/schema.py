"""JSON Schema of recipes, from the same constructor signatures that the binder reads: for completion in editors.

A recipe that ``extends`` another may omit what its parent has. So every definition exists twice: under ``whole``, and
without its required keys under ``part``.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from genfw.errors import ContractError, PluginError
from genfw.plugins.component import KINDS, Component
from genfw.plugins.registry import Registry
from genfw.plugins.signature import Parameter, alternatives, interface_kind, is_settings, parameters
from genfw.recipes.bound_values import PlainValue
from genfw.recipes.check import LISTS, ROLES, SETTINGS
from genfw.recipes.recipe import FORMAT, SECTIONS

Schema = dict[str, Any]

#: Where the documentation site has the schema of the built-in components.
SCHEMA_URL = "https://genfw.github.io/genfw/recipe.schema.json"

_NUMBER = "^[-+]?[0-9]+(_[0-9]+)+$"
_TEXTS: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_SECTIONS: Mapping[str, Schema] = {
    "genfw": {"const": FORMAT, "description": "Version of the recipe format."},
    "name": {"type": "string", "description": "Names the folder of the recipe's runs."},
    "description": {
        "type": "string",
        "description": "What it is; `genfw list --recipes` shows its first line.",
    },
    "tried": {
        "type": "object",
        "properties": {"hardware": {"type": "string"}, "hours": {"type": "number", "exclusiveMinimum": 0}},
        "required": ["hardware", "hours"],
        "additionalProperties": False,
        "description": "What a run to the end took; absent where nobody has run it to the end.",
    },
    "extends": {**_TEXTS, "description": "Recipes below this one: files, or names of shipped recipes."},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "description": "Source of all randomness."},
    "smoke": {"type": "boolean", "description": "Written by genfw: the resolved recipe of a smoke run."},
    "vars": {"type": "object", "description": "Values to copy with ${vars.NAME}."},
    "plugins": {**_TEXTS, "description": "One-file plugins, relative to this file."},
    "requires": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": 'Packages and the versions that will do, such as {genfw-quad: ">=0.2"}.',
    },
    "paper": {"type": "object", "description": "The paper this follows, and the numbers it expects."},
    "components": {"type": "object", "description": "Written by genfw: provider and version of each component."},
}

#: What the other sections are.
_DESCRIPTIONS: Mapping[str, str] = {
    "data": "The data set.",
    "prior": "The law of the latent, as a function of noise.",
    "decoder": "The law of the data given the latent.",
    "encoder": "An approximation of the latent's law given data, for the stages that need one.",
    "energy": "One energy or several, on data or on the latent: low where samples should lie.",
    "amortizer": "A model that draws positions where long chains would end.",
    "train": "The stages of training, in turn.",
    "sample": "How samples are drawn after training.",
    "evaluate": "The metrics.",
    "trackers": "Where rows go besides the run directory.",
    "engine": "The run as a whole: device, precision, logging, checkpoints.",
    "health": "Which logged rows are unhealthy, and what follows.",
}


def export(registry: Registry) -> Schema:
    """The schema of recipes over the components of a registry (JSON Schema, draft 2020-12).

    Components that can't be loaded are left out. ``${...}`` is allowed wherever a value is.

    Arguments:
        registry: Registry of the components.
    """
    definitions: Schema = {
        "reference": {"type": "string", "pattern": r"^\s*\$\{[^}]+\}\s*$", "description": "Copies a value."},
    }
    for variant in ("whole", "part"):
        definitions.update(_Definitions(registry, variant == "part").all())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_URL,
        "title": "genfw recipe",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/part.recipe"},
        "else": {"$ref": "#/$defs/whole.recipe"},
        "$defs": definitions,
    }


class _Definitions:
    def __init__(self, registry: Registry, part: bool) -> None:
        self.registry, self.part = registry, part
        self.prefix = "part" if part else "whole"
        self.settings: dict[str, Schema] = {}

    def all(self) -> Schema:
        result: Schema = {f"{self.prefix}.recipe": self._recipe()}
        for kind in KINDS:
            names: list[str] = []
            for component in self.registry.components:
                if component.kind == kind and (schema := self._component(component)) is not None:
                    name = f"{self.prefix}.{kind}.{component.provider}.{component.name}"
                    result[name] = schema
                    names.append(name)
            result[f"{self.prefix}.{kind}"] = self._kind(names)
        return {**result, **self.settings}

    def _recipe(self) -> Schema:
        properties: Schema = {}
        for section in SECTIONS:
            if section in _SECTIONS:
                properties[section] = _SECTIONS[section]
                continue
            if section in SETTINGS:
                properties[section] = self._optional(self._settings(SETTINGS[section]))
            elif section in LISTS:
                properties[section] = self._optional({"type": "array", "items": self._ref(LISTS[section])})
            else:
                block = self._ref(ROLES[section])
                options = [block, {"type": "array", "items": block}] if section == "energy" else [block]
                properties[section] = self._optional(*options)
            properties[section]["description"] = _DESCRIPTIONS[section]
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _ref(self, kind: str) -> Schema:
        return {"$ref": f"#/$defs/{self.prefix}.{kind}"}

    def _optional(self, *schemas: Schema) -> Schema:
        return {"anyOf": [*schemas, {"type": "null"}, {"$ref": "#/$defs/reference"}]}

    def _kind(self, names: Sequence[str]) -> Schema:
        options: list[Schema] = [{"$ref": f"#/$defs/{name}"} for name in names]
        if self.part:
            options.append({"type": "object", "not": {"required": ["use"]}})
        return {"anyOf": [*options, {"$ref": "#/$defs/reference"}]}

    def _component(self, component: Component) -> Schema | None:
        try:
            known = parameters(self.registry.load_class(component))
        except (PluginError, ContractError):
            return None
        names = [component.name, *component.aliases]
        uses = [*names, *(f"{component.provider}/{name}" for name in names if component.provider)]
        use = {"enum": uses} if len(uses) > 1 else {"const": uses[0]}
        return {"title": f"{component.kind} {component.name}", "description": component.summary} | self._object(
            known, {"use": use}, ["use"]
        )

    def _settings(self, cls: type) -> Schema:
        name = f"{self.prefix}.settings.{cls.__module__}.{cls.__qualname__}"
        if name not in self.settings:
            self.settings[name] = {}  # entered first, for classes that contain themselves
            self.settings[name] = self._object(parameters(cls), {}, [])
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, known: Sequence[Parameter], head: Schema, always: list[str]) -> Schema:
        properties = dict(head)
        required = list(always)
        for parameter in known:
            if parameter.injected:
                continue
            properties[parameter.name] = self._parameter(parameter)
            takes_role = any(interface_kind(option) in ROLES.values() for option in alternatives(parameter.annotation))
            if parameter.required and not takes_role and not self.part:
                required.append(parameter.name)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _parameter(self, parameter: Parameter) -> Schema:
        schema = self.type(parameter.annotation)
        if parameter.description:
            schema["description"] = parameter.description
        plain = None if parameter.required else PlainValue(parameter.default, "").plain()
        written = plain is None or isinstance(plain, bool | int | float | str | list | dict)
        if not parameter.required and written and plain not in (math.inf, -math.inf):
            schema["default"] = plain
        return schema

    def type(self, annotation: Any) -> Schema:
        """Schema of a type's values, or of a reference to one."""
        return {"anyOf": [*self._options(annotation), {"$ref": "#/$defs/reference"}]}

    def _options(self, annotation: Any) -> Iterator[Schema]:
        for option in alternatives(annotation):
            origin, arguments = typing.get_origin(option), typing.get_args(option)
            kind = interface_kind(option)
            if kind is not None:
                yield self._ref(kind)
                if kind in ROLES.values():
                    ref = {"properties": {"ref": {"type": "string"}}, "required": ["ref"]}
                    yield {"type": "object", "additionalProperties": False, **ref}
            elif is_settings(option):
                yield self._settings(option)
            elif origin is Literal:
                yield {"enum": list(arguments)}
            elif option is Any:
                yield {}
            elif (origin or option) in (list, tuple, Sequence):
                yield self._array(option)
            elif (origin or option) in (dict, Mapping):
                yield {"type": "object", "additionalProperties": self.type(arguments[1]) if arguments else True}
            else:
                yield from _scalar(option)

    def _array(self, option: Any) -> Schema:
        arguments = typing.get_args(option)
        if not arguments:
            return {"type": "array"}
        if typing.get_origin(option) is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            items = [self.type(item) for item in arguments]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        return {"type": "array", "items": self.type(arguments[0])}


def _scalar(option: Any) -> Iterator[Schema]:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
    yield {"type": names[option]}
    if option in (int, float):
        # For editors that follow YAML 1.2 strictly, 200_000 is a string.
        yield {"type": "string", "pattern": _NUMBER}
