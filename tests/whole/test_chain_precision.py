"""``chain_precision: bf16``: rounded in chains alone, near in gradients and statistics, exact in sums and outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genfw.models.chains import run_chain
from genfw.models.freezing import frozen, frozen_for_chain
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings, draw_batch
from genfw.models.targets import NoiseTarget
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.nvae.network import Conv, InvertedCell
from genfw_plugins.resnet_energy.energy import ResNetEnergy
from nvae_parts import small_model

SHAPE = (1, 8, 8)


def vaebm() -> Model:
    torch.manual_seed(0)
    energy = ResNetEnergy(SHAPE, blocks=["down 16", 16, "down 24"], width=1.0)
    model = small_model(energy, shape=SHAPE, channels=16, groups=2).float()
    energy.initialise(torch.rand(16, *SHAPE) * 2 - 1)
    return model


def rounded(model: Model, *parts: str) -> Model:
    for name in parts:
        part = model.energies[0] if name == "energy" else getattr(model, name)
        part.chain_precision = "bf16"
    return model


def in_a_chain(model: Model, position: Tensor) -> tuple[Tensor, Tensor]:
    target = NoiseTarget(model)
    with frozen_for_chain(*target.modules()):
        return target.tilt_and_grad(position)


@pytest.mark.parametrize("parts", [("prior",), ("decoder",), ("energy",), ("prior", "decoder", "energy")])
def test_each_network_is_rounded_in_chains_and_nowhere_else(parts) -> None:
    model = vaebm()
    position = model.noise_layout.draw(4, generator=torch.Generator().manual_seed(1))
    expected = in_a_chain(model, position)
    outside = NoiseTarget(rounded(model, *parts)).tilt(position)
    value, gradient = in_a_chain(model, position)
    assert value.dtype == gradient.dtype == torch.float32
    assert not torch.equal(gradient, expected[1])
    assert float((gradient - expected[1]).norm() / expected[1].norm()) < 0.05
    torch.testing.assert_close(value, expected[0], rtol=0.02, atol=0.02)
    # What chains kept is gone: densities and training see the weights themselves.
    assert torch.equal(NoiseTarget(model).tilt(position), outside)
    for part in parts:
        (model.energies[0] if part == "energy" else getattr(model, part)).chain_precision = "model"
    assert all(map(torch.equal, in_a_chain(model, position), expected))


def test_depthwise_convolutions_stay_in_full_precision() -> None:
    model = rounded(vaebm(), "prior", "decoder")
    with frozen_for_chain(model):
        model.decode(model.noise_layout.draw(1, generator=torch.Generator()))
        cells = [part._kept for part in model.modules() if isinstance(part, InvertedCell) and part._kept]
        heads = [part._kept for part in model.modules() if isinstance(part, Conv) and part._kept]
    assert len(cells) >= 4
    assert len(heads) >= 4
    half, full = torch.bfloat16, torch.float32
    assert all([each.dtype for each in kept] == [half, half, full, full, half, half] for kept in cells)
    assert all(kernel.dtype == half for kernel, _ in heads)


def test_the_gap_of_an_energy_far_from_zero_is_kept() -> None:
    energy = rounded(vaebm(), "energy").energies[0]
    low, high = (torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    low = 0.5 * low

    def gap() -> Tensor:
        with frozen_for_chain(energy), torch.no_grad():
            return energy(high) - energy(low)

    expected = gap()
    assert float(expected.abs().min()) > 0.02
    with torch.no_grad():
        energy.head.bias.fill_(550.0)
    # Numbers near 550 are 4 apart in bfloat16, and 6e-5 in float32.
    torch.testing.assert_close(gap(), expected, rtol=0, atol=2e-4)


def test_statistics_of_chains_agree_within_their_noise() -> None:
    model = vaebm()
    start = model.noise_layout.draw(16, generator=torch.Generator().manual_seed(4))

    def chain():
        # Steps near half of which are accepted, and so many that the energy's tilt shows.
        source = torch.Generator().manual_seed(5)
        return run_chain(NoiseTarget(model), MALA(step_size=0.1, steps=15, adapt=False), start, generator=source)

    with torch.no_grad():
        model.energies[0].head.weight.mul_(30.0)
    full = chain()
    rounded(model, "prior", "decoder", "energy")
    half = chain()
    assert not torch.equal(half.position, full.position)
    with torch.no_grad():
        tilts = [NoiseTarget(model).tilt(each.position) for each in (full, half)]
        began = NoiseTarget(model).tilt(start)
    error = float(tilts[0].std()) / len(start) ** 0.5
    assert float(began.mean() - tilts[0].mean()) > 4 * error  # the energy has moved the chains
    assert float(tilts[1].mean() - tilts[0].mean()) == pytest.approx(0.0, abs=2 * error)
    assert float(half.acceptance.mean()) == pytest.approx(float(full.acceptance.mean()), abs=0.05)


def test_samples_are_decoded_in_the_models_precision() -> None:
    model = rounded(vaebm(), "prior", "decoder", "energy")
    settings = SampleSettings(sampler=MALA(step_size=0.01, steps=2, adapt=False), mean=True, batch=3)
    drawn = draw_batch(model, settings, 3, 0, seed=0)
    with frozen(model), torch.no_grad():
        assert torch.equal(drawn.x, model.decode(drawn.position, mean=True))
