"""Mutated recipes: whatever is wrong with one, genfw says what and where, soon. ``fuzz_recipes.py`` tries more."""

import pytest

from attempts import Tally
from genfw.plugins import load_plugins
from recipe_mutations import MUTATIONS, attempt, mutate

#: Recipes of each kind: 420 in all; `benchmarks/robustness/fuzz_recipes.py` tries 10,000.
COUNT = 20


@pytest.fixture(scope="module")
def registry():
    return load_plugins(enabled=False)


@pytest.mark.parametrize("kind", [*MUTATIONS, "mixed"])
def test_a_mutated_recipe_is_checked_or_refused_at_its_place(kind, registry):
    tally = Tally()
    for seed in range(COUNT):
        case = mutate(kind, seed)
        tally.add(case.label, attempt(case, registry))
    tally.show()
    assert tally.failed == 0, tally.summary("mutations")
