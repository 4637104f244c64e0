"""Numbers that no run could use are refused where they stand, before anything is trained."""

import pytest

from genfw.errors import RecipeError
from genfw.plugins import load_plugins
from genfw.recipes.check import check
from genfw.recipes.compose import compose
from genfw.recipes.recipe import parse_recipe

RECIPE = """\
genfw: 1
name: numbers
seed: 0
data: {use: digits}
prior: {use: standard-normal, dim: 4}
decoder: {use: mlp, hidden: [8]}
encoder: {use: mlp, hidden: [8]}
energy: {use: mlp, hidden: [8]}
train:
  - {use: elbo, steps: 4, batch: 8, optimizer: {use: adam, lr: 1e-3}}
sample: {count: 4, sampler: {use: langevin, step_size: 0.1}}
health: {energy_gap: 100.0}
engine: {threads: 1, devices: 1}
"""
OPTIMIZER = "{use: adam, lr: 1e-3}"


def refuse(text):
    registry = load_plugins(enabled=False)
    with pytest.raises(RecipeError) as caught:
        compose(check(parse_recipe(text), registry))
    (fault,) = caught.value.faults
    return fault


def test_the_recipe_itself_composes():
    compose(check(parse_recipe(RECIPE), load_plugins(enabled=False)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("energy_gap: 100.0", "energy_gap: .nan", "'energy_gap' of HealthSettings must be a finite number, got nan"),
        ("energy_gap: 100.0", "energy_gap: .inf", "must be a finite number, got inf"),
        ("energy_gap: 100.0", "lr_factor: 0", "lr_factor must lie in (0, 1], got 0"),
        (OPTIMIZER, "{use: adam, lr: .nan}", "'lr' of Adam must be a finite number, got nan"),
        (OPTIMIZER, "{use: adam, lr: .inf}", "'lr' of Adam must be a finite number, got inf"),
        (OPTIMIZER, "{use: adam, lr: 1e30}", "lr must be at most 1e+15, got 1e+30"),
        (OPTIMIZER, "{use: adam, lr: -1e-3}", "lr must be above 0, got -0.001"),
        (OPTIMIZER, "{use: adam, weight_decay: .inf}", "'weight_decay' of Adam must be a finite number, got inf"),
        (OPTIMIZER, "{use: adam, betas: [0.9, .nan]}", "item 1 of 'betas' of Adam must be a finite number, got nan"),
        (OPTIMIZER, "{use: adam, warmup: -5}", "warmup must be at least 0, got -5"),
        (OPTIMIZER, "{use: sgd, warmup: -5}", "warmup must be at least 0, got -5"),
        (OPTIMIZER, "{use: adam, final: -.inf}", "'final' of Adam must be a finite number, got -inf"),
        ("step_size: 0.1", "step_size: .inf", "'step_size' of Langevin must be a finite number, got inf"),
        ("step_size: 0.1", "step_size: 1e200", "step_size must be at most 1e+15, got 1e+200"),
        ("count: 4", f"count: {10**18}", f"count must be at most 1e+15, got {10**18}"),
        ("threads: 1", "threads: -1", "threads must lie in [0, 1024], got -1"),
        ("threads: 1", f"threads: {10**6}", "threads must lie in [0, 1024], got 1000000"),
        ("devices: 1", "devices: 0", "devices must lie in [1, 1024], got 0"),
        ("devices: 1", "devices: -2", "devices must lie in [1, 1024], got -2"),
        ("seed: 0", f"seed: {2**70}", f"'seed' is a whole number from 0 to 2^63 - 1, got {2**70}"),
        ("seed: 0", "seed: -1", "'seed' is a whole number from 0 to 2^63 - 1, got -1"),
        ("{use: mlp, hidden: [8]}", "{use: mlp, hidden: [8], sigma: 1e30}", "sigma must be at most 1e+15, got 1e+30"),
        ("{use: mlp, hidden: [8]}", "{use: mlp, hidden: [8], sigma: .nan}", "must be a finite number, got nan"),
        ("{use: standard-normal, dim: 4}", f"{{use: nvae, blocks: {10**18}}}", "blocks must lie in [0, 16], got 1"),
        ("{use: standard-normal, dim: 4}", f"{{use: nvae, scales: {10**18}}}", "scales must lie in [1, 16], got 1"),
        ("{use: standard-normal, dim: 4}", f"{{use: standard-normal, dim: {10**18}}}", "dim must be at most 1e+15"),
    ],
)
def test_numbers_out_of_range_are_refused_at_their_place(old, new, message):
    fault = refuse(RECIPE.replace(old, new, 1))
    assert message in fault.message
    assert RECIPE.splitlines()[fault.line - 1].find(old) >= 0


def test_a_decoder_of_large_scale_composes():
    compose(check(parse_recipe(RECIPE.replace("[8]}", "[8], sigma: 1000.0}", 1)), load_plugins(enabled=False)))


def test_devices_may_be_all_there_are():
    compose(check(parse_recipe(RECIPE.replace("devices: 1", "devices: auto")), load_plugins(enabled=False)))
