"""Stage noise-contrastive: the energy it ends with is the log density ratio, and several take it in turn."""

import math

import pytest
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.interfaces import Decoder, Energy, TensorSplit
from genfw.interfaces.likelihood import Gaussian
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.testing import StageSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyEnergy, TinyPrior
from genfw.training.loader import Loader
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.isir import ISIR
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mcmc.starts.replay import ReplayStart
from genfw_plugins.mcmc.starts.warm import WarmStart
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.training.noise_contrastive import NoiseContrastive
from genfw_plugins.training.optimizers import Adam
from stage_parts import train


class Quadratic(Energy):
    """E(v) = a + b.v + c.v^2: holds the log ratio of two normal laws exactly."""

    on = "latent"

    def __init__(self, size):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(n)) for n in (1, size, size))

    def forward(self, v):
        return self.a + v @ self.b + v.square() @ self.c


class Bounded(Quadratic):
    """At most 0.8 nats up or down: one of them can't tell a far law from the base."""

    def __init__(self, size):
        super().__init__(size)
        with torch.no_grad():
            self.b.fill_(0.1)

    def forward(self, v):
        return 0.8 * torch.tanh(super().forward(v))


class Linear(Decoder):
    """x = w z + sigma eps."""

    def __init__(self, size, sigma=0.3):
        super().__init__()
        self.size, self.sigma = size, sigma
        self.weight = nn.Parameter(torch.ones(size))

    @property
    def noise_shape(self):
        return (self.size,)

    def forward(self, latent):
        return Gaussian(self.weight * latent.flat(), self.sigma)


def plain_encoder(prior, size, scale):
    """q(z|x) = N(x, scale^2)."""
    encoder = MLPEncoder(prior, (size,), hidden=())
    with torch.no_grad():
        linear = encoder.net[0]
        linear.weight.zero_()
        linear.weight[:size].copy_(torch.eye(size))
        linear.bias.zero_()
        linear.bias[size:].fill_(math.log(scale))
    return encoder


def with_energies(size, scale, *energies):
    prior = StandardNormal(size)
    return Model(prior, Linear(size), plain_encoder(prior, size, scale), energy=list(energies))


def isir(size):
    return Chain(ISIR(candidates=8, steps=2), ReplayStart(size=size, probability=1.0))


class TestNoiseContrastive(StageSuite):
    def make_model(self):
        prior = TinyPrior()
        layout = Model(prior).latent_layout
        energies = [MLPEnergy(latent_layout=layout, on="latent", hidden=(4,)) for _ in range(2)]
        return Model(prior, TinyDecoder(), TinyEncoder(prior), energy=energies)

    def make_stage(self, model):
        return NoiseContrastive(
            model=model,
            steps=4,
            batch=8,
            optimizer=Adam(),
            number=1,
            noise=isir(8),
            posterior=Chain(Langevin(step_size=0.05, steps=2), WarmStart()),
            generator_optimizer=Adam(),
            average=0.9,
        )


def test_the_energy_becomes_the_log_ratio_with_its_constant():
    torch.manual_seed(0)
    mean, spread, scale = torch.tensor([0.6, -0.4]), 0.5, 0.4
    energy = Quadratic(2)
    model = with_energies(2, scale, energy)
    others = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("energies")}
    rows = train(
        NoiseContrastive(model=model, steps=400, batch=1000, optimizer=Adam(lr=0.05, decay="linear"), average=0.98),
        mean + spread * torch.randn(50_000, 2),
    )
    # q(z) is N(mean, spread^2 + scale^2): the encoder's own noise belongs to it.
    variance = spread**2 + scale**2
    torch.testing.assert_close(energy.c.detach(), torch.full((2,), (1 / variance - 1) / 2), atol=0.04, rtol=0)
    torch.testing.assert_close(energy.b.detach(), -mean / variance, atol=0.06, rtol=0)
    constant = math.log(variance) + float(mean.square().sum()) / (2 * variance)
    assert abs(energy.a.item() - constant) < 0.06
    divergence = 0.5 * (2 * variance + float(mean.square().sum()) - 2 - 2 * math.log(variance))
    assert abs(float(torch.stack([row["kl"] for row in rows[-50:]]).mean()) - divergence) < 0.05
    assert 0.6 < float(rows[-1]["accuracy"]) < 0.9
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in others.items())


def divergence_from(mean, scale, *energies):
    """KL[N(mean, scale^2) | the tilted standard normal] in one dimension, on a grid."""
    z = torch.linspace(-8, 8, 4001)[:, None]
    width = 16 / 4000
    q = torch.distributions.Normal(mean, scale).log_prob(z[:, 0])
    p = -0.5 * z[:, 0].square()
    with torch.no_grad():
        for energy in energies:
            p = p - energy(z)
    p = p - torch.logsumexp(p + math.log(width), 0)
    return float((q.exp() * (q - p)).sum() * width)


def test_a_second_energy_takes_what_the_first_has_left():
    torch.manual_seed(0)
    first, second = Bounded(1), Bounded(1)
    x = 1.2 + 0.3 * torch.randn(20_000, 1)
    model = with_energies(1, 0.3, first, second)
    truth = (1.2, math.sqrt(0.18))
    left = [divergence_from(*truth)]
    train(NoiseContrastive(model=model, steps=200, batch=500, optimizer=Adam(lr=0.03, decay="linear")), x)
    left.append(divergence_from(*truth, first))
    train(
        NoiseContrastive(
            model=model, steps=200, batch=500, optimizer=Adam(lr=0.03, decay="linear"), number=1, noise=isir(500)
        ),
        x,
    )
    left.append(divergence_from(*truth, first, second))
    assert left[1] < left[0] - 0.4
    assert left[2] < left[1] - 0.15
    assert left[2] < 0.5 * left[1]


def test_energies_that_come_later_are_no_part_of_the_model_yet():
    x = torch.randn(2000, 1)

    def trained(slope):
        torch.manual_seed(0)
        later = Quadratic(1)
        with torch.no_grad():
            later.b.fill_(slope)
        model = with_energies(1, 0.3, Quadratic(1), Quadratic(1), later)
        noise, posterior = isir(100), Chain(Langevin(step_size=1e-2, steps=2), NoiseStart())
        train(
            NoiseContrastive(
                model=model, steps=3, batch=100, optimizer=Adam(lr=0.1), number=1, noise=noise, posterior=posterior
            ),
            x,
        )
        assert later.b.item() == slope
        return model.energies[1].b.detach().clone()

    assert torch.equal(trained(0.0), trained(5.0))


def test_the_first_gradient_is_half_the_difference_of_the_means():
    # At E = 0 both logistic slopes are one half.
    energy = Quadratic(2)
    model = with_energies(2, 0.4, energy)
    x = torch.randn(64, 2) + 1.0
    stage = NoiseContrastive(model=model, steps=1, batch=64, optimizer=Adam(lr=1e-3))
    rows = Loader(TensorSplit(x), 64, 0).batch_at(0).x
    train(stage, x)
    generator = torch.Generator().manual_seed(0)
    positive = model.encoder(rows, generator=generator).noise.detach()
    negative = torch.randn(64, 2, generator=generator)
    torch.testing.assert_close(energy.b.grad, 0.5 * (positive.mean(0) - negative.mean(0)))


def test_the_generator_moves_along_with_posterior_chains():
    # Adaptive CE: the data are N(0.5, 1.5^2), the generator begins as N(0, 1 + 0.3^2).
    torch.manual_seed(0)
    x = 0.5 + 1.5 * torch.randn(20_000, 1)
    energy, decoder = Quadratic(1), Linear(1)
    model = Model(StandardNormal(1), decoder, energy=energy)
    chain = Chain(Langevin(step_size=1e-2, steps=10), NoiseStart())
    rows = train(
        NoiseContrastive(
            model=model,
            steps=150,
            batch=300,
            optimizer=Adam(lr=0.05, decay="linear"),
            posterior=chain,
            generator_optimizer=Adam(lr=0.02),
        ),
        x,
    )
    # The tilted prior is normal with precision 1 + 2c and mean -b / (1 + 2c).
    precision = 1 + 2 * energy.c.item()
    mean = decoder.weight.item() * -energy.b.item() / precision
    variance = decoder.weight.item() ** 2 / precision + 0.09
    assert abs(mean - 0.5) < 0.15
    assert abs(variance - 2.25) < 0.4
    assert float(rows[-1]["mse"]) < float(rows[0]["mse"])


LATENT, DATA = Quadratic(2), TinyEnergy()
CHAIN = Chain(Langevin(step_size=1e-2, steps=1), NoiseStart())


def bare(*energies, encoder=True):
    prior = StandardNormal(2)
    return Model(prior, Linear(2), plain_encoder(prior, 2, 0.5) if encoder else None, energy=list(energies))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: NoiseContrastive(model=bare(), steps=1, batch=1, optimizer=Adam()), "needs a model with energy"),
        (
            lambda: NoiseContrastive(model=bare(LATENT, encoder=False), steps=1, batch=1, optimizer=Adam()),
            "needs a model with encoder",
        ),
        (lambda: NoiseContrastive(model=bare(DATA), steps=1, batch=1, optimizer=Adam()), "the recipe's are on data"),
        (
            lambda: NoiseContrastive(model=bare(LATENT), steps=1, batch=1, optimizer=Adam(), number=1),
            "1 energies on the latent from 0, got 1",
        ),
        (
            lambda: NoiseContrastive(model=bare(LATENT, Quadratic(2)), steps=1, batch=1, optimizer=Adam(), number=1),
            "give noise",
        ),
        (
            lambda: NoiseContrastive(
                model=bare(LATENT), steps=1, batch=1, optimizer=Adam(), generator_optimizer=Adam()
            ),
            "needs posterior",
        ),
        (lambda: NoiseContrastive(model=bare(LATENT), steps=0, batch=1, optimizer=Adam()), "at least 1"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(act, message):
    with pytest.raises(ContractError, match=message):
        act()
