"""The amortization gap on a model whose posterior is known: one for exact draws, closed forms for others."""

import math
import re

import pytest
import torch

from genfw.engine import run as engine
from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces import Amortizer, Dataset, Decoder, Split, Start
from genfw.interfaces.likelihood import Gaussian
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.testing import MetricSuite
from genfw.testing.tiny import tiny_evaluation
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.metrics.chains.amortization_gap import AmortizationGap

SIGMA = 0.5
SHRINK, WIDTH = 1 / (1 + SIGMA**2), SIGMA / math.sqrt(1 + SIGMA**2)


class Identity(Decoder):
    """x = z + sigma eps: the posterior is N(x / (1 + s^2), s^2 / (1 + s^2))."""

    noise_shape = (2,)

    def forward(self, latent):
        return Gaussian(latent.flat(), SIGMA)


class Off(Amortizer):
    """The exact posterior, moved and made wider; blind to x where told to be."""

    def __init__(self, shift=0.0, factor=1.0, blind=False):
        super().__init__()
        self.shift, self.factor, self.blind = shift, factor, blind

    def sample(self, count, *, generator):
        return self.shift + self.factor * torch.randn(count, 2, generator=generator)

    def sample_given(self, x, *, generator):
        if self.blind:
            return self.sample(len(x), generator=generator)
        return SHRINK * x + self.shift + self.factor * WIDTH * torch.randn(x.shape, generator=generator)

    def loss(self, position, x, *, generator, hidden=None):
        raise NotImplementedError


class ExactStart(Start):
    def draw(self, request):
        if request.x is None:
            return torch.randn(request.count, 2, generator=request.generator)
        return Off().sample_given(request.x, generator=request.generator)


class Rows(Dataset, Split):
    """Draws of the model."""

    data_shape = (2,)

    def split(self, name):
        return self

    def __len__(self):
        return 4000

    def get(self, index, *, generator=None):
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(4000, 2, generator=draw) + SIGMA * torch.randn(4000, 2, generator=draw)
        return x[index], None


def exact():
    return Chain(MALA(step_size=0.3, steps=2), ExactStart())


def take(tmp_path, amortizer, **settings):
    settings = {"count": 1200, "projections": 32, "untrained": False, "show": 0} | settings
    metric = AmortizationGap(reference=settings.pop("reference", exact()), **settings)
    evaluation = Evaluation(Model(StandardNormal(2), Identity(), amortizer=amortizer), Rows(), None, tmp_path, seed=1)
    return {result.name: result for result in metric.compute(evaluation)}


def test_exact_draws_are_at_the_floor(tmp_path):
    results = take(tmp_path, Off(), refine=Langevin(step_size=0.02, steps=40), items=2, draws=600)
    for ending in ("", "-given-x"):
        assert 0.6 < results[f"sliced-wasserstein-amortizer{ending}"].value < 1.7
        assert 0.6 < results[f"mmd-amortizer{ending}"].value < 1.7
        gap = results[f"energy-gap-amortizer{ending}"]
        assert abs(gap.value) < 4 * gap.error
    assert 0.6 < results["stein-amortizer-given-x"].value < 1.7
    assert "stein-amortizer" not in results  # one draw for each x: there is no one law
    assert results["sliced-wasserstein-refined"].value < 2.0
    # Refined or begun at noise, this many steps of this kernel arrive.
    assert results["sliced-wasserstein-short-run-given-x"].value < 2.5
    protocol = results["sliced-wasserstein-amortizer-given-x"].protocol
    assert (protocol["count"], protocol["draws"], protocol["references"], protocol["chain_steps"]) == (2, 600, 2, 2)
    assert "step_size" in protocol["refine"]


def test_a_shift_is_measured_in_its_closed_form(tmp_path):
    results = take(tmp_path, Off(shift=0.3), items=2, draws=600)
    for ending in ("", "-given-x"):
        floor = results[f"sliced-wasserstein-floor{ending}"].value
        # A shift by (0.3, 0.3) has the length 0.3 sqrt(2), and 2 / pi of it along a direction, in the mean.
        expected = 0.3 * math.sqrt(2) * 2 / math.pi
        assert results[f"sliced-wasserstein-amortizer{ending}"].value * floor == pytest.approx(expected, rel=0.15)
    assert results["stein-amortizer-given-x"].value > 4
    # U = |z - c|^2 / 2 w^2 up to a constant: the shift adds |m|^2 / 2 w^2.
    gap = results["energy-gap-amortizer"]
    assert gap.value == pytest.approx(0.09 / WIDTH**2, abs=4 * gap.error)
    assert gap.error > 0


def test_a_sampler_that_ignores_x_passes_over_the_data_and_fails_given_x(tmp_path):
    results = take(tmp_path, Off(blind=True), items=3, draws=500)
    assert results["sliced-wasserstein-amortizer"].value < 2.0
    assert results["sliced-wasserstein-amortizer-given-x"].value > 5.0


def test_in_space_prior_the_unconditional_draws_count(tmp_path):
    results = take(tmp_path, Off(factor=1.5), space="prior", order=2)
    floor = results["sliced-wasserstein-floor"].value
    assert results["sliced-wasserstein-amortizer"].value * floor == pytest.approx(0.5, rel=0.1)
    assert results["sliced-wasserstein-amortizer"].protocol["order"] == 2
    assert results["stein-amortizer"].value > 4
    assert results["energy-gap-amortizer"].value == pytest.approx(1.5**2 - 1, rel=0.15)


def test_without_recipe_the_untrained_is_left_out_with_a_word(tmp_path):
    results = take(tmp_path, Off(), untrained=True, count=50)
    assert "sliced-wasserstein-untrained" not in results
    assert "no recipe to build it from" in results["sliced-wasserstein-floor"].note


RECIPE = """
genfw: 1
name: small-gap
data: {use: random-mlp, law: {use: pinwheel, scale: 2.0, train: 200, test: 100}}
prior: {use: standard-normal, dim: 2}
decoder: {use: random-mlp, hidden: [8]}
energy: {use: density, on: latent, law: "${data.law}"}
amortizer:
  {use: ddpm, solver: ddim, steps: 4, widths: [8], time_features: 8, encoder: {use: mlp, hidden: [8], embedding: 4}}
train:
  - use: distill
    steps: 4
    batch: 20
    start: {use: amortizer, ema: 0.5}
    sampler: {use: ex2, candidates: 4, steps: 2}
    amortize: {optimizer: {use: adam, lr: 1e-2}, updates: 2}
    watch: 2
engine: {accelerator: cpu, checkpoint_every: 2}
evaluate:
  - use: amortization-gap
    reference: {sampler: {use: ex2, candidates: 8, steps: 10}, start: {use: noise}}
    refine: {use: langevin, step_size: 5e-3, steps: 5, clip: 100.0}
    count: 60
    items: 2
    draws: 20
    projections: 8
    show: 50
"""


def test_in_a_run_it_shows_the_past_and_the_untrained(tmp_path):
    (tmp_path / "small-gap.yaml").write_text(RECIPE)
    result = engine.run(tmp_path / "small-gap.yaml", root=tmp_path)
    found = {one.name: one for one in result.results}
    assert not [one.note for one in result.results if one.value is None]
    assert found["sliced-wasserstein-untrained"].value > 2
    assert found["sliced-wasserstein-amortizer"].protocol["sampler"].startswith("ex2(")
    names = [figure.path for figure in found["sliced-wasserstein-floor"].figures]
    assert names == [f"figures/amortization{tail}.png" for tail in ("", "-given-x", "-history")]
    assert all((result.directory / name).stat().st_size > 5_000 for name in names)
    assert "watch/sliced-wasserstein" in (result.directory / "metrics.jsonl").read_text()


class TestAmortizationGap(MetricSuite):
    def make(self):
        chain = Chain(Langevin(step_size=0.05, steps=3), NoiseStart())
        settings = {"untrained": False, "show": 0, "projections": 4, "count": 20, "items": 2, "draws": 10}
        return AmortizationGap(reference=chain, refine=MALA(step_size=0.1, steps=2), **settings)

    def evaluation(self, directory):
        evaluation = tiny_evaluation(directory)
        evaluation.model.amortizer = Off()
        return evaluation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"references": 1}, "references must be at least 2, got 1"),
        ({"count": 1}, "count must be at least 2, got 1"),
        ({"order": 0}, "order must be at least 1, got 0"),
        ({"reference": Chain(MALA(), ExactStart(), count=3)}, "not reference.count"),
        ({"items": 2, "space": "prior"}, "space 'prior' has none"),
    ],
)
def test_bad_settings_are_refused_with_a_reason(settings, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        AmortizationGap(**({"reference": exact()} | settings))


def test_a_model_without_amortizer_is_refused(tmp_path):
    with pytest.raises(ContractError, match="the recipe has none"):
        take(tmp_path, None)
