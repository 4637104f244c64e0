"""docs/fidelity.yaml against the recipes: what a row says is what a run would do."""

import runpy

import pytest

from genfw.plugins import load_plugins
from genfw.recipes.check import check
from genfw.recipes.recipe import load_recipe
from places import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "write_fidelity.py"))
PARTS = SCRIPT["rows"]()
ROWS = [row for rows in PARTS.values() for row in rows]
CHECKED = sorted({recipe for row in ROWS for recipe in row.get("check", {})})


def _at(values, place):
    for key in place.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


@pytest.fixture(scope="module")
def registry():
    return load_plugins(enabled=False)


@pytest.mark.parametrize("name", CHECKED)
def test_recipes_have_the_values_of_the_table(name, registry):
    values = check(load_recipe(name, search=[ROOT / "recipes"]), registry).plain()
    wrong = {}
    for row in ROWS:
        for place, expected in row.get("check", {}).get(name, {}).items():
            try:
                found = _at(values, place)
            except (KeyError, IndexError, TypeError):
                found = "absent"
            found = list(found) if isinstance(found, tuple) else found
            if found != expected:
                wrong[f"{row['id']}: {place}"] = f"the table says {expected}, the recipe has {found}"
    assert wrong == {}


def test_every_row_has_a_verdict_and_none_is_open():
    assert {len(PARTS["VAEBM"]), len(PARTS["DAMC"]), len(PARTS["code"])} == {81, 79, 14}
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row["verdict"] in SCRIPT["VERDICTS"], row["id"]
        # Who is other says why.
        assert row["verdict"] in ("exact", "quoted") or row.get("note"), row["id"]


def test_the_page_is_that_of_the_table():
    page = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert page == SCRIPT["text"](), "run: python docs/write_fidelity.py"
