"""StyleGAN's parts: the laws of their kinds, the two generations against plain formulas, the perceptual likelihood."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from genfw.errors import ContractError
from genfw.interfaces.values import Latent, NoiseLayout
from genfw.models.model import Model
from genfw.models.targets import NoiseTarget, PosteriorTarget
from genfw.testing import DecoderSuite, EncoderSuite, PriorSuite
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.stylegan.decoder import StyleGANDecoder
from genfw_plugins.stylegan.encoder import StyleGANEncoder
from genfw_plugins.stylegan.features import Features
from genfw_plugins.stylegan.layers import Mapping
from genfw_plugins.stylegan.modulated import Synthesis2
from genfw_plugins.stylegan.prior import StyleGANPrior, triangular
from genfw_plugins.stylegan.synthesis import Synthesis

SHAPE = (3, 8, 8)
SMALL = {"channels_base": 32, "channels_max": 4}


def styled(width=3, **settings):
    prior = StyleGANPrior(SHAPE, width=width, truncation=0.7, **settings)
    rows = torch.randn(50, width, generator=torch.Generator().manual_seed(2))
    prior.standardise(rows.mean(0), rows.T.cov())
    return prior


class TestPriorOfOneStyle(PriorSuite):
    def make(self):
        return styled(space="w")


class TestPriorOfAllStyles(PriorSuite):
    def make(self):
        return styled(truncation_layers=2)


class TestPriorWithNoise(PriorSuite):
    def make(self):
        return styled(noise=True)


class TestStyleGAN(DecoderSuite):
    latent_shapes = ((4, 3),)

    def make(self):
        return StyleGANDecoder(SHAPE, NoiseLayout.of(**{"z.0": (4, 3)}), mapping_layers=0, sigma=0.3, **SMALL)


class TestStyleGAN2OfZ(DecoderSuite):
    latent_shapes = ((3,),)

    def make(self):
        layout = NoiseLayout.of(**{"z.0": (3,)})
        decoder = StyleGANDecoder(
            SHAPE, layout, "stylegan2-skip", "z", mapping_layers=2, sigma=None, truncation=0.7, **SMALL
        )
        # A mapping begins a hundred times smaller than its learning rate says; as trained it is not near 0.
        return decoder


class TestStyleGAN2OfOneStyleAndNoise(DecoderSuite):
    latent_shapes = ((3,), (1, 4, 4), (1, 8, 8), (1, 8, 8))

    def make(self):
        layout = Model(styled(space="w", noise=True, generation=2)).latent_layout
        return StyleGANDecoder(SHAPE, layout, "stylegan2-resnet", "w", mapping_layers=0, **SMALL)


class TestEncoder(EncoderSuite):
    shape = SHAPE
    borrowed = ("_prior",)  # the model's, not the encoder's

    def make(self):
        return StyleGANEncoder(SHAPE, styled(noise=True), channels_base=2, channels_max=4)


# -- against plain formulas -------------------------------------------------------------------------------------------


def test_a_fused_doubling_is_repeating_and_convolving():
    """The published fused layer (from 128 pixels on) and the plain one, each written out."""
    net = Synthesis(8, 3, 4, 32, 4).double()
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    stored = net.weights[1]
    scale = math.sqrt(2.0 / 36)
    plain = functional.conv2d(
        functional.interpolate(x, scale_factor=2), scale * stored.transpose(0, 1).flip(2, 3), padding=1
    )
    wide = functional.pad(scale * stored, (1, 1, 1, 1))
    wide = wide[:, :, 1:, 1:] + wide[:, :, :-1, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, :-1]
    fused = functional.conv_transpose2d(x, wide, stride=2, padding=1)
    blur = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    kernel = (torch.outer(blur, blur) / 16).expand(4, 1, 3, 3)
    for maps in (plain, fused):
        torch.testing.assert_close(
            net._convolve(x, 2, net.kernels()[1]), functional.conv2d(maps, kernel, padding=1, groups=4)
        )


def plain_modulated(layer, x, w):
    """A modulated convolution as the paper has it: weights of their own for every item."""
    images = []
    for item, style in zip(x, layer.style(w), strict=True):
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:
            zeros = item.new_zeros(item.shape[0], 2 * item.shape[1], 2 * item.shape[2])
            zeros[:, ::2, ::2] = item
            y = functional.conv2d(functional.pad(zeros, (2, 2, 2, 2))[None], weight.flip(2, 3))
            line = torch.tensor([1.0, 3.0, 3.0, 1.0]).to(x) / 4
            kernel = torch.outer(line, line).expand(y.shape[1], 1, 4, 4)
            y = functional.conv2d(y, kernel, padding=1, groups=y.shape[1])[
                :, :, : 2 * item.shape[1], : 2 * item.shape[2]
            ]
        else:
            y = functional.conv2d(item[None], weight, padding=1)
        images.append(y[0])
    y = torch.stack(images) + layer.strength * layer.noise + layer.bias[:, None, None]
    return math.sqrt(2.0) * functional.leaky_relu(y, 0.2)


@pytest.mark.parametrize("number", [1, 2])
def test_a_modulated_convolution_is_the_paper_s(number):
    net = Synthesis2(8, 3, 5, 32, 4, "skip").double()
    layer = net.layers[number]
    with torch.no_grad():
        layer.strength += 0.4
        layer.bias += torch.randn(4)
    w = torch.randn(3, 5, dtype=torch.float64)
    x = torch.randn(3, 4, 4 * number, 4 * number, dtype=torch.float64)
    torch.testing.assert_close(layer(x, w, None, net.kernel, 1.0), plain_modulated(layer, x, w))


def test_a_residual_generator_adds_its_shortcut():
    """With the layers' weights at zero, only the doubled shortcut of the constant's layer is left."""
    net = Synthesis2(8, 3, 5, 32, 4, "resnet")
    w = torch.randn(2, 4, 5)
    for layer in net.layers[1:]:
        nn.init.zeros_(layer.weight)
    x = net.layers[0](net.const.expand(2, -1, -1, -1), w[:, 0], None, net.kernel, 1.0)
    short = functional.conv2d(x, net.shortcuts[0]) * math.sqrt(0.5 / 4)
    zeros = short.new_zeros(2, 4, 8, 8)
    zeros[:, :, ::2, ::2] = short
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = torch.outer(line, line).expand(4, 1, 4, 4)
    up = functional.conv2d(functional.pad(zeros, (2, 1, 2, 1)), kernel, groups=4)
    torch.testing.assert_close(net(w), net.images[0](up, w[:, 3]))


def test_constant_noise_is_the_noise_that_is_given():
    for generation, architecture in ((1, "stylegan"), (2, "stylegan2-skip")):
        prior = styled(noise=True, generation=generation)
        decoder = StyleGANDecoder(SHAPE, Model(prior).latent_layout, architecture, sigma=None, **SMALL)
        for name, parameter in decoder.named_parameters():
            if name.endswith("strength"):
                nn.init.ones_(parameter)
        w = torch.randn(2, 4, 3)
        held = [
            value[None, None].expand(2, -1, -1, -1)
            for name, value in decoder.named_buffers()
            if name.endswith(".noise")
        ]
        constant = decoder.synthesis(w)
        torch.testing.assert_close(decoder(Latent((w, *held))).mean, constant)
        assert not torch.allclose(decoder(Latent((w, *(plane + 1 for plane in held)))).mean, constant)


# -- spaces and laws --------------------------------------------------------------------------------------------------


def test_the_three_spaces_are_one_generator():
    decoder = StyleGANDecoder(SHAPE, NoiseLayout.of(**{"z.0": (3,)}), space="z", truncation=0.5, sigma=None, **SMALL)
    decoder.mapping.mean.normal_()
    z = torch.randn(2, 3)
    w = decoder.mapping.mean + 0.5 * (decoder.mapping(z) - decoder.mapping.mean)
    expected = decoder(Latent((z,))).mean
    for space, latent in (("w", w), ("w+", w[:, None].expand(-1, 4, -1))):
        other = StyleGANDecoder(SHAPE, NoiseLayout.of(**{"z.0": latent.shape[1:]}), space=space, sigma=None, **SMALL)
        other.load_state_dict(decoder.state_dict())
        torch.testing.assert_close(other(Latent((latent,))).mean, expected)


def test_the_prior_has_the_mapping_s_statistics():
    mapping = Mapping(6, 2)
    mean, covariance = mapping.statistics(4_000, torch.Generator().manual_seed(0))
    prior = StyleGANPrior(SHAPE, "w", width=6)
    prior.standardise(mean, covariance)
    noise = torch.randn(40_000, 6, generator=torch.Generator().manual_seed(1))
    (w,) = prior.transform([noise]).groups
    torch.testing.assert_close(w.mean(0), mean, rtol=0.05, atol=0.02 * float(covariance.trace().sqrt()))
    assert float((w.T.cov() - covariance).norm() / covariance.norm()) < 0.05
    wrong = Mapping(6, 2).statistics(4_000, torch.Generator().manual_seed(0))[
        1
    ]  # the negative control: another mapping
    assert float((w.T.cov() - wrong).norm() / covariance.norm()) > 0.2


def test_the_factor_of_a_covariance_without_full_rank():
    rows = torch.randn(3, 5)
    lower = triangular(rows.T @ rows)
    assert torch.equal(lower, lower.tril())
    assert float((lower @ lower.T - rows.T @ rows).norm() / (rows.T @ rows).norm()) < 1e-3


def test_styles_come_back_from_their_noise():
    prior = styled(noise=True)
    noise = torch.randn(2, Model(prior).latent_layout.size)
    latent = Model(prior).latent(noise)
    styles = latent.groups[0]
    back = prior.inverse(styles)
    torch.testing.assert_close(back[:, : styles[0].numel()], noise[:, : styles[0].numel()])
    assert not back[:, styles[0].numel() :].any()


def test_every_target_runs_on_it():
    prior = styled()
    layout = Model(prior).latent_layout
    energy = MLPEnergy(latent_layout=layout, on="latent", hidden=(8,))
    model = Model(prior, StyleGANDecoder(SHAPE, layout, sigma=0.3, **SMALL), energy=energy)
    x = torch.randn(2, *SHAPE)
    eps = torch.randn(2, layout.size)
    target = PosteriorTarget(model, x)
    latent = model.latent(eps)
    expected = model.latent_energy(latent) - model.likelihood(latent).log_prob(x) + 0.5 * eps.square().sum(1)
    torch.testing.assert_close(target.potential(eps), expected)
    value, gradient = target.potential_and_grad(eps)
    assert value.shape == (2,)
    assert bool(gradient.any(1).all())
    on_data = Model(prior, model.decoder, energy=MLPEnergy(data_shape=SHAPE, hidden=(8,)))
    noise = NoiseTarget(on_data)
    assert noise.layout.size == layout.size + 192
    assert bool(noise.potential_and_grad(torch.randn(2, noise.layout.size))[1].isfinite().all())


def test_frozen_weights_stay_and_others_do_not():
    layout = NoiseLayout.of(**{"z.0": (4, 3)})
    frozen = StyleGANDecoder(SHAPE, layout, frozen=True, **SMALL)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in StyleGANDecoder(SHAPE, layout, **SMALL).parameters())


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": (3, 8, 6)}, "square images"),
        ({"data_shape": (3, 12, 12)}, "power of two from 8 up, not 12"),
        ({"data_shape": (3, 16, 16)}, r"the latent has shape \(6, 3\).*the prior's has \(4, 3\)"),
        ({"space": "z"}, r"in space 'z' the latent has shape \(3,\)"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"sigma": None, "perceptual": Features(network="random")}, "needs sigma"),
        ({"space": "z", "mapping_layers": 0}, "needs the mapping network"),
        ({"architecture": "stylegan2-skip", "lod": 1}, "lod is for architecture 'stylegan'"),
        ({"latent_layout": NoiseLayout.of(**{"z.0": (4, 3), "z.1": (1, 4, 4)})}, "its noise is none of the layers'"),
    ],
)
def test_decoder_refuses(arguments, message):
    settings = {"data_shape": SHAPE, "latent_layout": NoiseLayout.of(**{"z.0": (4, 3)}), **SMALL, **arguments}
    with pytest.raises(ContractError, match=message):
        StyleGANDecoder(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": (3, 8)}, "square images"),
        ({"truncation": 0.0}, "truncation must be above 0"),
        ({"space": "w", "truncation_layers": 2}, "truncation_layers is for space 'w\\+'"),
    ],
)
def test_prior_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        StyleGANPrior(**{"data_shape": SHAPE, **arguments})


def test_encoder_refuses():
    with pytest.raises(ContractError, match="the prior is a StandardNormal"):
        StyleGANEncoder(SHAPE, StandardNormal(4))
    with pytest.raises(ContractError, match="the prior is absent"):
        StyleGANEncoder(SHAPE)
    with pytest.raises(ContractError, match="scale must be above 0"):
        StyleGANEncoder(SHAPE, styled(), scale=0.0)
    description = StyleGANEncoder(SHAPE, styled(), channels_base=2, embedding=7).eval()
    x = torch.randn(2, *SHAPE)
    assert description.embed(x).shape == (2, 7)
    with pytest.raises(ContractError, match="leave embedding out"):
        description(x)
