"""Long chains on targets whose law is known: those that stay, those that drift, those that blow up."""

import math

import pytest
import torch

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.results import Figure
from genfw.interfaces import Dataset, Decoder, Energy, Split
from genfw.interfaces.likelihood import Gaussian
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.testing import MetricSuite
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.metrics.chains.long_run import LongRun, drift, look

SHAPE = (1, 4, 4)


class Identity(Decoder):
    noise_shape = SHAPE

    def forward(self, latent):
        return Gaussian(latent.flat().unflatten(1, SHAPE).clamp(-1, 1), 0.1)


class Bowl(Energy):
    """Tilts N(0, 1) to N(0, 1/4)."""

    on = "latent"

    def forward(self, v):
        return 1.5 * v.square().sum(1)


class Slide(Energy):
    """Cancels the base all but a slope: nothing holds the chains."""

    on = "latent"

    def forward(self, v):
        return -0.5 * v.square().sum(1) - 3.0 * v.sum(1)


class Images(Dataset, Split):
    """A quarter of every row of pixels is saturated."""

    data_shape = SHAPE

    def split(self, name):
        return self

    def __len__(self):
        return 50

    def get(self, index, *, generator=None):
        x = torch.tensor([1.0, 0.5, 0.0, -0.5]).expand(len(index), 1, 4, 4)
        return x, None


class Quiet(Evaluation):
    """Draws no pictures, which take longer than the numbers."""

    def figure(self, name, title, caption, draw, **arguments):
        return Figure(f"figures/{name}.png", title, caption)

    picture = figure


def evaluation(folder, energy=None, kind=Evaluation, **settings):
    model = Model(StandardNormal(16), Identity(), energy=energy)
    return kind(model, Images(), SampleSettings(space="prior", **settings), folder, seed=2)


def take(metric, *arguments, kind=Quiet, **settings):
    return {result.name: result for result in metric.compute(evaluation(*arguments, kind=kind, **settings))}


def test_chains_of_a_proper_target_report_no_drift(tmp_path):
    metric = LongRun(steps=(40, 160), sampler=MALA(step_size=0.1, adapt=False), chains=80, count=50)
    results = take(metric, tmp_path, Bowl())
    for steps in (40, 160):
        assert abs(results[f"energy-drift-{steps}"].value) < 3 * results[f"energy-drift-{steps}"].error
        assert "no drift beyond noise" in results[f"energy-drift-{steps}"].note
        assert results[f"diverged-{steps}"].value == 0.0
    norm = results["norm-160"]
    assert abs(norm.value - 0.25) < 4 * norm.error
    assert abs(results["norm-drift-160"].value) < 4 * results["norm-drift-160"].error


def test_a_step_that_is_too_large_is_reported(tmp_path):
    # The curvature is 4: steps of h > 1/2 are unstable.
    metric = LongRun(steps=(40,), sampler=Langevin(step_size=0.52), chains=30, count=50)
    results = take(metric, tmp_path, Bowl())
    assert results["energy-drift-40"].value > 10 * results["energy-drift-40"].error
    assert "on the move" in results["energy-drift-40"].note
    lost = take(LongRun(steps=(40,), sampler=Langevin(step_size=1e3), chains=10, count=50), tmp_path, Bowl())
    assert lost["diverged-40"].value == 1.0
    assert lost["energy-drift-40"].value is None
    assert lost["energy-drift-40"].note.startswith("10 of 10 chains left the finite numbers")


def test_a_target_that_holds_nothing_is_reported(tmp_path):
    sampler = Langevin(step_size=0.02)
    results = take(LongRun(steps=(80, 400), chains=40, count=50), tmp_path, Slide(), kind=Evaluation, sampler=sampler)
    for steps in (80, 400):
        assert results[f"energy-drift-{steps}"].value < -10 * results[f"energy-drift-{steps}"].error
    assert results["norm-400"].value > 20.0
    # The chains walk to large positive numbers: white images without contrast, all of them saturated.
    assert results["saturation-400"].value == pytest.approx(0.75, abs=0.01)
    assert results["contrast-400"].value < 0.1
    assert results["variation-400"].value < 0.1
    assert "of the data 0.2500" in results["saturation-400"].note
    paths = [figure.path for figure in results["energy-drift-80"].figures]
    assert paths == [f"figures/long-run-{name}.png" for name in ("trace", "looks", "80", "400")]
    assert all((tmp_path / path).stat().st_size > 500 for path in paths)


def test_the_error_of_a_drift_is_that_of_independent_chains():
    generator = torch.Generator().manual_seed(0)
    kept = list(range(0, 101, 5))
    # Chains far apart from each other that stay where they are: the spread between chains is no drift.
    still = 50.0 * torch.randn(1, 400, generator=generator) + torch.randn(21, 400, generator=generator)
    value, error = drift(still.double(), kept)
    assert abs(value) < 4 * error < 0.2
    moving = still + 0.1 * torch.arange(21.0)[:, None]
    value, error = drift(moving.double(), kept)
    assert value == pytest.approx(0.1 * (18.0 - 8.0), abs=4 * error)


def test_what_an_image_looks_like_in_numbers():
    x = Images().get(torch.arange(3))[0]
    saturation, contrast, variation = look(x, 0.05)
    assert saturation.tolist() == [0.25] * 3
    assert contrast.tolist() == pytest.approx([float(x[0].std())] * 3)
    assert variation.tolist() == pytest.approx([0.25] * 3)  # 0.5 across, nothing down
    assert look(0.99 * x, 0.05)[0].tolist() == [0.25] * 3
    assert look(0.9 * x, 0.05)[0].tolist() == [0.0] * 3


def test_kept_states_fall_on_every_length(tmp_path):
    results = take(LongRun(steps=(60, 150), chains=2, count=50, show=0), tmp_path, sampler=Langevin(step_size=0.01))
    assert results["norm-60"].protocol["thinning"] == 3
    assert {name for name in results if name.endswith("-60")} == {
        name[:-3] + "60" for name in results if "-150" in name
    }


def test_without_a_picture_there_are_the_drifts(tmp_path):
    class Vector(Identity):
        noise_shape = (16,)

        def forward(self, latent):
            return Gaussian(latent.flat(), 0.1)

    model = Model(StandardNormal(16), Vector())
    one = Quiet(model, None, SampleSettings(space="prior", sampler=Langevin(step_size=0.1)), tmp_path)
    results = LongRun(steps=(16,), chains=3).compute(one)
    assert [result.name for result in results] == ["energy-drift-16", "diverged-16", "norm-drift-16", "norm-16"]


def test_chains_in_batches_are_as_many_and_say_the_same(tmp_path):
    settings = {"steps": (40, 160), "sampler": MALA(step_size=0.1, adapt=False), "chains": 80, "count": 50}
    whole = take(LongRun(**settings), tmp_path, Bowl())
    parts = take(LongRun(**settings, batch=30), tmp_path, Bowl())
    assert whole.keys() == parts.keys()
    assert "chain_batch" not in whole["norm-160"].protocol
    assert parts["norm-160"].protocol["chain_batch"] == 30
    one, other = whole["norm-160"], parts["norm-160"]
    assert one.value != other.value
    assert abs(one.value - other.value) < 4 * math.hypot(one.error, other.error)


def test_what_it_refuses(tmp_path):
    for arguments, message in (
        ({"steps": (4,)}, r"steps must be at least 8, got \(4,\)"),
        ({"steps": (20, 20)}, r"steps must hold at least one entry, each once, got \[20, 20\]"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"chains": 1}, "chains must be at least 2, got 1"),
        ({"margin": 1.0}, r"margin must lie in \(0, 1\), got 1\.0"),
    ):
        with pytest.raises(ContractError, match=message):
            LongRun(**arguments)
    with pytest.raises(ContractError, match="name one under 'sampler' of metric 'long-run'"):
        take(LongRun(), tmp_path)


class TestLongRun(MetricSuite):
    def make(self):
        return LongRun(steps=(8, 16), chains=4, count=10, show=2)

    def evaluation(self, directory):
        return evaluation(directory, Bowl(), sampler=MALA(step_size=0.1))
