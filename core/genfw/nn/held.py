"""A value that the whole process holds for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Held(Generic[T]):
    """``with held(value):`` sets ``held.value`` inside the block; outside of all blocks it is ``None``."""

    def __init__(self) -> None:
        self.value: T | None = None

    @contextmanager
    def __call__(self, value: T | None) -> Iterator[None]:
        """Hold a value inside the block; ``None`` hides that of a block around it."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before
