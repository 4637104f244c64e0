"""Fixtures for pytest: load them by ``pytest_plugins = ["genfw.testing.fixtures"]`` in the top ``conftest.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from genfw.models.model import Model
from genfw.testing.suite import generator_of
from genfw.testing.tiny import tiny_model as build_tiny_model

if TYPE_CHECKING:
    from genfw.engine.result import RunResult

#: A whole run in about a second: a VAE, then an energy on its data, then samples.
TINY_RECIPE = """\
genfw: 1
name: tiny
seed: 0
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [8], sigma: 0.3}
encoder: {use: mlp, hidden: [8]}
energy: {use: mlp, hidden: [8]}
train:
  - {use: elbo, steps: 4, batch: 16, optimizer: {use: adam, lr: 1e-3}}
  - use: contrastive
    steps: 4
    batch: 16
    optimizer: {use: adam, lr: 1e-3}
    negatives: {sampler: {use: langevin, step_size: 1e-2, steps: 2}, start: {use: noise}}
sample: {count: 16, sampler: {use: langevin, step_size: 1e-2, steps: 2}, start: {use: noise}}
engine: {accelerator: cpu, log_every: 1, checkpoint_every: 2}
"""


@pytest.fixture
def generator() -> torch.Generator:
    """A generator on the CPU, the same for every test."""
    return generator_of(0)


@pytest.fixture
def tiny_model() -> Model:
    """The smallest model with every part: 2-D latent, 2-D data, energies on both."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run of :data:`TINY_RECIPE`, shared by all tests; do not write into its directory."""
    from genfw.engine.run import run

    root = tmp_path_factory.mktemp("tiny-run")
    recipe = root / "tiny.yaml"
    recipe.write_text(TINY_RECIPE)
    return run(recipe, root=root)
