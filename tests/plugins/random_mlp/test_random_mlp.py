"""The pinwheel experiment's parts: a fixed random likelihood, data drawn from it, and the energy of a known law."""

import math
import re

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces import Dataset
from genfw.interfaces.values import Latent, NoiseLayout
from genfw.models.chains import run_chain
from genfw.models.distances import directions, sliced_wasserstein
from genfw.models.model import Model
from genfw.models.targets import DataTarget, PosteriorTarget, PriorTarget
from genfw.recipes.compose import compose
from genfw.testing import DatasetSuite, DecoderSuite, EncoderSuite, EnergySuite
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.energy import DensityEnergy
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.datasets.toy import GaussianGrid, Pinwheel
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.random_mlp.dataset import RandomMLPData
from genfw_plugins.random_mlp.decoder import RandomMLPDecoder

LAYOUT = NoiseLayout.of(**{"z.0": (2,)})


def pinwheel(**sizes):
    return Pinwheel(scale=2.0, **({"train": 4000, "test": 3000} | sizes))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestRandomDecoder(DecoderSuite):
    latent_shapes = ((2,),)

    def make(self):
        return RandomMLPDecoder((3,), LAYOUT, hidden=(16, 16), activation="silu", seed=1)


class TestRandomData(DatasetSuite):
    def make(self):
        return RandomMLPData(law=pinwheel(train=50, test=20), seed=1)


class TestDensityOnLatent(EnergySuite):
    shape = (2,)

    def make(self):
        return DensityEnergy(pinwheel(), on="latent")


class TestDensityOnData(EnergySuite):
    shape = (2,)

    def make(self):
        return DensityEnergy(GaussianGrid(side=2, std=0.5))


class TestDescribingEncoder(EncoderSuite):
    """As an amortizer uses it the encoder gives a description; the suite is run on one that is a posterior too."""

    shape = (2,)
    borrowed = ("_prior",)

    def make(self):
        return MLPEncoder(StandardNormal(2), (2,), hidden=(8,))

    def test_a_description_has_the_length_asked_for(self):
        encoder = MLPEncoder(StandardNormal(2), (2,), hidden=(8,), embedding=5)
        assert encoder.embed(torch.zeros(3, 2)).shape == (3, 5)
        with pytest.raises(ContractError, match="describes x"):
            encoder(torch.zeros(3, 2))

    def test_a_posterior_describes_by_its_centre(self):
        encoder, x = self.make(), torch.randn(4, 2, generator=generator())
        torch.testing.assert_close(encoder.embed(x), encoder(x, temperature=0.0).noise)


def test_decoder_and_data_are_one_model():
    data, decoder = RandomMLPData(law=pinwheel(), seed=3), RandomMLPDecoder((2,), LAYOUT, seed=3)
    z, _ = pinwheel().split("test").get(torch.arange(3000))
    x, _ = data.split("test").get(torch.arange(3000))
    noise = (x - decoder(Latent((z,))).mean) / 0.25
    torch.testing.assert_close(noise.mean(0), torch.zeros(2), atol=0.06, rtol=0)
    torch.testing.assert_close(noise.T @ noise / 3000, torch.eye(2), atol=0.08, rtol=0)
    # Another seed is another network, and the noise no longer comes out white.
    other = (x - RandomMLPDecoder((2,), LAYOUT, seed=4)(Latent((z,))).mean) / 0.25
    assert float(other.square().mean()) > 2.0


def test_weights_have_the_scales_asked_for_and_stay():
    decoder = RandomMLPDecoder((2,), LAYOUT, weight_std=0.5, bias_std=0.3)
    assert not list(decoder.parameters())
    assert decoder.net.weight1.std().item() == pytest.approx(0.5, rel=0.05)
    assert decoder.net.bias1.std().item() == pytest.approx(0.3, rel=0.2)
    again = RandomMLPDecoder((2,), LAYOUT, weight_std=0.5, bias_std=0.3)
    assert all(torch.equal(a, b) for a, b in zip(decoder.buffers(), again.buffers(), strict=True))


def test_the_tilted_prior_is_the_law():
    model = Model(StandardNormal(2), energy=DensityEnergy(pinwheel(), on="latent"))
    target, z = PriorTarget(model), torch.randn(50, 2, generator=generator())
    # With the constant of the base, the potential is minus the log density itself.
    expected = -pinwheel().log_prob(z) - math.log(2 * math.pi)
    torch.testing.assert_close(target.potential(z), expected, atol=1e-4, rtol=1e-4)
    kernel = Ex2(candidates=8, local=MALA(step_size=0.02), steps=60)
    ends = run_chain(target, kernel, target.draw_base(3000, generator(1)), generator=generator(2)).position
    along = directions(2, 20, generator(3))
    (first, _), (second, _) = (pinwheel().draw(3000, generator=generator(seed)) for seed in (4, 5))
    floor = float(sliced_wasserstein(first, second, along))
    assert float(sliced_wasserstein(ends, first, along)) < 2.5 * floor + 0.02


def test_on_data_the_potential_is_minus_log_density():
    grid = GaussianGrid(side=2, std=0.5)
    target, x = DataTarget(Model(energy=DensityEnergy(grid), data_shape=(2,))), torch.randn(9, 2)
    torch.testing.assert_close(target.potential(x), -grid.log_prob(x))


def test_local_chains_stay_in_the_wrong_arm_where_global_moves_do_not():
    # What the experiment turns on: with a thousand steps of the paper's Langevin a chain begun at noise has not left
    # the arm it fell into. The posterior on a grid is the truth.
    model = Model(
        StandardNormal(2), RandomMLPDecoder((2,), LAYOUT, seed=0), energy=DensityEnergy(pinwheel(), on="latent")
    )
    x, _ = RandomMLPData(law=pinwheel(), seed=0).split("test").get(torch.arange(150))
    axis = torch.linspace(-4.5, 4.5, 120)
    points = torch.cartesian_prod(axis, axis)
    log_prior = pinwheel().log_prob(points)
    mean = model.likelihood(Latent((points,))).mean
    weight = torch.softmax(log_prior - 0.5 * torch.cdist(x, mean).square() / 0.25**2, dim=1)
    truth = (weight * arm(points)).sum(1)
    sure = (truth < 0.02) | (truth > 0.98)
    start = torch.randn(150, 2, generator=generator())

    def wrong(kernel, steps):
        ends = run_chain(PosteriorTarget(model, x), kernel, start, generator=generator(1), steps=steps).position
        return float((arm(ends) != truth.round())[sure].float().mean())

    assert wrong(Langevin(step_size=5e-3), 300) > 0.25  # s = 0.1
    assert wrong(Ex2(candidates=8, local=MALA(step_size=0.02)), 40) < 0.05


def arm(z):
    """1 where the second arm is nearer: untwisted, a point's first coordinate says which."""
    point = z / 2.0
    twist = 0.25 * point.norm(dim=1).exp()
    return (twist.cos() * point[:, 0] + twist.sin() * point[:, 1] < 0).float()


def test_a_recipe_composes_them():
    made = compose(
        """
genfw: 1
name: small-pinwheel
data: {use: random-mlp, seed: 2, law: {use: pinwheel, scale: 2.0, train: 100, test: 50}}
prior: {use: standard-normal, dim: 2}
decoder: {use: random-mlp, seed: "${data.seed}"}
energy: {use: density, on: latent, law: "${data.law}"}
"""
    )
    x, _ = made.data.split("train").get(torch.arange(10))
    assert PosteriorTarget(made.model, x).potential(torch.zeros(10, 2)).isfinite().all()
    assert torch.equal(made.model.decoder.net.weight0, made.data.net.weight0)


class Unknown(Dataset):
    data_shape = (2,)

    def split(self, name):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomMLPDecoder((2,), LAYOUT, sigma=0.0), "sigma must be above 0, got 0.0"),
        (lambda: RandomMLPDecoder((2,), LAYOUT, weight_std=0.0), "weight_std must be above 0"),
        (lambda: RandomMLPDecoder((2,), LAYOUT, hidden=(0,)), "at least 1, got [2, 0, 2]"),
        (lambda: RandomMLPData(law=pinwheel(), size=0), "size must be above 0"),
        (lambda: DensityEnergy(Unknown())(torch.zeros(1, 2)), "needs a law with a known density; Unknown has none"),
        (lambda: DensityEnergy(pinwheel())(torch.zeros(1, 3)), "over 2 numbers, and the energy is asked for 3"),
    ],
)
def test_bad_input_is_refused_with_its_reason(build, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        build()
