"""The convolutional decoder and encoder: the laws of their interfaces, the papers' shapes, and what they refuse."""

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces.values import Latent, NoiseLayout
from genfw.testing import DecoderSuite, EncoderSuite
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan.decoder import DCGANDecoder
from genfw_plugins.dcgan.encoder import DCGANEncoder
from genfw_plugins.dcgan.network import Project
from genfw_plugins.dcgan.presets import PRESETS

LAYOUT = NoiseLayout.of(**{"z.0": (5,)})

#: Data, its shape, hidden maps of the generator and of the encoder at width 1 (Tables S2 and S4).
PAPER = {
    "svhn": ((3, 32, 32), [(8, 4), (4, 8), (2, 16)], [(1, 32), (2, 16), (4, 8), (8, 4)]),
    "celeba64": (
        (3, 64, 64),
        [(8, 4), (4, 8), (2, 16), (1, 32)],
        [(1, 64), (2, 32), (4, 16), (8, 8), (8, 4)],
    ),
    "cifar10": ((3, 32, 32), [(8, 8), (4, 16), (2, 32)], [(1, 32), (2, 16), (4, 8), (8, 4)]),
    "celeba-hq-256": (
        (3, 256, 256),
        [(16, 4), (8, 8), (4, 16), (4, 32), (2, 64), (1, 128)],
        [(1, 256), (2, 128), (4, 64), (4, 32), (8, 16), (8, 8), (8, 4)],
    ),
    "mnist": ((1, 28, 28), [(8, 7), (4, 14), (2, 28)], [(1, 28), (2, 14), (4, 7), (8, 3)]),
}


class TestDecoder(DecoderSuite):
    latent_shapes = ((5,),)

    def make(self):
        return DCGANDecoder((1, 8, 8), LAYOUT, start=4, factors=(2,), width=3, sigma=0.3)


class TestDecoderThatKeepsItsSide(DecoderSuite):
    latent_shapes = ((5,),)

    def make(self):
        return DCGANDecoder((2, 6, 6), LAYOUT, start=3, factors=(2, 1), width=3, sigma=0.3, last="same")


class TestEncoder(EncoderSuite):
    shape = (2, 8, 8)
    borrowed = ("_prior",)  # the model's, not the encoder's

    def make(self):
        return DCGANEncoder((2, 8, 8), StandardNormal(3), factors=(1, 2), width=4)


def maps(net, v, kind):
    """Channels and side after each activation of a kind."""
    found = []
    for layer in net:
        v = layer(v)
        if isinstance(layer, kind):
            found.append((v.shape[1], v.shape[2]))
            assert v.shape[2] == v.shape[3]
    return found, v


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_tables_of_the_paper(name):
    shape, decoder_maps, encoder_maps = PAPER[name]
    decoder = DCGANDecoder(shape, LAYOUT, architecture=name, width=1)
    found, x = maps(decoder.net, torch.randn(1, 5), torch.nn.LeakyReLU)
    assert found == decoder_maps
    assert x.shape == (1, *shape)
    assert x.abs().max() <= 1.0
    encoder = DCGANEncoder(shape, architecture=name, width=1, embedding=6)
    found, vector = maps(encoder.net, torch.randn(1, *shape), torch.nn.LeakyReLU)
    assert found == encoder_maps
    assert vector.shape == (1, 6)


def test_every_preset_is_tested_and_has_the_paper_s_width():
    assert PRESETS.keys() == PAPER.keys()
    assert {name: preset.width for name, preset in PRESETS.items()} == dict.fromkeys(PAPER, 128) | {"svhn": 64}
    with torch.device("meta"):
        decoder = DCGANDecoder((3, 32, 32), LAYOUT, architecture="svhn")
    assert decoder.net[0].weight.shape == (5, 8 * 64, 4, 4)


def test_arguments_go_before_the_preset():
    decoder = DCGANDecoder((3, 16, 16), LAYOUT, architecture="svhn", width=2, factors=(4, 1))
    assert [layer.weight.shape[1] for layer in decoder.net if hasattr(layer, "weight")] == [8, 2, 3]


def test_projection_is_the_transposed_convolution():
    project = Project(5, 3, 4)
    z = torch.randn(6, 5)
    expected = torch.nn.functional.conv_transpose2d(z[:, :, None, None], project.weight, project.bias)
    torch.testing.assert_close(project(z), expected)


def test_likelihood_has_the_sigma_it_was_given():
    decoder = DCGANDecoder((1, 8, 8), LAYOUT, start=4, factors=(2,), width=2, sigma=0.7)
    likelihood = decoder(Latent((torch.randn(2, 5),)))
    noise = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(likelihood.transform(noise) - likelihood.mean, 0.7 * noise)


def test_embedding_is_deterministic_and_has_no_posterior():
    encoder = DCGANEncoder((1, 8, 8), StandardNormal(3), factors=(1, 2), width=4, embedding=7)
    x = torch.randn(2, 1, 8, 8)
    assert encoder.embed(x).shape == (2, 7)
    assert torch.equal(encoder.embed(x), encoder.embed(x))
    with pytest.raises(ContractError, match="leave embedding out"):
        encoder(x)


def test_embedding_of_a_posterior_is_its_centre():
    encoder = DCGANEncoder((1, 8, 8), StandardNormal(3), factors=(1, 2), width=4)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(encoder.embed(x), encoder(x, temperature=0.0).noise)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"give architecture \(one of svhn, celeba64"),
        ({"start": 4}, "or start and factors"),
        ({"architecture": "svhn"}, r"make images of 32x32.*\(1, 8, 8\)"),
        ({"start": 4, "factors": (2,), "sigma": 0.0}, "sigma must be above 0"),
        ({"start": 4, "factors": ()}, "at least 1"),
    ],
)
def test_decoder_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        DCGANDecoder((1, 8, 8), LAYOUT, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give architecture"),
        ({"factors": (1, 2)}, "needs a prior"),
        ({"factors": (1, 2, 4, 8), "embedding": 4}, "too many for 8x8 images"),
        ({"factors": (1,), "data_shape": (8,), "embedding": 4}, "reads images"),
    ],
)
def test_encoder_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        DCGANEncoder(**{"data_shape": (1, 8, 8), **arguments})
