"""A component in one line, for protocols and messages."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["describe"]


def describe(component: object) -> str:
    """A component as one line: ``langevin(step_size=0.005, steps=10)``.

    Arguments:
        component: The block of a recipe, said in full; or an object, of which the scalars are said that its
            constructor takes and it still holds.
    """
    if isinstance(component, Mapping):
        name = str(component.get("use") or component.get("ref") or "")
        arguments = {key: value for key, value in component.items() if key not in ("use", "ref")}
    else:
        name = type(component).__name__
        arguments = {key: getattr(component, key, None) for key in inspect.signature(type(component)).parameters}
        arguments = {key: value for key, value in arguments.items() if isinstance(value, bool | int | float | str)}
    parts = [f"{key}={_brief(value)}" for key, value in arguments.items() if value is not None]
    return f"{name}({', '.join(parts)})" if parts else name


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return describe(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_brief(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
