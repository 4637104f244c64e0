"""Feature networks, by name and file, and the likelihood that compares by them."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from genfw.errors import ContractError, DataError
from genfw.interfaces.likelihood import Deterministic, Gaussian
from genfw.interfaces.values import Latent, NoiseLayout
from genfw_plugins.stylegan.decoder import StyleGANDecoder
from genfw_plugins.stylegan.features import Features
from genfw_plugins.stylegan.perceptual import Perceptual

SHAPE = (3, 8, 8)
SMALL = {"channels_base": 32, "channels_max": 4}


def test_the_likelihood_is_the_one_asked_for():
    layout, latent = NoiseLayout.of(**{"z.0": (4, 3)}), Latent((torch.randn(2, 4, 3),))
    assert isinstance(StyleGANDecoder(SHAPE, layout, sigma=None, **SMALL)(latent), Deterministic)
    assert isinstance(StyleGANDecoder(SHAPE, layout, **SMALL)(latent), Gaussian)
    decoder = StyleGANDecoder(SHAPE, layout, perceptual=Features(network="random", weight=0.5), sigma=0.2, **SMALL)
    likelihood = decoder(latent)
    assert isinstance(likelihood, Perceptual)
    assert decoder.noise_shape is likelihood.noise_shape is None
    x = torch.randn(2, *SHAPE)
    network = decoder.features
    error = (network(x) - network(likelihood.mean)).square().mean((1, 2, 3))
    pixels = Gaussian(likelihood.mean, 0.2).log_prob(x)
    torch.testing.assert_close(likelihood.log_prob(x), pixels - 0.5 * 192 * error / (2 * 0.2**2))
    assert torch.equal(likelihood.sample(), likelihood.mean)


def test_features_are_fixed_frozen_and_go_grey():
    first, second = Features(network="random").build(), Features(network="random").build()
    grey = torch.randn(2, 1, 16, 16)
    assert torch.equal(first(grey), second(grey.expand(-1, 3, -1, -1)))
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert not any(part.training for part in first.train().modules())
    assert Features(network="random", size=8).build()(grey).shape[-1] == 1


@pytest.fixture
def published_vgg(tmp_path, monkeypatch):
    """torchvision's smallest VGG up to its first ReLU, as a file of weights."""
    torch.manual_seed(0)
    weights = {"features.0.weight": torch.randn(64, 3, 3, 3), "features.0.bias": torch.randn(64)}
    torch.save(weights, tmp_path / "vgg11.pth")
    save_file(weights, tmp_path / "vgg11.safetensors")
    return tmp_path, weights


def test_a_network_of_torchvision_by_layer_and_file(published_vgg):
    folder, weights = published_vgg
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    colours = (0.5 * x + 0.5 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    expected = functional.conv2d(colours, *weights.values(), padding=1).relu()
    for name in ("vgg11.pth", "vgg11.safetensors"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        features = Features(network="vgg11", layer="features.1", weights=folder / name, sha256=digest[:12])
        torch.testing.assert_close(features.build()(x), expected)
        assert features.digest() == f"vgg11, features.1, {digest[:16]}"


def test_features_that_can_not_be_had(published_vgg):
    folder, _ = published_vgg
    file = folder / "vgg11.pth"
    with pytest.raises(ContractError, match="no classifier 'vgg61'"):
        Features(network="vgg61", weights=file).build()
    with pytest.raises(
        ContractError, match=r"need its weights: fetch torchvision's file \(https://.*vgg16-397923af\.pth\)"
    ):
        Features().build()
    with pytest.raises(DataError, match="there is no file"):
        Features(weights=folder / "absent.pth").build()
    with pytest.raises(DataError, match=r"is not the file that was meant.*should begin with 397923af"):
        Features(network="vgg16", weights=file).build()
    with pytest.raises(ContractError, match=r"has no layer 'features\.99'"):
        Features(network="vgg11", layer="features.99", weights=file).build()
    with pytest.raises(DataError, match=r"does not fit 'vgg11': it lacks features\.3\.weight"):
        Features(network="vgg11", layer="features.4", weights=file).build()
    with pytest.raises(ContractError, match=r"weight must be at least 0, got -1\.0"):
        Features(weight=-1.0)
