"""Rules for arguments: what passes, what is refused, and in which words."""

import math

import attrs
import pytest

from genfw.errors import ContractError
from genfw.plugins.validators import at_least, distinct, positive, within


@attrs.define(kw_only=True, eq=False, slots=False)
class Settings:
    size: int | None = attrs.field(default=None, validator=at_least(1))
    rate: float = attrs.field(default=0.5, validator=within(0, 1, "(]"))
    scale: float = attrs.field(default=1.0, validator=positive)
    betas: tuple[float, ...] = attrs.field(default=(0.0, 0.5), validator=within(0, 1, "[)"))
    names: tuple[str, ...] = attrs.field(default=("a",), validator=distinct, alias="name")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"size": 1}, {"rate": 1}, {"rate": 1e-9}, {"scale": 1e15}, {"betas": ()}, {"betas": [0.99]}],
)
def test_what_keeps_the_rules_passes(arguments) -> None:
    Settings(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": math.nan}, "size must be at least 1, got nan"),
        ({"rate": 0.0}, "rate must lie in (0, 1], got 0.0"),
        ({"rate": 1.5}, "rate must lie in (0, 1], got 1.5"),
        ({"rate": math.nan}, "rate must lie in (0, 1], got nan"),
        ({"scale": 0.0}, "scale must be above 0, got 0.0"),
        ({"scale": math.nan}, "scale must be above 0, got nan"),
        ({"scale": math.inf}, "scale must be at most 1e+15, got inf"),
        ({"size": 10**400}, f"size must be at most 1e+15, got {10**400}"),
        ({"betas": (0.0, 1.0)}, "betas must lie in [0, 1), got (0.0, 1.0)"),
        ({"betas": [math.nan]}, "betas must lie in [0, 1), got [nan]"),
        ({"name": ()}, "name must hold at least one entry, each once, got []"),
        ({"name": ("a", "b", "a")}, "name must hold at least one entry, each once, got ['a', 'b', 'a']"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(arguments, message) -> None:
    with pytest.raises(ContractError) as caught:
        Settings(**arguments)
    assert str(caught.value) == message


def test_rules_can_be_asked_by_name() -> None:
    at_least(2).check(rows=2, samples=None)
    with pytest.raises(ContractError, match="samples must be at least 2, got 1"):
        at_least(2).check(rows=2, samples=1)
