"""StyleGAN, StyleGAN2 and the encoder, number by number; runs where the reference values are at hand."""

import json

import pytest
import torch
from safetensors import safe_open

from genfw.interfaces.values import Latent, NoiseLayout
from genfw_plugins.stylegan.decoder import StyleGANDecoder
from genfw_plugins.stylegan.encoder import StyleGANEncoder
from genfw_plugins.stylegan.prior import StyleGANPrior
from genfw_plugins.stylegan.published import names
from genfw_plugins.stylegan.published.read import architecture
from places import GOLDEN

GENERATORS = sorted([*GOLDEN.glob("stylegan-generator-*"), *GOLDEN.glob("stylegan2-generator-*")])


def opened(file):
    with safe_open(file, "pt") as golden:
        tensors = {name: golden.get_tensor(name) for name in golden.keys()}  # noqa: SIM118 - not a mapping
        config = json.loads(golden.metadata()["config"])
    weights = {k.removeprefix("state_dict."): v for k, v in tensors.items() if k.startswith("state_dict.")}
    return config, weights, tensors


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=GENERATORS, ids=lambda file: file.stem)
def generator(request):
    """Configuration, state and block of one generator, and the reference's numbers."""
    config, weights, tensors = opened(request.param)
    ((kind, prefix),) = names.convention(weights)
    assert prefix == ""
    state = names.idinvert(weights) if kind == "idinvert" else names.ada(weights)
    lod = round(0.5 + float(weights["synthesis.lod"])) if kind == "idinvert" else 0
    block = architecture(state, lod)
    return config, state, {name: value for name, value in block.items() if name != "use"}, tensors


def decoder_of(config, state, block, **further):
    side, width = config["resolution"], config["w_dim"]
    layers = 2 * (side.bit_length() - 2)
    shape = (layers, width) if further.get("space", "w+") == "w+" else (width,)
    decoder = StyleGANDecoder((3, side, side), NoiseLayout.of(**{"z.0": shape}), **block, **further)
    decoder.load_state_dict(state)
    return decoder


def test_images_and_gradients_over_styles(generator):
    config, state, block, tensors = generator
    decoder = decoder_of(config, state, block)
    styles = tensors["wplus"].clone().requires_grad_(True)
    image = decoder(Latent((styles,))).mean
    close(image, tensors["image_from_wplus"])
    if "grad_wplus_of_mean_square" in tensors:
        (gradient,) = torch.autograd.grad(image.square().mean(), styles)
        scale = tensors["grad_wplus_of_mean_square"].abs().max()
        close(gradient / scale, tensors["grad_wplus_of_mean_square"] / scale)


def test_images_from_z_and_truncation(generator):
    config, state, block, tensors = generator
    truncation = {"truncation": 0.7, "truncation_layers": config.get("truncation_layers")}
    decoder = decoder_of(config, state, block, space="z", **truncation)
    with torch.no_grad():
        if "w" in tensors:
            close(decoder.mapping(tensors["z"]), tensors["w"])
        close(decoder.styles(tensors["z"]), tensors["wp" if "wp" in tensors else "ws"])
        close(decoder(Latent((tensors["z"],))).mean, tensors["image"])


def test_the_encoder_gives_the_published_styles():
    files = sorted(GOLDEN.glob("stylegan-encoder-*"))
    if not files:
        pytest.skip("no reference values here")
    config, weights, tensors = opened(files[0])
    prior = StyleGANPrior((3, 32, 32), width=config["w_dim"])
    prior.standardise(torch.randn(16), torch.eye(16) + 0.3)
    encoder = StyleGANEncoder((3, 32, 32), prior, config["channels_base"], config["channels_max"], scale=0.2)
    state = names.idinvert_encoder(weights)
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["log_scale"], [])
    encoder.eval()
    with torch.no_grad():
        close(encoder.styles(tensors["x"]).flatten(1), tensors["w"])
        posterior = encoder(tensors["x"], temperature=0.0)
    close(posterior.latent.flat(), tensors["w"])
    close(encoder.embed(tensors["x"]), posterior.noise)
