"""Which components a recipe names."""

from collections.abc import Iterator
from typing import Any


def named_components(plain: Any, role: str = "") -> set[str]:
    """Every component that a recipe, as plain values, names: ``role/name``, by the place it is named at."""
    return set(_names(plain, role))


def _names(value: Any, role: str) -> Iterator[str]:
    if isinstance(value, dict):
        if "use" in value:
            yield f"{role}/{value['use']}"
        for key, part in value.items():
            yield from _names(part, key)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _names(part, role)
