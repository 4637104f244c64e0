"""Stage distill moves the amortizer to the law that the chains have, on models whose answer is known."""

import copy
import re

import pytest
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.interfaces import Amortizer, Decoder, Encoder, Energy, Posterior, TensorSplit
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.values import Latent
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.testing import StageSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyPrior
from genfw.training.loader import Loader
from genfw.training.stage import StageRun
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.starts.amortizer import AmortizerStart
from genfw_plugins.mcmc.starts.encoder import EncoderStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.training.alternating import Alternating
from genfw_plugins.training.distill import Amortize, Distill
from genfw_plugins.training.optimizers import Adam
from stage_parts import Fabric, train


class Linear(Amortizer):
    """q(eps | x) = N(a x + m, e^{2s}) where x is seen, N(m', e^{2s'}) where it is hidden: fitted by likelihood."""

    def __init__(self, size=1):
        super().__init__()
        self.slope, self.mean, self.log_scale = (nn.Parameter(torch.zeros(size)) for _ in range(3))
        self.hidden_mean, self.hidden_log_scale = (nn.Parameter(torch.zeros(size)) for _ in range(2))

    def _law(self, count, x, hidden):
        mean, log_scale = self.hidden_mean.expand(count, -1), self.hidden_log_scale.expand(count, -1)
        if x is not None:
            seen = torch.ones(count, dtype=torch.bool) if hidden is None else ~hidden
            mean = torch.where(seen[:, None], self.slope * x + self.mean, mean)
            log_scale = torch.where(seen[:, None], self.log_scale, log_scale)
        return torch.distributions.Normal(mean, log_scale.exp())

    def _draw(self, count, x, generator):
        with torch.no_grad():
            law = self._law(count, x, None)
            return law.mean + law.stddev * torch.randn(law.mean.shape, generator=generator)

    def sample(self, count, *, generator):
        return self._draw(count, None, generator)

    def sample_given(self, x, *, generator):
        return self._draw(len(x), x, generator)

    def loss(self, position, x, *, generator, hidden=None):
        return -self._law(len(position), x, hidden).log_prob(position).sum(1)


class Identity(Decoder):
    """x = z + sigma eps: the posterior is N(x / (1 + s^2), s^2 / (1 + s^2))."""

    noise_shape = (1,)

    def __init__(self, sigma=0.5):
        super().__init__()
        self.sigma = sigma

    def forward(self, latent):
        return Gaussian(latent.flat(), self.sigma)


class Wells(Energy):
    """Two narrow wells at -2 and 2, the right one deeper: it holds 0.9 of the mass."""

    on = "latent"

    def forward(self, v):
        density = torch.distributions.Normal
        z = v[:, 0]
        left, right = density(-2.0, 0.3).log_prob(z) + torch.log(torch.tensor(0.1)), density(2.0, 0.3).log_prob(z)
        right = right + torch.log(torch.tensor(0.9))
        return density(0.0, 1.0).log_prob(z) - torch.logaddexp(left, right)


class Two(Linear):
    """A mixture at -2 and 2 of which the weight alone is learned, by its share among the positions."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))

    def sample(self, count, *, generator):
        with torch.no_grad():
            side = 2.0 * (torch.rand(count, 1, generator=generator) < self.logit.sigmoid()) - 1.0
            return 2.0 * side + 0.3 * torch.randn(count, 1, generator=generator)

    def loss(self, position, x, *, generator, hidden=None):
        right = (position[:, 0] > 0).to(position)
        return nn.functional.binary_cross_entropy_with_logits(self.logit.expand(len(right)), right, reduction="none")


def fit(**settings):
    return Amortize(optimizer=Adam(lr=0.04, decay="linear"), **({"updates": 4, "average": 0.9} | settings))


def observed(count=2000):
    return 1.118 * torch.randn(count, 1, generator=torch.Generator().manual_seed(0))  # z of unit scale, sigma 0.5


def test_distilled_from_its_own_chains_it_becomes_the_posterior():
    amortizer = Linear()
    decoder = Identity()
    stage = Distill(
        model=Model(StandardNormal(1), decoder, amortizer=amortizer),
        steps=100,
        batch=200,
        start=AmortizerStart(amortizer=amortizer, ema=0.5),
        sampler=MALA(step_size=0.05, steps=5),
        amortize=fit(),
    )
    rows = train(stage, observed())
    # z | x ~ N(0.8 x, 0.2), and over the data N(0, 1).
    assert abs(amortizer.slope.item() - 0.8) < 0.05
    assert abs(amortizer.log_scale.exp().item() - 0.2**0.5) < 0.04
    assert abs(amortizer.hidden_log_scale.exp().item() - 1.0) < 0.1
    assert float(rows[-1]["amortizer/loss"]) < float(rows[0]["amortizer/loss"]) - 0.3
    assert "watch/sliced-wasserstein" not in rows[-1]


def test_local_chains_keep_the_weights_of_modes_that_global_moves_settle():
    def share(sampler):
        model = Model(StandardNormal(1), energy=Wells(), amortizer=Two())
        start = AmortizerStart(amortizer=model.amortizer)
        train(
            Distill(
                model=model,
                steps=40,
                batch=256,
                start=start,
                amortize=fit(drop_condition=0.0),
                sampler=sampler,
                space="prior",
            ),
            torch.zeros(512, 1),
        )
        return model.amortizer.logit.sigmoid().item()

    assert abs(share(Ex2(candidates=16, steps=2, local=MALA(step_size=0.02))) - 0.9) < 0.04
    assert abs(share(MALA(step_size=0.02, steps=5)) - 0.5) < 0.2


class Shifted(Encoder):
    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        noise = torch.randn(x.shape, generator=generator)
        z = 0.3 * x + 0.7 + 0.4 * temperature * noise
        zero = torch.zeros(len(x))
        return Posterior(Latent((z,)), z, zero, zero, zero[:, None])


def test_encoder_without_sampler_warms_the_amortizer_up():
    amortizer = Linear()
    model = Model(StandardNormal(1), Identity(), Shifted(), amortizer=amortizer)
    train(
        Distill(model=model, steps=60, batch=200, start=EncoderStart(encoder=model.encoder), amortize=fit()), observed()
    )
    assert abs(amortizer.slope.item() - 0.3) < 0.05
    assert abs(amortizer.mean.item() - 0.7) < 0.05
    assert abs(amortizer.log_scale.exp().item() - 0.4) < 0.05


def test_nothing_but_the_amortizer_moves_and_watching_changes_nothing():
    def run(watch):
        torch.manual_seed(0)
        prior = TinyPrior()
        model = Model(prior, TinyDecoder(), TinyEncoder(prior), amortizer=Linear(sum(prior.noise_shapes[0])))
        before = copy.deepcopy(model.state_dict())
        stage = Distill(
            model=model,
            steps=4,
            batch=32,
            start=NoiseStart(),
            amortize=fit(updates=2),
            sampler=Langevin(step_size=0.05, steps=2),
            watch=watch,
        )
        stage.run = StageRun(Fabric(), torch.device("cpu"), torch.Generator().manual_seed(1), 64)
        stage.setup()
        rows = [stage.step(batch, step) for step, batch in Loader(TensorSplit(torch.randn(64, 2)), 32, 0).batches(0, 4)]
        moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert moved
        assert all(name.startswith("amortizer.") for name in moved)
        return rows, model

    (silent, first), (watched, second) = run(0), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert [("watch/sliced-wasserstein" in row) for row in watched] == [False, True, False, True]
    assert not any("watch/energy-gap" in row for row in silent)


def test_what_is_watched_falls_as_the_amortizer_learns():
    amortizer = Linear()
    with torch.no_grad():
        amortizer.mean.fill_(2.0)
    model = Model(StandardNormal(1), Identity(), amortizer=amortizer)
    settings = Amortize(optimizer=Adam(lr=0.1, decay="linear"), updates=4)
    stage = Distill(
        model=model,
        steps=40,
        batch=200,
        start=NoiseStart(),
        amortize=settings,
        sampler=MALA(step_size=0.1, steps=10),
        watch=1,
    )
    rows = train(stage, observed())
    for name in ("watch/sliced-wasserstein", "watch/energy-gap"):
        assert float(rows[0][name]) > 1.0
        assert abs(float(rows[-1][name])) < 0.2


def test_alternating_with_nothing_else_to_train_is_the_same_iteration():
    def weights(make):
        torch.manual_seed(0)
        amortizer = Linear()
        train(
            make(Model(StandardNormal(1), Identity(), amortizer=amortizer), AmortizerStart(amortizer=amortizer)),
            observed(),
        )
        return list(amortizer.parameters())

    sampler = Langevin(step_size=0.02, steps=3)
    ours = weights(
        lambda model, start: Distill(model=model, steps=5, batch=50, start=start, amortize=fit(), sampler=sampler)
    )
    theirs = weights(
        lambda model, start: Alternating(
            model=model, steps=5, batch=50, posterior=Chain(sampler, start), amortize=fit()
        )
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class TestDistill(StageSuite):
    def make_model(self):
        prior = TinyPrior()
        return Model(prior, TinyDecoder(), TinyEncoder(prior), amortizer=Linear(sum(prior.noise_shapes[0])))

    def make_stage(self, model):
        starts = [NoiseStart(), AmortizerStart(amortizer=model.amortizer, ema=0.3)]
        amortize = Amortize(optimizer=Adam(), updates=2, average=0.9)
        return Distill(
            model=model,
            steps=4,
            batch=8,
            start=starts,
            amortize=amortize,
            sampler=MALA(step_size=0.1, steps=2),
            watch=3,
        )


BARE = Model(StandardNormal(1), amortizer=Linear())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Distill(model=Model(StandardNormal(1)), steps=1, batch=1, start=NoiseStart(), amortize=fit()),
            "fits an amortizer, and the recipe has",
        ),
        (
            lambda: Distill(model=BARE, steps=1, batch=1, start=NoiseStart(), amortize=fit()),
            "'posterior' needs a model with prior and decoder",
        ),
        (
            lambda: Distill(
                model=Model(amortizer=Linear()), steps=1, batch=1, start=NoiseStart(), amortize=fit(), space="prior"
            ),
            "with prior",
        ),
        (
            lambda: Distill(model=BARE, steps=0, batch=1, start=NoiseStart(), amortize=fit(), space="prior"),
            "steps must be at least 1, got 0",
        ),
        (
            lambda: Distill(model=BARE, steps=1, batch=1, start=NoiseStart(), amortize=fit(), space="prior", watch=-1),
            "watch must be at least 0, got -1",
        ),
        (lambda: Distill(model=BARE, steps=1, batch=1, start=[], amortize=fit(), space="prior"), "at least one start"),
    ],
)
def test_bad_settings_are_refused_with_a_reason(build, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        build()
