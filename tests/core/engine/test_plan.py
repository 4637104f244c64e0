"""What a run will cost: counts are exact, times are extrapolated from a clock that the test holds."""

import time

import pytest
import torch

from genfw.engine import plan
from genfw.engine.plan import _Extrapolated, _limited, _OutOfTime, plan_run
from genfw.models.sampling import SampleSettings
from genfw.recipes.compose import compose
from tiny_recipe import TINY_VAE

RECIPE = (
    TINY_VAE
    + """energy: {use: mlp, on: latent, hidden: [8]}
train:
  - {use: elbo, steps: 1000, batch: 8, optimizer: {use: adam, lr: 1e-3}, tilted: false}
  - {use: elbo, steps: 3, batch: 8, optimizer: {use: adam, lr: 1e-3}, tilted: false}
sample: {count: 4}
engine: {accelerator: cpu, threads: 1, log_every: 10, checkpoint_every: 300, keep: 2}
"""
)


class Ticks:
    """A clock on which each reading comes a second after the last."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setattr(plan, "clock", Ticks())
    composition = compose(RECIPE)
    return composition, plan_run(composition, seconds=20.0)


def test_steps_are_timed_and_extrapolated(planned):
    _, found = planned
    long, short = found.stages
    # One reading a step: each takes a second, and twenty seconds are twenty steps.
    assert (long.name, long.steps, long.step_seconds) == ("elbo", 1000, pytest.approx(1.0, abs=0.2))
    assert 18 <= long.timed <= 23
    assert (short.steps, short.timed) == (3, 1)  # shorter than what would be timed
    assert long.saves == 4
    assert long.seconds == long.setup_seconds + 1000 * long.step_seconds + 4 * long.save_seconds
    assert found.training_seconds == long.seconds + short.seconds


def test_parameters_and_checkpoints_are_counted(planned):
    composition, found = planned
    count = sum(parameter.numel() for parameter in composition.model.parameters())
    assert sum(found.parameters.values()) == count
    assert set(found.parameters) <= {name for name, _ in composition.model.named_children()}
    trained = [p for part in (composition.model.decoder, composition.model.encoder) for p in part.parameters()]
    moments = 2 * 4 * sum(parameter.numel() for parameter in trained)
    weights = 4 * sum(value.numel() for value in composition.model.state_dict().values())
    assert found.stages[0].checkpoint_bytes == pytest.approx(weights + moments, rel=0.05)
    # The last stage keeps two, the others their last one.
    assert found.kept_bytes == found.stages[0].checkpoint_bytes + 2 * found.stages[1].checkpoint_bytes
    assert found.peak_bytes > 2**20


def test_like_tasks_and_batches_are_done_once(monkeypatch):
    monkeypatch.setattr(plan, "clock", Ticks())
    model = compose(RECIPE).model
    evaluation = _Extrapolated(model, settings=SampleSettings(count=10, batch=4))
    sizes = [len(batch.x) for batch in evaluation.sample_batches(10)]
    assert sizes == [4, 4, 2]
    assert evaluation.saved == 2.0  # two batches that were not drawn, a second each
    calls = []

    def task(evaluation, number, rows):
        calls.append(number)
        return number

    rows = [torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(1)]
    assert evaluation.spread(task, list(enumerate(rows))) == [0, 0, 0, 3]
    assert calls == [0, 3]
    assert evaluation.saved == 4.0


def test_what_takes_too_long_is_stopped():
    with pytest.raises(_OutOfTime), _limited(0.05):
        time.sleep(60.0)
