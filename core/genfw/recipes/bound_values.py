"""A recipe's values bound to constructor parameters: the binder's result, from which objects are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from genfw.plugins.component import Component
from genfw.recipes.faults import Mark

#: Marks a default that YAML can't represent; the text omits it, and the constructor fills it again.
_UNWRITTEN = object()


class _Node:
    """What every bound value gives."""

    def plain(self) -> Any:
        """The value for YAML."""
        raise NotImplementedError

    def leaves(self, path: str) -> Iterator[tuple[str, Any, str]]:
        """``(path, value, origin)`` of every leaf."""
        raise NotImplementedError


@attrs.frozen
class PlainValue(_Node):
    """A scalar, or any plain value of an unstructured parameter.

    Arguments:
        value: The constructor's argument.
        origin: Its source, such as a file and line.
    """

    value: Any
    origin: str

    def plain(self) -> Any:
        return _plain(self.value)

    def leaves(self, path: str) -> Iterator[tuple[str, Any, str]]:
        yield path, self.plain(), self.origin


@attrs.frozen
class Items(_Node):
    """A list or tuple."""

    items: tuple[BoundValue, ...]
    make: type
    origin: str

    def plain(self) -> Any:
        return [item.plain() for item in self.items]

    def leaves(self, path: str) -> Iterator[tuple[str, Any, str]]:
        if all(isinstance(item, PlainValue) for item in self.items):
            yield path, self.plain(), self.origin
            return
        for index, item in enumerate(self.items):
            yield from item.leaves(f"{path}.{index}")


@attrs.frozen
class Table(_Node):
    """A mapping with free keys."""

    entries: Mapping[str, BoundValue]
    origin: str

    def plain(self) -> Any:
        return {key: entry.plain() for key, entry in self.entries.items()}

    def leaves(self, path: str) -> Iterator[tuple[str, Any, str]]:
        if not self.entries:
            yield path, {}, self.origin
        for key, entry in self.entries.items():
            yield from entry.leaves(f"{path}.{key}")


@attrs.frozen
class RoleReference(_Node):
    """A reference to a role's object, which is built once."""

    role: str
    origin: str

    def plain(self) -> Any:
        return {"ref": self.role}

    def leaves(self, path: str) -> Iterator[tuple[str, Any, str]]:
        yield path, self.plain(), self.origin


@attrs.frozen
class Block(_Node):
    """A component, or a Settings class, with its arguments.

    Arguments:
        cls: The class.
        arguments: Name -> bound value.
        injected: Names that genfw fills -> the argument where genfw has nothing to fill in.
        mark: Place of the block.
        component: The component; ``None`` for Settings.
        use: The value of ``use``; empty for Settings.
        origin: Source of ``use``.
    """

    cls: type
    arguments: Mapping[str, BoundValue]
    injected: Mapping[str, Any]
    mark: Mark
    component: Component | None = None
    use: str = ""
    origin: str = ""

    def plain(self) -> Any:
        head = {"use": self.use} if self.use else {}
        body = {name: bound.plain() for name, bound in self.arguments.items()}
        return {**head, **{name: value for name, value in body.items() if value is not _UNWRITTEN}}

    def leaves(self, path: str) -> Iterator[tuple[str, Any, str]]:
        if self.use:
            yield f"{path}.use", self.use, self.origin
        for name, bound in self.arguments.items():
            yield from bound.leaves(f"{path}.{name}")

    def components(self) -> Iterator[Block]:
        """The component blocks among this block and those within it."""
        if self.component is not None:
            yield self
        for bound in self.arguments.values():
            yield from components(bound)


BoundValue = PlainValue | Items | Table | RoleReference | Block


def components(bound: BoundValue) -> Iterator[Block]:
    """Every component block within a bound value."""
    if isinstance(bound, Block):
        yield from bound.components()
    elif isinstance(bound, Items):
        for item in bound.items:
            yield from components(item)
    elif isinstance(bound, Table):
        for entry in bound.entries.values():
            yield from components(entry)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        table = {key: _plain(entry) for key, entry in value.items()}
        writable = all(isinstance(key, str) for key in table) and _UNWRITTEN not in table.values()
        return table if writable else _UNWRITTEN
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return _UNWRITTEN if any(item is _UNWRITTEN for item in items) else items
    return _UNWRITTEN
