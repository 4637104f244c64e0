"""The MLP parts keep the laws of their interfaces, and a few of their own."""

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces.values import Latent, NoiseLayout
from genfw.models.model import Model
from genfw.testing import DecoderSuite, EncoderSuite, EnergySuite, PriorSuite
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mlp_energy.energy import MLPEnergy

LAYOUT = NoiseLayout.of(**{"z.0": (4,)})


class TestStandardNormal(PriorSuite):
    def make(self):
        return StandardNormal(dim=3)


class TestFixedScale(DecoderSuite):
    latent_shapes = ((4,),)

    def make(self):
        return MLPDecoder((2,), LAYOUT, hidden=(16,), sigma=0.3)


class TestLearnedScale(DecoderSuite):
    latent_shapes = ((4,),)

    def make(self):
        return MLPDecoder((1, 2, 3), LAYOUT, hidden=(16, 16), scale="learned", output="tanh")


class TestScalePerLatent(DecoderSuite):
    latent_shapes = ((4,),)

    def make(self):
        return MLPDecoder((2,), LAYOUT, hidden=(16,), scale="per-latent", activation="gelu")


class TestEncoder(EncoderSuite):
    shape = (1, 2, 3)
    borrowed = ("_prior",)  # the model's, not the encoder's

    def make(self):
        return MLPEncoder(StandardNormal(3), (1, 2, 3), hidden=(16,))


class TestEnergyOnData(EnergySuite):
    shape = (1, 4, 4)

    def make(self):
        return MLPEnergy((1, 4, 4), hidden=(16,), input_scale=3.0, spectral_iterations=2)


class TestEnergyOnLatent(EnergySuite):
    shape = (4,)

    def make(self):
        return MLPEnergy(latent_layout=LAYOUT, on="latent", hidden=(16, 16), activation="leaky-relu")


@pytest.mark.parametrize("scale", ["fixed", "learned", "per-latent"])
def test_every_kind_of_scale_begins_at_sigma(scale):
    decoder = MLPDecoder((3,), LAYOUT, hidden=(8,), sigma=0.37, scale=scale)
    likelihood = decoder(Latent((torch.randn(5, 4),)))
    torch.testing.assert_close(likelihood.scale.expand(5, 3), torch.full((5, 3), 0.37))


def test_the_encoders_weights_do_not_hold_the_prior():
    prior = StandardNormal(3)
    prior.extra = torch.nn.Parameter(torch.zeros(1))
    encoder = MLPEncoder(prior, (2,))
    assert not any("prior" in name for name in encoder.state_dict())


def test_closed_form_kl_equals_the_average_of_the_draws():
    torch.manual_seed(0)
    encoder = MLPEncoder(StandardNormal(3), (2,), hidden=(8,))
    x = torch.randn(1, 2).expand(40_000, 2)
    posterior = encoder(x, generator=torch.Generator().manual_seed(1))
    ratio = posterior.log_q - posterior.log_p
    assert (ratio.mean() - posterior.kl.sum(1).mean()).abs() < 5 * ratio.std() / len(x) ** 0.5


def test_noise_of_the_posterior_leads_back_to_its_latent():
    prior = StandardNormal(3)
    encoder = MLPEncoder(prior, (2,), hidden=(8,))
    posterior = encoder(torch.randn(4, 2), temperature=0.0)
    torch.testing.assert_close(Model(prior).latent(posterior.noise).flat(), posterior.latent.flat())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: StandardNormal(0), "dim must be at least 1, got 0"),
        (lambda: MLPDecoder((2,), LAYOUT, sigma=1e-4), "sigma must exceed sigma_min"),
        (lambda: MLPDecoder((2,), LAYOUT, hidden=(0,)), "width of at least 1"),
        (lambda: MLPEnergy(on="latent"), "needs a prior"),
        (lambda: MLPEnergy(), "needs to know the data's shape"),
    ],
)
def test_bad_arguments_are_said(act, message):
    with pytest.raises(ContractError, match=message):
        act()
