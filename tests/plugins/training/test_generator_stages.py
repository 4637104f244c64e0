"""The generator follows the energy: VAEBM's Eq. 21, and the game of Wasserstein GANs."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from genfw.errors import ContractError
from genfw.interfaces import Energy
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.testing import StageSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyEnergy, TinyPrior
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.training._common import generator_loss
from genfw_plugins.training.contrastive import Contrastive
from genfw_plugins.training.optimizers import SGD, Adam
from genfw_plugins.training.wgan import WGAN, gradient_penalty
from stage_parts import CHAIN, DATA, LATENT, Fabric, LinearDecoder, Tilt, tiny, train

SIGMA = 0.6


class Bowl(Energy):
    """E(x) = a . x + c |x|^2 / 2: the tilt of a normal law is normal again."""

    def __init__(self, size, slope=0.0, curvature=0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.full((size,), slope))
        self.curvature = nn.Parameter(torch.tensor(curvature))

    def forward(self, v):
        v = v.flatten(1)
        return v @ self.slope + 0.5 * self.curvature * v.square().sum(1)


def marginal(decoder):
    weight = decoder.map.weight
    return MultivariateNormal(decoder.map.bias, weight @ weight.T + decoder.sigma**2 * torch.eye(decoder.size))


def tilted(decoder, energy):
    """p(x) e^{-E(x)} / Z in closed form."""
    law = marginal(decoder)
    precision = law.precision_matrix + energy.curvature * torch.eye(decoder.size)
    mean = torch.linalg.solve(precision, law.precision_matrix @ law.mean - energy.slope)
    return MultivariateNormal(mean, precision_matrix=precision)


def linear_model():
    torch.manual_seed(0)
    decoder, energy = LinearDecoder(2, 2, SIGMA), Bowl(2, slope=0.7, curvature=0.4)
    return Model(StandardNormal(2), decoder, energy=energy), decoder, energy


def test_equation_21_is_the_gradient_of_the_reverse_divergence():
    model, decoder, energy = linear_model()
    parameters = list(decoder.map.parameters())
    with torch.no_grad():  # h is held still: only p's own parameters are differentiated
        fixed = tilted(decoder, energy)
    exact = torch.autograd.grad(kl_divergence(marginal(decoder), fixed), parameters)
    loss = generator_loss(model, 400_000, torch.Generator().manual_seed(0), Fabric())
    estimated = torch.autograd.grad(loss, parameters)
    for one, other in zip(estimated, exact, strict=True):
        torch.testing.assert_close(one, other, atol=6e-3, rtol=0)
    # Negative control: the forward divergence has another gradient.
    forward = torch.autograd.grad(kl_divergence(fixed, marginal(decoder)), parameters)
    assert max(float((one - other).abs().max()) for one, other in zip(estimated, forward, strict=True)) > 0.05


def test_generator_loss_touches_neither_energies_nor_modes():
    model, decoder, energy = linear_model()
    model.train()
    loss = generator_loss(model, 16, torch.Generator().manual_seed(0), Fabric(), mean=True)
    loss.backward()
    assert energy.slope.grad is None
    assert decoder.map.weight.grad is not None
    assert energy.slope.requires_grad
    assert all(part.training for part in model.modules())


def test_contrastive_with_a_generator_optimizer_brings_the_generator_to_the_model():
    model, decoder, energy = linear_model()
    chain = Chain(MALA(step_size=0.1, steps=1), NoiseStart())
    arguments = {"optimizer": SGD(lr=1e-9), "negatives": chain}
    with torch.no_grad():
        fixed = tilted(decoder, energy)
        before = float(kl_divergence(marginal(decoder), fixed))
        start = [p.clone() for p in decoder.parameters()]
    rows = train(
        Contrastive(model=model, steps=8, batch=256, generator_optimizer=SGD(lr=0.05), **arguments),
        torch.randn(2000, 2),
    )
    with torch.no_grad():
        after = float(kl_divergence(marginal(decoder), fixed))
    assert {"generator/loss", "generator/gradient"} <= rows[0].keys()
    assert after < 0.8 * before
    # The prior may stay while the decoder moves.
    prior = StandardNormal(2)
    prior.scale = torch.nn.Parameter(torch.ones(()))
    moved = Model(prior, decoder, energy=energy)
    stage = Contrastive(
        model=moved, steps=1, batch=8, generator_optimizer=SGD(lr=0.05), generator_moves="decoder", **arguments
    )
    train(stage, torch.randn(20, 2))
    assert stage.generator_updater.parameters == list(decoder.parameters())
    # Without it the generator stays to the bit.
    model, decoder, _ = linear_model()
    train(Contrastive(model=model, steps=3, batch=32, **arguments), torch.randn(200, 2))
    assert all(torch.equal(a, b) for a, b in zip(start, decoder.parameters(), strict=True))


def test_wgan_matches_moments():
    # A critic of first and second moments under weight decay: the generator's mean and spread must become the data's.
    torch.manual_seed(0)
    decoder = LinearDecoder(1, 1, 0.1)
    with torch.no_grad():
        decoder.map.weight.fill_(1.5)
        decoder.map.bias.fill_(-1.0)
    energy = Bowl(1)
    model = Model(StandardNormal(1), decoder, energy=energy)
    stage = WGAN(
        model=model,
        steps=250,
        batch=256,
        optimizer=SGD(lr=0.3, weight_decay=1.0),
        generator_optimizer=SGD(lr=0.1, decay="cosine", final=0.05),
        generator_every=1,
    )
    x = 0.5 * torch.randn(20_000, 1) + 0.7
    rows = train(stage, x)
    assert abs(decoder.map.bias.item() - 0.7) < 0.05
    assert abs(math.hypot(decoder.map.weight.item(), 0.1) - 0.5) < 0.05
    assert abs(float(rows[-1]["wasserstein"])) < 0.02


def test_wgan_gradients_are_the_games():
    x = torch.randn(64, 2) + 1.0
    decoder, energy = LinearDecoder(2, 2, 0.5), Tilt(2, "data")
    model = Model(StandardNormal(2), decoder, energy=energy)
    stage = WGAN(
        model=model, steps=1, batch=64, optimizer=SGD(lr=1e-6), generator_optimizer=SGD(lr=1e-6), generator_every=1
    )
    train(stage, x)
    noise = model.noise_layout.draw(64, generator=torch.Generator().manual_seed(0))
    expected = x.mean(0) - model.decode(noise).mean(0).detach()
    torch.testing.assert_close(energy.slope.grad, expected, atol=1e-5, rtol=1e-4)
    # d E(x) / d bias is the energy's slope, as it is after its own update.
    torch.testing.assert_close(decoder.map.bias.grad, energy.slope.detach(), atol=1e-7, rtol=1e-5)


def test_generator_moves_on_every_second_step_alone():
    torch.manual_seed(0)
    model = Model(StandardNormal(2), LinearDecoder(2, 2, 0.5), energy=TinyEnergy())
    stage = WGAN(model=model, steps=4, batch=8, optimizer=Adam(), generator_optimizer=Adam(), generator_every=2)
    rows = train(stage, torch.randn(64, 2))
    assert ["generator/loss" in row for row in rows] == [False, True, False, True]


def test_gradient_penalty_of_a_linear_energy():
    energy = Tilt(3, "data")
    with torch.no_grad():
        energy.slope.copy_(torch.tensor([1.0, -2.0, 2.0]))
    model = Model(energy=energy, data_shape=(3,))
    generator = torch.Generator().manual_seed(0)
    value = gradient_penalty(model, torch.randn(5, 3), torch.randn(5, 3), generator)
    torch.testing.assert_close(value, torch.tensor((3.0 - 1.0) ** 2))
    (slope,) = torch.autograd.grad(value, energy.slope)
    torch.testing.assert_close(slope, 2 * 2.0 * energy.slope.detach() / 3.0)


def test_gradient_penalty_reads_between_data_and_negatives():
    # Energy |x|^2 / 2 has the slope x: at points between 0 and (4, 0) it is uniform on [0, 4].
    model = Model(energy=Bowl(2, curvature=1.0), data_shape=(2,))
    value = gradient_penalty(
        model, torch.zeros(20_000, 2), torch.tensor([[4.0, 0.0]]).expand(20_000, 2), torch.Generator().manual_seed(0)
    )
    expected = (3.0**3 + 1.0) / 12  # the mean of (s - 1)^2 over s in [0, 4]
    assert value.item() == pytest.approx(expected, rel=0.03)


class TestContrastiveThatMovesTheGenerator(StageSuite):
    def make_model(self):
        prior = TinyPrior()
        return Model(prior, TinyDecoder(), TinyEncoder(prior), TinyEnergy())

    def make_stage(self, model):
        chain = Chain(MALA(step_size=0.1, steps=2), NoiseStart())
        return Contrastive(
            model=model, steps=4, batch=8, optimizer=Adam(), negatives=chain, generator_optimizer=Adam(lr=1e-4)
        )


class TestWGAN(StageSuite):
    def make_model(self):
        prior = TinyPrior()
        return Model(prior, TinyDecoder(), TinyEncoder(prior), TinyEnergy())

    def make_stage(self, model):
        return WGAN(
            model=model,
            steps=4,
            batch=8,
            optimizer=Adam(),
            generator_optimizer=Adam(lr=1e-4, decay="cosine"),
            generator_every=2,
            gradient_penalty=10.0,
            mean=True,
        )


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: Contrastive(
                model=tiny(DATA),
                steps=1,
                batch=1,
                optimizer=Adam(),
                negatives=CHAIN,
                space="data",
                generator_optimizer=Adam(),
            ),
            "chains in space 'data' have none",
        ),
        (
            lambda: WGAN(model=tiny(), steps=1, batch=1, optimizer=Adam(), generator_optimizer=Adam()),
            "stage 'wgan' needs a model with energy",
        ),
        (
            lambda: WGAN(model=tiny(LATENT), steps=1, batch=1, optimizer=Adam(), generator_optimizer=Adam()),
            "energy is on the latent",
        ),
        (
            lambda: WGAN(
                model=tiny(DATA), steps=1, batch=1, optimizer=Adam(), generator_optimizer=Adam(), generator_every=0
            ),
            "generator_every must be at least 1",
        ),
        (
            lambda: WGAN(
                model=tiny(DATA), steps=1, batch=1, optimizer=Adam(), generator_optimizer=Adam(), gradient_penalty=-1.0
            ),
            "gradient_penalty must be at least 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(act, message):
    with pytest.raises(ContractError, match=message):
        act()
