"""Mutated recipes: whatever is wrong with one, genfw says what and where, soon. ``fuzz_recipes.py`` tries more."""

import pytest

from attempts import Tally
from genfw.plugins import load_plugins
from recipe_mutations import MUTATIONS, attempt, mutate, signatures_kept

#: Recipes of each kind: 840 in all, which is what fits into 20 s.
COUNT = 40

#: Kind -> what fails today. Whoever mends it removes the line.
FAILING = {
    "extends": "an overlong name under `extends` is an OSError",
    "copy": "a chain of 1,500 copies is a RecursionError",
    "path": "`~nobody-here/x.py` and overlong paths are exceptions",
}


@pytest.fixture(scope="module")
def registry():
    with signatures_kept():
        yield load_plugins(enabled=False)


def _marked(kind):
    return pytest.param(kind, marks=pytest.mark.xfail(reason=FAILING[kind]) if kind in FAILING else ())


@pytest.mark.parametrize("kind", [_marked(kind) for kind in (*MUTATIONS, "mixed")])
def test_a_mutated_recipe_is_checked_or_refused_at_its_place(kind, registry):
    tally = Tally()
    for seed in range(COUNT):
        case = mutate(kind, seed)
        tally.add(case.label, attempt(case, registry))
    tally.show()
    assert tally.failed == 0, tally.summary("mutations")
