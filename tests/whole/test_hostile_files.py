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

#: Where the runs lie that hostile files are put into.
BASE = {}


@pytest.fixture(scope="module", autouse=True)
def _runs(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BASE["runs"] = hostile_runs.prepare(tmp_path_factory.mktemp("base"))


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_soon_and_in_words(case):
    ((_, found),) = in_children([case], attempt, share=1)
    assert found.fine, found
