"""What a part of a model was built with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class Arguments:
    """The arguments of a constructor. Copies of the object share them, and pickles leave them out."""

    def __init__(self, positional: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None) -> None:
        self.positional, self.named = positional, dict(named or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Arguments], tuple[()]]:
        return Arguments, ()


class Constructed:
    """Remembers its constructor's arguments, so that a model composed by hand can be written as a recipe."""

    #: The arguments.
    built_with: Arguments

    def __new__(cls, *positional: Any, **named: Any) -> Self:
        """Create the object; the constructor that follows knows nothing of this."""
        self = super().__new__(cls)
        # nn.Module's own setter needs a constructor that has run.
        object.__setattr__(self, "built_with", Arguments(positional, named))
        return self
