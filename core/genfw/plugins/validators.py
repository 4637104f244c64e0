"""Rules for the arguments of components and settings, as validators of attrs fields.

.. code-block:: python

    @attrs.define(kw_only=True, eq=False, slots=False)
    class Descent(Sampler):
        step_size: float = attrs.field(validator=positive)
        steps: int = attrs.field(default=20, validator=at_least(1))

NaN keeps no rule, and neither do infinity and numbers beyond :data:`LARGEST`. ``None`` passes every rule: the
annotation says whether an argument may be absent. A list or tuple passes if each of its items does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from genfw.errors import ContractError

#: No argument is larger: the square of one is then a number in float32, and no count of this size can be worked off.
LARGEST = 1e15


@attrs.frozen
class Rule:
    """A rule for a number.

    Arguments:
        words: What the number must do, as in "must be above 0".
        holds: Whether a number passes; written so that it is false for NaN.
    """

    words: str
    holds: Callable[[float], bool]

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Check a field of an attrs class."""
        self.check(**{attribute.alias or attribute.name: value})

    def check(self, **values: Any) -> None:
        """Check arguments by name, for a hand-written constructor.

        Raises:
            ContractError: Names the argument, the rule and the value.
        """
        for name, value in values.items():
            items = value if isinstance(value, list | tuple) else (value,)
            if not all(item is None or self.holds(item) for item in items):
                raise ContractError(f"{name} must {self.words}, got {value}")
            if not all(item is None or item <= LARGEST for item in items):
                raise ContractError(f"{name} must be at most {LARGEST:g}, got {value}")
            if not all(item is None or item >= -LARGEST for item in items):
                raise ContractError(f"{name} must be at least {-LARGEST:g}, got {value}")


def at_least(low: float) -> Rule:
    """From ``low`` up, ``low`` included."""
    return Rule(f"be at least {low}", lambda value: value >= low)


def within(low: float, high: float, ends: str = "[]") -> Rule:
    """From ``low`` to ``high``.

    Arguments:
        low: Lower end.
        high: Upper end.
        ends: Brackets of the interval: ``[`` or ``]`` includes an end, ``(`` or ``)`` excludes it.
    """
    above = operator.ge if ends[0] == "[" else operator.gt
    below = operator.le if ends[1] == "]" else operator.lt
    return Rule(f"lie in {ends[0]}{low}, {high}{ends[1]}", lambda value: above(value, low) and below(value, high))


#: Above zero.
positive = Rule("be above 0", lambda value: value > 0)


def distinct(instance: object, attribute: attrs.Attribute[Any], value: Sequence[Any]) -> None:
    """Refuse a list that is empty, or names something twice.

    Raises:
        ContractError: Names the argument and what it holds.
    """
    if not value or len(set(value)) < len(value):
        raise ContractError(f"{attribute.alias} must hold at least one entry, each once, got {list(value)}")
