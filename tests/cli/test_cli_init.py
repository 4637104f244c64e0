"""`init` writes a recipe that checks, from any shipped one, with the schema that editors read."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml


@pytest.mark.parametrize(
    "source", ["quickstart", "damc-fashion", pytest.param("vaebm-stacked-mnist", marks=pytest.mark.slow)]
)
def test_a_new_recipe_checks_and_says_nothing_of_its_source(call, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    said = call("init", "mine.yaml", "--from", source)
    assert said.code == 0
    assert said.out == f"{tmp_path / 'mine.yaml'}\n", "in full, however it was given"
    text = Path("mine.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    plain = yaml.safe_load(text)
    assert plain["name"] == "mine"
    assert not {"paper", "tried", "description"} & set(plain)
    assert call("check", "mine.yaml").code == 0
    if "extends" not in plain:  # JSON Schema knows YAML's 1_000 as a number only through genfw's reader
        schema = json.loads(Path("recipe.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)


def test_a_file_is_never_overwritten(call, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\n")
    said = call("init", path)
    assert said.code == 3
    assert f"{path} exists" in said.err
    assert path.read_text() == "seed: 3\n"


def test_a_name_that_no_run_could_have_is_refused(call, tmp_path):
    said = call("init", tmp_path / "my model.yaml")
    assert said.code == 3
    assert "'my model' can't name a recipe" in said.err
    assert list(tmp_path.iterdir()) == []
