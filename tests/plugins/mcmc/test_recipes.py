"""Kernels and starts as a recipe names them: whole runs of a few steps, trained, resumed and sampled from."""

from __future__ import annotations

from pathlib import Path

import pytest

from genfw.engine.run import run
from genfw.errors import RecipeError
from genfw.recipes.compose import compose
from genfw.recipes.recipe import load_recipe

HEAD = """
genfw: 1
name: chains
data: {use: pinwheel}
prior: {use: standard-normal, dim: 3}
decoder: {use: mlp, hidden: [8], sigma: 0.3}
encoder: {use: mlp, hidden: [8]}
engine: {log_every: 1, checkpoint_every: 2}
"""

CONTRASTIVE = """
energy: {use: mlp, on: data, hidden: [8]}
train:
  - use: contrastive
    space: %s
    steps: 4
    batch: 8
    optimizer: {use: adam, lr: 1e-3}
    negatives:
      sampler: %s
      start: %s
"""

ALTERNATING = """
energy: {use: mlp, on: latent, hidden: [8]}
train:
  - use: alternating
    steps: 4
    batch: 8
    optimizer: {use: sgd, lr: 1e-3}
    energy_optimizer: {use: adamw, lr: 1e-3}
    posterior:
      sampler: %s
      start: %s
    prior:
      sampler: %s
      start: %s
"""

RECIPES = {
    "hmc-mixture": CONTRASTIVE
    % (
        "noise",
        "{use: hmc, leapfrog_steps: 2, steps: 3}",
        "{use: mixture, weights: [0.7, 0.3], starts: [{use: replay, size: 20, groups: [z]}, {use: encoder}]}",
    ),
    "langevin-generator": CONTRASTIVE % ("data", "{use: langevin, step_size: 1e-3}", "{use: generator}"),
    "annealed-data": CONTRASTIVE
    % ("data", "{use: annealed-langevin, step_size: 1e-3, steps: 8}", "{use: data, noise: 0.1}"),
    "tempered-warm": ALTERNATING
    % (
        "{use: tempered-langevin, betas: [1, 0.5, 0], steps: 3}",
        "{use: warm}",
        "{use: ex2, local: {use: hmc}, local_steps: 2}",
        "{use: noise}",
    ),
    "isir-encoder": ALTERNATING
    % ("{use: isir, chunk: 2}", "{use: encoder}", "{use: mala, steps: 3, jitter: 0.5}", "{use: replay, size: 8}"),
}

AMORTIZER = """
import torch
from torch import nn
from genfw import Amortizer, Component, NoiseLayout, hookimpl


class Point(Amortizer):
    "One learned point."

    def __init__(self, latent_layout: NoiseLayout) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(latent_layout.size))

    def sample(self, count, *, generator):
        return self.point + torch.randn(count, len(self.point), generator=generator)

    def sample_given(self, x, *, generator):
        return self.sample(len(x), generator=generator)

    def loss(self, position, x, *, generator, hidden=None):
        return (position - self.point).square().sum(1)


@hookimpl
def genfw_components():
    return [Component("amortizer", "point", f"{__name__}:Point", "one point")]
"""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_with_it_runs(name, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(HEAD + RECIPES[name])
    result = run(path, root=tmp_path / "runs")
    assert result.status == "finished"


def test_a_recipe_with_an_amortizers_average_runs(tmp_path: Path) -> None:
    (tmp_path / "point.py").write_text(AMORTIZER)
    path = tmp_path / "amortized.yaml"
    chains = ALTERNATING % (
        "{use: langevin, step_size: 0.01, steps: 2}",
        "{use: amortizer, ema: 0.5, every: 2}",
        "{use: langevin, step_size: 0.01, steps: 2}",
        "[{use: amortizer}, {use: noise}]",
    )
    amortize = "    amortize: {optimizer: {use: adamax, lr: 1e-3}, updates: 2}\n"
    path.write_text(f"plugins: [./point.py]\namortizer: {{use: point}}\n{HEAD}{chains}{amortize}")
    assert run(path, root=tmp_path / "runs").status == "finished"


def test_settings_that_make_no_sense_are_faults_at_their_place(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(HEAD + CONTRASTIVE % ("noise", "{use: ex2, local: {use: mala, target: 2}}", "{use: noise}"))
    with pytest.raises(RecipeError, match=r"target must lie in \(0, 1\), got 2") as caught:
        compose(load_recipe(path))
    assert caught.value.faults[0].source.strip().startswith("sampler:")
