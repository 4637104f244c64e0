"""What chains and walks compute in a quicker way is what they would compute plainly."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.errors import ContractError
from genfw.interfaces import Energy
from genfw.interfaces.target import Target
from genfw.models.chains import run_chain
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import NoiseTarget, PosteriorTarget, PriorTarget
from genfw.nn.layers import Activation, mlp
from genfw.nn.manual_grad import MLPByHand, closed_form
from genfw.testing import DecoderSuite
from genfw.testing.tiny import TinyDecoder, TinyEnergy, TinyPrior
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan import for_chain
from genfw_plugins.dcgan import winograd as doubling
from genfw_plugins.dcgan.decoder import DCGANDecoder
from genfw_plugins.dcgan.for_chain import StillGenerator
from genfw_plugins.dcgan.network import Gather
from genfw_plugins.dcgan.products import Products
from genfw_plugins.dcgan.winograd import WinogradDoubling
from genfw_plugins.ddpm import walk
from genfw_plugins.ddpm.network import MLPUNet
from genfw_plugins.ddpm.walk import Walk
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.resnet_energy import for_chain as energy_for_chain
from genfw_plugins.resnet_energy import winograd
from genfw_plugins.resnet_energy.energy import ResNetEnergy
from genfw_plugins.resnet_energy.winograd import Winograd

SIZE = 6
LAYOUT = Model(StandardNormal(SIZE)).latent_layout
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def close(actual: Tensor, expected: Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, **(tolerance or EXACT))


# -- gradients by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "leaky-relu", "tanh"])
def test_gradient_of_an_mlp_by_hand_is_autograds(activation: Activation) -> None:
    net = mlp(SIZE, (9, 7), 2, activation).double()
    v = torch.randn(5, SIZE, dtype=torch.float64, requires_grad=True)
    kept = v.detach().clone()
    weight = torch.randn(5, 2, dtype=torch.float64)
    expected = net(v)
    (slope,) = torch.autograd.grad((weight * expected).sum(), v)
    by_hand = closed_form(MLPByHand(net), v)
    close(by_hand, expected)
    close(torch.autograd.grad((weight * by_hand).sum(), v)[0], slope)
    assert torch.equal(v, kept)  # what is overwritten on the way is never the caller's


def test_a_first_activation_leaves_the_callers_points_alone() -> None:
    v = torch.randn(3, SIZE)
    kept = v.clone()
    MLPByHand(nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(SIZE, 1)))(v)
    assert torch.equal(v, kept)


def test_a_layer_without_a_written_gradient_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no gradient is written for the layer Dropout"):
        MLPByHand(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    with pytest.raises(TypeError, match=r"no gradient is written for the layer Sigmoid"):
        StillGenerator(nn.Sequential(nn.Sigmoid(), nn.Tanh()), torch.float32)


def test_differentiating_twice_is_refused_and_not_wrong() -> None:
    energy = MLPEnergy(latent_layout=LAYOUT, on="latent", hidden=(4,))
    v = torch.randn(3, SIZE, requires_grad=True)
    with energy.for_chain(), pytest.raises(ContractError, match="can't be differentiated again"):
        torch.autograd.grad(energy(v).sum(), v, create_graph=True)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_value_and_gradient_of_an_energy_follow_its_weights(scale: float) -> None:
    energy = MLPEnergy(latent_layout=LAYOUT, on="latent", hidden=(9,), input_scale=scale).double()
    v = torch.randn(5, SIZE, dtype=torch.float64)
    for _ in range(2):
        value, slope = energy.value_and_grad(v)
        plain, autograd = Energy.value_and_grad(energy, v)
        close(value, plain)
        close(slope, autograd)
        assert not value.requires_grad
        assert not slope.requires_grad
        with torch.no_grad():
            energy.net[0].weight.mul_(2.0)


# -- chains -----------------------------------------------------------------------------------------------------------


def damc(decoder: DCGANDecoder) -> Model:
    prior = StandardNormal(SIZE)
    return Model(prior, decoder, energy=MLPEnergy(latent_layout=LAYOUT, on="latent", activation="leaky-relu"))


class Plain(Target):
    """Another target, its gradient by autograd through networks as they are."""

    def __init__(self, target: NoiseTarget) -> None:
        self.target, self.layout = target, target.layout

    def tilt(self, position: Tensor) -> Tensor:
        return self.target.tilt(position)

    def to_data(self, position, *, mean=False, generator=None):
        return position


@pytest.mark.parametrize("space", ["prior", "posterior"])
def test_a_chain_walks_where_autograd_through_the_plain_networks_leads(space: str, monkeypatch) -> None:
    monkeypatch.setattr(for_chain, "CHANNELS", 1)  # narrow layers too are split as wide ones are
    model = damc(DCGANDecoder((3, 32, 32), LAYOUT, architecture="cifar10", width=2, sigma=0.3))
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    target = PriorTarget(model) if space == "prior" else PosteriorTarget(model, x)
    start, sampler = torch.randn(4, SIZE), Langevin(step_size=5e-3, steps=20)
    ends = [
        run_chain(each, sampler, start, generator=torch.Generator().manual_seed(1)) for each in (target, Plain(target))
    ]
    close(ends[0].position, ends[1].position, rtol=1e-4, atol=1e-4)
    close(ends[0].potential, ends[1].potential, rtol=1e-4, atol=1e-3)
    assert float((ends[0].position - start).abs().max()) > 0.1


def counted(target, monkeypatch) -> list[str]:
    """Names of a target's methods, as they are called."""
    calls: list[str] = []
    for name in ("potential", "potential_and_grad"):
        measured = getattr(target, name)
        monkeypatch.setattr(target, name, lambda position, n=name, m=measured: calls.append(n) or m(position))
    return calls


@pytest.mark.parametrize(("keep_every", "kept"), [(0, 0), (1, 10), (5, 2)])
def test_ten_moves_of_langevin_cost_ten_gradients(keep_every: int, kept: int, monkeypatch) -> None:
    target = PriorTarget(Model(StandardNormal(SIZE), energy=MLPEnergy(latent_layout=LAYOUT, on="latent")))
    calls, source = counted(target, monkeypatch), torch.Generator().manual_seed(1)
    sampler, start = Langevin(step_size=0.1, steps=10), torch.ones(3, SIZE)
    result = run_chain(target, sampler, start, generator=source, keep_every=keep_every)
    assert calls.count("potential_and_grad") == 10
    # One where the chain ends, and one where a position is kept; the last position is kept, and counted once.
    assert calls.count("potential") == kept + 1
    assert torch.equal(result.potential, target.potential(result.position))


@pytest.mark.parametrize("sampler", [Langevin(step_size=0.1, steps=10), MALA(step_size=0.1, steps=10, adapt=False)])
def test_a_chain_without_its_last_potential_is_the_same_chain(sampler, monkeypatch) -> None:
    target = PriorTarget(Model(StandardNormal(SIZE), energy=MLPEnergy(latent_layout=LAYOUT, on="latent")))
    start, sources = torch.ones(3, SIZE), [torch.Generator().manual_seed(1) for _ in range(2)]
    whole = run_chain(target, sampler, start, generator=sources[0])
    calls = counted(target, monkeypatch)
    without = run_chain(target, sampler, start, generator=sources[1], end_potential=False)
    assert calls.count("potential") == 0
    assert torch.equal(without.position, whole.position)
    assert torch.equal(without.acceptance, whole.acceptance)
    assert torch.equal(sources[0].get_state(), sources[1].get_state())
    assert without.potential.shape == (0,)
    assert "potential" not in repr(without)


def test_a_prior_that_maps_its_noise_is_differentiated_through() -> None:
    prior = TinyPrior()
    energy = MLPEnergy(latent_layout=Model(prior).latent_layout, on="latent")
    with torch.no_grad():
        prior.log_scale.fill_(1.0)
    target, position = PriorTarget(Model(prior, energy=energy)), torch.randn(4, 2)
    with frozen_for_chain(*target.modules()):
        value, slope = target.tilt_and_grad(position)
    close(value, Plain(target).tilt_and_grad(position)[0], rtol=1e-5, atol=1e-6)
    close(slope, Plain(target).tilt_and_grad(position)[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(slope, energy.value_and_grad(position)[1], rtol=0.1)


def test_several_energies_on_the_latent_are_added() -> None:
    energies = [MLPEnergy(latent_layout=LAYOUT, on="latent") for _ in range(2)]
    target, position = PriorTarget(Model(StandardNormal(SIZE), energy=energies)), torch.randn(4, SIZE)
    with frozen_for_chain(*target.modules()):
        _, slope = target.tilt_and_grad(position)
    close(slope, sum(energy.value_and_grad(position)[1] for energy in energies), rtol=1e-5, atol=1e-6)


def test_parts_are_held_for_the_length_of_a_chain_and_no_longer() -> None:
    calls: list[str] = []

    def note(part, name):
        @contextmanager
        def for_chain():
            calls.append(f"in {name}")
            yield
            calls.append(f"out {name}")

        part.for_chain = for_chain
        return part

    model = Model(TinyPrior(), note(TinyDecoder(), "decoder"), energy=note(TinyEnergy(), "energy"))
    with frozen_for_chain(*NoiseTarget(model).modules()):
        assert sorted(calls) == ["in decoder", "in energy"]
    assert sorted(calls[2:]) == ["out decoder", "out energy"]


# -- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("way", [WinogradDoubling, Products])
def test_every_way_of_doubling_is_the_transposed_convolution(
    way: type[WinogradDoubling] | type[Products], side: int
) -> None:
    weight, bias = torch.randn(3, 5, 4, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    expected = F.conv_transpose2d(x, weight, bias, 2, 1)
    gradient = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, gradient)
    value, pullback = way(weight, bias, side)(x.detach().permute(0, 2, 3, 1).contiguous())
    close(value.permute(0, 3, 1, 2), expected.detach())
    close(pullback(gradient.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2), slope)


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 1)])
def test_shares_of_every_pixel_add_up_to_the_transposed_convolution(kernel: int, stride: int, side: int) -> None:
    layer = torch.nn.ConvTranspose2d(7, 3, kernel, stride, 1, dtype=torch.float64)
    x = torch.randn(2, 7, side, side, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    gradient = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, gradient)
    with torch.no_grad():
        way = for_chain._shares(layer.weight, layer.bias, stride, 1)
        value, pullback = way(x.permute(0, 2, 3, 1).contiguous())
        close(value.permute(0, 3, 1, 2), expected.detach())
        close(pullback(gradient.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2), slope)


def test_winograds_doubling_keeps_single_precision() -> None:
    weight, x = torch.randn(64, 32, 4, 4) / 32, torch.randn(2, 64, 8, 8)
    expected = F.conv_transpose2d(x, weight, None, 2, 1)
    value, _ = WinogradDoubling(weight, torch.zeros(32), 8)(x.permute(0, 2, 3, 1).contiguous())
    assert float((value.permute(0, 3, 1, 2) - expected).abs().max()) < 2e-5 * float(expected.std())


def test_winograds_doubling_takes_a_few_images_at_a_time(monkeypatch) -> None:
    weight, bias = torch.randn(3, 5, 4, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x, way = torch.randn(7, 8, 8, 3, dtype=torch.float64), WinogradDoubling(weight, bias, 8)
    whole, pullback = way(x)
    gradient, seen = torch.randn_like(whole), []
    slope = pullback(gradient)
    monkeypatch.setattr(doubling, "_AT_ONCE", 3 * 8 * 8)
    monkeypatch.setattr(way, "_convolve", lambda part: seen.append(len(part)) or WinogradDoubling._convolve(way, part))
    parts, pull_parts = way(x)
    assert seen == [3, 3, 1]
    close(parts, whole)
    close(pull_parts(gradient), slope)


@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "dtype", "taken"),
    [
        (256, 128, 8, torch.float32, {1: "products", 3: "products", 4: "winograd", 64: "winograd"}),
        (256, 128, 16, torch.float32, {1: "winograd"}),
        (256, 64, 8, torch.float32, {1: "plain", 64: "plain"}),  # too few channels come out
        (256, 128, 4, torch.float32, {16: "products", 17: "plain"}),  # Winograd saves nothing at a side of 4
        (512, 256, 4, torch.float32, {1: "products", 64: "products"}),
        (256, 128, 9, torch.float32, {1: "plain"}),
        (256, 128, 8, torch.bfloat16, {1: "products", 64: "products"}),
        (256, 128, 16, torch.bfloat16, {1: "plain"}),
        (128, 3, 16, torch.float32, {1: "shares", 64: "shares"}),
        (128, 3, 16, torch.bfloat16, {1: "plain"}),
    ],
)
def test_each_way_of_doubling_is_taken_where_it_pays(inputs, outputs, side, dtype, taken, monkeypatch) -> None:
    names = {"_plain": "plain", "_shares": "shares", "Products": "products", "WinogradDoubling": "winograd"}
    seen: list[str] = []
    for made, name in names.items():
        replaced = mock.Mock(side_effect=lambda *_, name=name: lambda h: seen.append(name))
        replaced.saving = WinogradDoubling.saving
        monkeypatch.setattr(for_chain, made, replaced)
    layer = for_chain._convolve(torch.nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), side, dtype)
    for images, name in taken.items():
        layer(torch.empty(images, side, side, inputs, dtype=dtype))
        assert seen.pop() == name


@pytest.mark.parametrize("channels", [1, 1000])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((3, 32, 32), {"architecture": "cifar10", "width": 2}),
        ((3, 32, 32), {"architecture": "svhn", "width": 2}),
        ((1, 28, 28), {"architecture": "mnist", "width": 2}),
        ((3, 64, 64), {"architecture": "celeba64", "width": 2}),
    ],
)
def test_the_generator_in_a_chain_is_the_generator(shape, sizes, channels, monkeypatch) -> None:
    monkeypatch.setattr(for_chain, "CHANNELS", channels)
    decoder = DCGANDecoder(shape, LAYOUT, **sizes).double()
    z = torch.randn(3, SIZE, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, *shape, dtype=torch.float64)
    plain = decoder.net(z)
    (slope,) = torch.autograd.grad((weight * plain).sum(), z)
    with decoder.for_chain():
        image = closed_form(decoder._still, z)
        assert image.is_contiguous()
        close(image, plain)
        close(torch.autograd.grad((weight * image).sum(), z)[0], slope)
    assert decoder._still is None


class TestDecoderInChains(DecoderSuite):
    latent_shapes = ((SIZE,),)

    def make(self):
        return DCGANDecoder((1, 16, 16), LAYOUT, start=8, factors=(1, 1), last="same", width=128, sigma=0.5)


def test_bf16_in_chains_stays_near_and_keeps_images_in_full_precision() -> None:
    sizes = {"start": 4, "factors": (4, 2), "last": "same", "width": 8, "sigma": 0.5}
    decoder = DCGANDecoder((1, 8, 8), LAYOUT, **sizes, chain_precision="bf16")
    model, x = damc(decoder), torch.rand(4, 1, 8, 8)
    target, position = PosteriorTarget(model, x), torch.randn(4, SIZE)
    expected, slope = Plain(target).tilt_and_grad(position)
    with frozen_for_chain(*target.modules()):
        value, gradient = target.tilt_and_grad(position)
    assert value.dtype == gradient.dtype == torch.float32
    close(value, expected, rtol=1e-2, atol=1e-2)
    assert float((gradient - slope).norm() / slope.norm()) < 0.03
    assert not torch.equal(gradient, slope)


def test_a_convolution_as_large_as_its_map_is_a_product() -> None:
    layer = Gather(3, 5, (4, 2)).double()
    maps = torch.randn(6, 3, 4, 2, dtype=torch.float64)
    close(layer(maps), F.conv2d(maps, layer.weight, layer.bias))


# -- the residual energy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (4, 4), (5, 8), (7, 7), (8, 13)])
def test_winograds_convolution_is_the_convolution(height: int, width: int) -> None:
    weight, bias = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight, bias, 1, 1)
    gradient = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, gradient)
    value, pullback = Winograd(weight, bias)(x.detach().permute(0, 2, 3, 1).contiguous())
    close(value.permute(0, 3, 1, 2), expected.detach())
    close(pullback(gradient.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2), slope)


def test_winograds_convolution_takes_a_few_images_at_a_time(monkeypatch) -> None:
    weight, x = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(7, 8, 8, 3, dtype=torch.float64)
    whole, pullback = Winograd(weight, None)(x)
    gradient = torch.randn_like(whole)
    monkeypatch.setattr(winograd, "_AT_ONCE", 3 * 36 * 4 * 5 * 8)
    made = Winograd(weight, None)
    assert [len(part) for part, _ in made._parts(x, whole)] == [3, 3, 1]
    parts, pull_parts = made(x)
    close(parts, whole)
    close(pull_parts(gradient), pullback(gradient))


def test_winograds_convolution_keeps_single_precision() -> None:
    weight, x = torch.randn(64, 128, 3, 3) / 34, torch.randn(2, 128, 16, 16)
    expected = F.conv2d(x.double(), weight.double(), None, 1, 1)
    value, _ = Winograd(weight, None)(x.permute(0, 2, 3, 1).contiguous())
    assert float((value.permute(0, 3, 1, 2) - expected).abs().max()) < 5e-5 * float(expected.std())


def test_winograds_convolution_is_taken_where_it_saves() -> None:
    assert Winograd.saving(8, 16) == pytest.approx(4.0)
    assert Winograd.saving(7, 7) == pytest.approx(4.0 * 49 / 64)
    energy = ResNetEnergy((3, 28, 28), blocks=["down 128", 128, "down 128"])
    sizes = [energy_for_chain._convolution(torch.zeros(128, 64, 3, 3), None, (side, side)) for side in (28, 14, 7, 3)]
    taken = {4: [True, True, True, False], 2: [True, True, False, False], 1: [False] * 4}
    for images, expected in taken.items():
        pulls = [made(torch.zeros(images, 28, 28, 64))[1] for made in sizes]
        assert [isinstance(getattr(pull, "__self__", None), Winograd) for pull in pulls] == expected
    for outputs, inputs in ((128, 3), (64, 64)):
        narrow = energy_for_chain._convolution(torch.zeros(outputs, inputs, 3, 3), None, (28, 28))
        pull = narrow(torch.zeros(4, 28, 28, inputs))[1]
        assert not isinstance(getattr(pull, "__self__", None), Winograd)
    x = torch.rand(2, 3, 28, 28) * 2 - 1
    energy.initialise(x)
    expected = energy.value_and_grad(x)
    with frozen_for_chain(energy):
        for actual, plain in zip(energy.value_and_grad(x), expected, strict=True):
            close(actual, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 16, 16), {"blocks": ["down 8", 8, "down 12", 12]}),
        ((3, 15, 13), {"blocks": [8, "down 8", 10]}),  # a last row and column that no mean takes
        ((3, 16, 16), {"blocks": [8, "down 66", 128], "stem": 66}),  # wide enough for Winograd, alone and beside others
        ((2, 8, 8), {"blocks": ["down 8"], "norm": "spectral", "batch_norm": True, "activation": "leaky-relu"}),
    ],
)
def test_a_residual_energy_in_a_chain_is_the_energy(shape, options) -> None:
    energy = ResNetEnergy(shape, **options).double()
    x = torch.rand(5, *shape, dtype=torch.float64) * 2 - 1
    energy.initialise(x)
    energy(x)  # moves the batch norms' statistics away from 0 and 1
    energy.eval()
    expected = energy.value_and_grad(x)
    with frozen_for_chain(energy):
        assert energy._still is not None
        for actual, plain in zip(energy.value_and_grad(x), expected, strict=True):
            close(actual, plain)
    assert energy._still is None


# -- the amortizer's walk ---------------------------------------------------------------------------------------------


def network() -> MLPUNet:
    return MLPUNet(SIZE, 10, (16, 24), 8).double()


@pytest.mark.parametrize(("rows", "contexts"), [(1024, 4), (8, 4), (8, 1), (1, 4)])
def test_a_walk_predicts_what_the_network_predicts(rows: int, contexts: int, monkeypatch) -> None:
    monkeypatch.setattr(walk, "ROWS", rows)
    net, z = network(), torch.randn(7, 4, SIZE, dtype=torch.float64)
    log_snr, context = torch.linspace(-5, 9, 7, dtype=torch.float64), torch.randn(contexts, 10, dtype=torch.float64)
    with torch.no_grad():
        time, given = net.of_time(log_snr), net.of_context(context)
        predict = Walk(net, time, context)
        for step in (*range(7), 2):  # going back is allowed
            close(predict(z[step], step), net(z[step], time[step] + given))


def test_a_walk_in_bf16_stays_near() -> None:
    net, z, context = network().float(), torch.randn(64, SIZE), torch.randn(64, 10)
    with torch.no_grad():
        time = net.of_time(torch.linspace(-5, 9, 3))
        expected = net(z, time[1] + net.of_context(context))
        predicted = Walk(net, time, context, torch.bfloat16)(z, 1)
    assert predicted.dtype == torch.float32
    assert 1e-4 < float((predicted - expected).norm() / expected.norm()) < 2e-2
