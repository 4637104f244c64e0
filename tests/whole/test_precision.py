"""Under bfloat16 autocast, what losses and rows are made of is computed in full precision."""

import pytest
import torch

from genfw import Gaussian, NormalEncoder
from genfw.nn.precision import apply_in_full, constants
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.resnet_energy.energy import ResNetEnergy
from genfw_plugins.stylegan.critic import Critic

ENERGIES = {
    "mlp": (
        lambda: MLPEnergy(data_shape=(3, 8, 8), hidden=(16, 16), spectral_iterations=2),
        lambda energy: energy.net[-1],
    ),
    "resnet": (lambda: ResNetEnergy((3, 8, 8), blocks=["down 8", 8], norm="none"), lambda energy: energy.head),
}


class Given(NormalEncoder):
    """Its data are means and log scales."""

    def __init__(self):
        super().__init__(StandardNormal(3))

    def read(self, x):
        return x


def half():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("name", ENERGIES)
def test_the_gap_of_energies_at_a_low_level_is_right(name):
    torch.manual_seed(0)
    make, head_of = ENERGIES[name]
    energy, data, negatives = make(), torch.randn(64, 3, 8, 8), 1.5 * torch.randn(64, 3, 8, 8)
    with torch.no_grad(), half():
        gap = energy(negatives).mean() - energy(data).mean()
        head_of(energy).bias.sub_(550.0)
        low, high = energy(data), energy(negatives)
    assert low.dtype == high.dtype == torch.float32
    assert low.mean() == pytest.approx(-550.0, abs=50.0)
    assert len(low.unique()) > 60  # in bfloat16, steps of 4: a handful of values
    assert len(low.bfloat16().unique()) < 10
    assert abs(gap) > 1e-3
    assert high.mean() - low.mean() == pytest.approx(gap.item(), abs=1e-3)


@pytest.mark.parametrize("name", ENERGIES)
def test_penalties_are_those_of_full_precision(name):
    torch.manual_seed(0)
    energy = ENERGIES[name][0]()
    energy.penalty()  # warms the vectors up
    energy.eval()
    plain = energy.penalty()
    with half():
        assert torch.equal(energy.penalty(), plain)


def test_scales_and_posteriors_are_kept_in_full_precision():
    mean = torch.randn(4, 3).bfloat16()
    for scale in (0.1, torch.full((), 0.1)):
        likelihood = Gaussian(mean, scale)
        assert likelihood.scale.item() == torch.tensor(0.1).item()  # 0.1001 in bfloat16
        assert likelihood.log_prob(torch.zeros(4, 3)).dtype == likelihood.sample().dtype == torch.float32
    log_scale = 0.1 * torch.randn(4, 3).bfloat16()
    both = torch.cat([mean, log_scale], dim=1)
    posterior, plain = (Given()(each, generator=torch.Generator().manual_seed(0)) for each in (both, both.float()))
    for name in ("log_q", "log_p", "kl", "noise"):
        assert torch.equal(getattr(posterior, name), getattr(plain, name))


def test_a_critic_scores_in_full_precision():
    torch.manual_seed(0)
    critic = Critic(8, 3, 64, 8)
    with half():
        assert critic(torch.randn(4, 3, 8, 8)).dtype == torch.float32


def test_full_precision_within_autocast_and_constants():
    layer = torch.nn.Linear(3, 1)
    x = torch.randn(5, 3).bfloat16()
    expected = layer(x.float())
    with half():
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(apply_in_full(layer, x), expected)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(constants((1.0, 0.55), torch.empty(0, dtype=dtype)), torch.tensor([1.0, 0.55], dtype=dtype))
