"""Every shipped recipe runs in smoke mode to its report, says what it is, and reads back as it was resolved."""

import json
from typing import Any

import pytest

from component_names import named_components
from genfw.engine import run as engine
from genfw.plugins import load_plugins
from genfw.recipes.check import check
from genfw.recipes.find import shipped_names
from genfw.recipes.recipe import load_recipe
from genfw.recipes.rehearse import rehearse
from genfw.recipes.schema import SCHEMA_URL
from places import ROOT

FOLDER = ROOT / "recipes"
RECIPES = shipped_names([FOLDER])


#: Where components stand that run in smoke mode; data sets do not, since made-up data take their place.
_ROLES = {"prior", "decoder", "encoder", "energy", "amortizer", "sampler", "start", "train", "evaluate"}


def _smoke_cases() -> list[Any]:
    """All recipes, small images first; any whose components were all run before it is left to ``-m slow``."""
    seen: set[str] = set()
    cases = []
    recipes = {name: load_recipe(name, search=[FOLDER]).plain() for name in RECIPES}
    for name in sorted(RECIPES, key=lambda name: recipes[name]["data"].get("size") or 0):
        named = named_components(recipes[name])
        new = {one for one in named if one.partition("/")[0] in _ROLES} - seen
        seen |= new
        cases.append(pytest.param(name, marks=() if new else pytest.mark.slow))
    return cases


@pytest.fixture(scope="module")
def registry():
    return load_plugins(enabled=False)


@pytest.fixture
def without_data(monkeypatch, tmp_path):
    """A user who has no data set yet."""
    monkeypatch.setenv("GENFW_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("name", _smoke_cases())
@pytest.mark.usefixtures("without_data")
def test_it_runs_in_smoke_mode(name, tmp_path, registry):
    result = engine.run(name, root=tmp_path, smoke=True, registry=registry)
    assert result.status == "finished"
    log = result.directory / "metrics.jsonl"  # absent where a recipe trains nothing
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    stages = load_recipe(name, search=registry.recipe_dirs()).plain().get("train", [])
    assert {row["stage"] for row in rows} == set(range(len(stages)))
    assert (result.directory / "report.html").stat().st_size > 10_000
    failed = {one.name: one.note for one in result.results if one.value is None and "failed" in one.note}
    assert not failed
    # A paper's number that no metric reports would stand beside nothing.
    promised = load_recipe(name, search=registry.recipe_dirs()).plain().get("paper", {})
    expected = {name for name, value in promised.get("expect", {}).items() if value is not None}
    assert expected <= {one.name for one in result.results}


@pytest.mark.parametrize("name", RECIPES)
def test_its_name_is_its_file_and_it_says_what_it_is(name, registry):
    recipe = load_recipe(name, search=registry.recipe_dirs())
    assert recipe.name == name
    assert len(recipe.plain()["description"]) > 40


@pytest.mark.parametrize("name", RECIPES)
def test_its_resolved_form_resolves_to_itself(name, registry, tmp_path):
    resolved = check(load_recipe(name, search=registry.recipe_dirs()), registry)
    (tmp_path / "resolved.yaml").write_text(resolved.dump())
    again = check(load_recipe(tmp_path / "resolved.yaml"), registry)
    assert again.plain() == resolved.plain()


def test_every_recipe_names_the_schema_that_editors_read():
    head = f"# yaml-language-server: $schema={SCHEMA_URL}\n"
    files = sorted(FOLDER.rglob("*.yaml"))
    assert files
    assert [path.name for path in files if not path.read_text(encoding="utf-8").startswith(head)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_its_parts_fit_together(name, registry):
    rehearse(check(load_recipe(name, search=registry.recipe_dirs()), registry))
