"""Hostile files of every kind: none runs code, takes long or much, or ends in an exception. ``hostile_files.py`` has
them all.
"""

import warnings

import pytest

import hostile_checkpoints
import hostile_data
import hostile_recipes
import hostile_runs
from attempts import in_children
from hostile import attempt
from places import SHARED

#: Where the runs lie that hostile files are put into.
BASE = {}


@pytest.fixture(scope="module", autouse=True)
def _runs(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BASE["runs"] = hostile_runs.prepare(tmp_path_factory.mktemp("base"))


#: Name -> what happens today. Whoever mends it removes the line.
FAILING = {
    "recipe: an overlong plugin": "[Errno 36] File name too long: 'x...",
    "recipe: a plugin of nobody's": "RuntimeError: Could not determine home",
    "recipe: an overlong recipe": "[Errno 36] File name too long: 'x...",
    "checkpoint: weights that are not finite, as vaebm-energy": "accepted",
    "run: STATUS of a mapping of lists, under runs": "AttributeError: 'list' object has no attribute",
}


CASES = [
    case
    for cases in (
        hostile_recipes.cases(),
        hostile_checkpoints.cases(),
        hostile_data.cases(),
        hostile_runs.cases(lambda: BASE["runs"]),
    )
    for case in cases
    if case.quick
]


def _marked(case):
    mark = pytest.mark.xfail(reason=FAILING[case.name]) if case.name in FAILING else ()
    return pytest.param(case, marks=mark, id=case.name)


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_a_hostile_file_is_refused_soon_and_in_words(case):
    ((_, found),) = in_children([case], attempt, share=1)
    assert found.fine, found


@pytest.mark.skipif(not SHARED.is_dir(), reason="some inputs are shared beside this checkout")
def test_what_fails_is_still_tried():
    assert FAILING.keys() <= {case.name for case in CASES}
