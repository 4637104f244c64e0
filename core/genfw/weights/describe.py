"""A model composed by hand, as the recipe that composes it again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import ContractError
from genfw.interfaces.construction import Constructed
from genfw.models.model import Model
from genfw.plugins import load_plugins
from genfw.plugins.component import Component, Settings
from genfw.plugins.registry import Registry
from genfw.plugins.signature import INJECTED
from genfw.recipes.check import check
from genfw.recipes.recipe import FORMAT, parse_recipe
from genfw.recipes.yaml_nodes import dump
from genfw.training.given import GIVEN


def describe(model: Model, registry: Registry | None = None, *, name: str = "model") -> dict[str, Any]:
    """The resolved recipe of a model: its parts with all arguments, and no training.

    Arguments:
        model: A model of registered components.
        registry: Plugins; the installed ones by default.
        name: The recipe's name.

    Raises:
        ContractError: A part is no registered component, or was built with a value that no recipe holds.
    """
    registry = registry or load_plugins()
    writer = _Writer(registry, model)
    recipe: dict[str, Any] = {"genfw": FORMAT, "name": name}
    recipe["data"] = {"use": GIVEN, "shape": list(model.data_shape)}
    for role, part in writer.roles.items():
        if role.startswith("energy."):
            recipe.setdefault("energy", []).append(writer.block(part))
        else:
            recipe[role] = writer.block(part)
    return check(parse_recipe(dump(recipe)), registry).plain()


class _Writer:
    def __init__(self, registry: Registry, model: Model) -> None:
        self.components = {component.target: component for component in registry.components}
        self.roles = model.roles

    def block(self, part: Any) -> dict[str, Any]:
        """A component as a block."""
        component = self._component(part)
        return {"use": f"{component.provider}/{component.name}".lstrip("/"), **self._arguments(part)}

    def _component(self, part: Any) -> Component:
        cls = type(part)
        found = self.components.get(f"{cls.__module__}:{cls.__qualname__}")
        if found is None:
            raise ContractError(
                f"{cls.__name__} is no registered component, so no recipe can build it again; make it a plugin "
                f"(`genfw new KIND NAME` writes one), or save its weights with safetensors.torch.save_model"
            )
        return found

    def _arguments(self, part: Any) -> dict[str, Any]:
        if isinstance(part, Constructed):
            built = part.built_with
            given = inspect.signature(type(part)).bind_partial(*built.positional, **built.named).arguments
        else:  # an attrs class, whose fields are its arguments
            given = {field.alias: getattr(part, field.name) for field in attrs.fields(type(part)) if field.init}
        return {
            name: self._value(value, f"'{name}' of {type(part).__name__}")
            for name, value in given.items()
            if name not in INJECTED
        }

    def _value(self, value: Any, what: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {str(key): self._value(item, what) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._value(item, what) for item in value]
        for role, part in self.roles.items():
            # A copy of a model still knows the parts that the original was built with.
            if value is part or type(value) is type(part):
                return {"ref": role}
        if isinstance(value, Settings):
            return self._arguments(value)
        if isinstance(value, Constructed) or attrs.has(type(value)):
            return self.block(value)
        raise ContractError(f"{what} is of type {type(value).__name__}, which no recipe holds; save its weights alone")
