"""The JSON Schema says what the binder says."""

import json

import jsonschema
import pytest

from genfw.plugins import load_plugins
from genfw.recipes.check import check
from genfw.recipes.find import shipped_names
from genfw.recipes.recipe import load_recipe, parse_recipe
from genfw.recipes.schema import export
from genfw.recipes.yaml_nodes import dump
from places import ROOT
from recipe_parts import RECIPE, toys

RECIPES = ROOT / "recipes"
TOYS = export(toys())
BUILT_INS = load_plugins(enabled=False)
BUILT_IN = export(BUILT_INS)
VALIDATOR = jsonschema.Draft202012Validator(TOYS)


def test_it_is_a_valid_schema_of_its_draft():
    for schema in (TOYS, BUILT_IN):
        jsonschema.Draft202012Validator.check_schema(schema)
        json.dumps(schema, allow_nan=False)


def test_recipes_and_resolved_recipes_are_valid():
    recipe = parse_recipe(RECIPE)
    VALIDATOR.validate(recipe.plain())
    VALIDATOR.validate(check(recipe, toys()).plain())
    VALIDATOR.validate(check(recipe, toys(), smoke=True).plain())
    # As an editor reads it: before ${...} is copied, and with 1_000 a string.
    text = {"vars": {"d": 4}, "prior": {"use": "toy", "dim": "${vars.d}"}, "train": [{"use": "fit", "steps": "1_000"}]}
    VALIDATOR.validate(text)


@pytest.mark.parametrize("name", shipped_names([RECIPES]))
def test_shipped_recipes_are_valid(name):
    plain = load_recipe(name, search=[RECIPES]).plain()
    assert [error.message for error in jsonschema.Draft202012Validator(BUILT_IN).iter_errors(plain)] == []
    resolved = check(parse_recipe(dump(plain)), BUILT_INS).plain()
    assert [error.message for error in jsonschema.Draft202012Validator(BUILT_IN).iter_errors(resolved)] == []
    assert check(parse_recipe(dump(resolved)), BUILT_INS).plain() == resolved


@pytest.mark.parametrize(
    "recipe",
    [
        {"sed": 1},
        {"seed": -1},
        {"energy": {"use": "mpl"}},
        {"energy": {"use": "langevin"}},
        {"energy": {"use": "mlp", "wdith": 3}},
        {"energy": {"use": "mlp", "width": 3.5}},
        {"energy": {"use": "mlp", "on": "dta"}},
        {"energy": {"use": "mlp", "data_shape": [2]}},
        {"energy": {"width": 3}},
        {"prior": {"use": "toy"}},
        {"train": {"use": "fit", "steps": 3}},
        {"train": [{"use": "fit", "steps": 3, "chain": {"sampler": {"use": "langevin", "step_size": 1}}}]},
        {"sample": {"start": "noise"}},
    ],
)
def test_what_the_binder_refuses_the_schema_refuses(recipe):
    assert not VALIDATOR.is_valid(recipe)


def test_a_recipe_that_extends_may_leave_out_what_its_parent_says():
    VALIDATOR.validate({"extends": "base", "energy": {"width": 3}, "prior": {"use": "toy"}, "engine": {"keep": 4}})
    assert not VALIDATOR.is_valid({"extends": "base", "prior": {"use": "toy", "dmi": 3}})


def test_definitions_carry_descriptions_and_defaults():
    energy = TOYS["$defs"]["whole.energy.toys.mlp"]
    assert energy["properties"]["width"]["default"] == 64
    assert energy["properties"]["width"]["description"] == "Width of the hidden layer."
    assert energy["properties"]["hidden"]["default"] == [200, 200]
    assert "data_shape" not in energy["properties"]
    assert "whole.energy.toys.lost" not in TOYS["$defs"]  # it can't be loaded
