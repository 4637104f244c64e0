"""Two-dimensional laws and scikit-learn's digits."""

import math

import pytest
import torch

from genfw.errors import ContractError, DataError
from genfw_plugins.datasets.digits import Digits
from genfw_plugins.datasets.toy import GaussianGrid, Pinwheel

TOYS = [GaussianGrid(), GaussianGrid(side=2, spacing=3.0, std=0.5), Pinwheel(), Pinwheel(arms=5, rate=0.4, scale=2.0)]


def rows(dataset, split="train", count=8):
    return dataset.split(split).get(torch.arange(count))


def test_truth_of_25_gaussians_is_worth_minus_1_11_nats():
    data = GaussianGrid(test=200_000)
    x, _ = rows(data, "test", 200_000)
    exact = -math.log(25) - math.log(2 * math.pi * 0.0839**2) - 1
    spread = data.log_prob(x).std() / math.sqrt(len(x))
    assert exact == pytest.approx(-1.11, abs=0.02)
    assert abs(data.log_prob(x).mean() - exact) < 4 * spread


def test_25_gaussians_are_where_the_paper_puts_them():
    x, mode = rows(GaussianGrid(), "train", 100_000)
    counts = mode.bincount(minlength=25)
    assert (counts - 4000).abs().max() < 5 * math.sqrt(4000)
    centres = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
    assert (x - centres[mode]).std().item() == pytest.approx(0.0839, rel=0.01)


@pytest.mark.parametrize("data", TOYS, ids=lambda data: type(data).__name__)
def test_density_integrates_to_one(data):
    axis = torch.linspace(-7.0, 7.0, 501)
    grid = torch.cartesian_prod(axis, axis)
    assert (data.log_prob(grid).double().exp().sum() * 0.028**2).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("data", TOYS, ids=lambda data: type(data).__name__)
def test_draws_follow_the_density(data):
    """A histogram of draws against the mass of the density in the same cells."""
    x, _ = data.draw(100_000, generator=torch.Generator().manual_seed(3))
    edge, cells = 6.0, 40
    inside = (x.abs() < edge).all(1)
    cell = ((x[inside] + edge) / (2 * edge) * cells).long()
    observed = (cell[:, 0] * cells + cell[:, 1]).bincount(minlength=cells**2).double() / len(x)
    axis = -edge + (torch.arange(cells * 10) + 0.5) * 2 * edge / (cells * 10)
    mass = data.log_prob(torch.cartesian_prod(axis, axis)).double().exp() * (2 * edge / (cells * 10)) ** 2
    expected = mass.view(cells, 10, cells, 10).sum((1, 3)).flatten()
    likely = expected * len(x) > 20
    z = (observed - expected)[likely] / (expected[likely] / len(x)).sqrt()
    assert z.abs().max() < 5.5
    assert observed[~likely].sum().item() == pytest.approx(expected[~likely].sum().item(), abs=2e-3)
    assert inside.double().mean().item() == pytest.approx(expected.sum().item(), abs=1e-3)


@pytest.mark.parametrize("data", TOYS, ids=lambda data: type(data).__name__)
def test_density_has_a_finite_gradient_everywhere(data):
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-4.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(data.log_prob(x).sum(), x)
    assert gradient.isfinite().all()
    assert data.log_prob(x.detach().double()).dtype == torch.float64


@pytest.mark.parametrize("kind", [GaussianGrid, Pinwheel])
def test_splits_are_fixed_by_the_seed_and_independent(kind):
    again = torch.equal(rows(kind())[0], rows(kind())[0])
    assert again
    assert not torch.equal(rows(kind())[0], rows(kind(), "test")[0])
    assert not torch.equal(rows(kind())[0], rows(kind(seed=1))[0])
    assert (len(kind(train=30, test=20).split("train")), len(kind(train=30, test=20).split("test"))) == (30, 20)
    assert kind().data_shape == (2,)
    with pytest.raises(DataError, match="no split 'valid'; there are train, test"):
        kind().split("valid")


def test_nonsense_is_refused():
    with pytest.raises(ContractError, match=r"std must be above 0, got 0\.0"):
        GaussianGrid(std=0.0)
    with pytest.raises(ContractError, match="arms must be above 0, got 0"):
        Pinwheel(arms=0)
    with pytest.raises(ContractError, match="train must be at least 1, got 0"):
        Pinwheel(train=0)


def test_digits_are_the_whole_set_once():
    data = Digits()
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (1438, 359)
    x, y = train.get(torch.arange(len(train)))
    x2, y2 = test.get(torch.arange(len(test)))
    assert x.shape[1:] == data.data_shape == (1, 8, 8)
    assert (x.min().item(), x.max().item(), x.dtype) == (-1.0, 1.0, torch.float32)
    assert y.bincount(minlength=10).min() > 110
    assert y2.bincount(minlength=10).min() > 20

    from sklearn.datasets import load_digits

    whole = torch.from_numpy(load_digits().images).float().flatten(1)
    ours = (torch.cat([x, x2]).flatten(1) + 1) * 8
    assert torch.equal(ours.sort(0).values, whole.sort(0).values)
    assert torch.equal(torch.cat([y, y2]).bincount(), torch.from_numpy(load_digits().target).bincount())


def test_digits_enlarged_keep_their_range_and_mean():
    small, _ = rows(Digits(), count=64)
    large, _ = rows(Digits(size=16), count=64)
    assert large.shape == (64, 1, 16, 16)
    assert large.min() >= -1.0
    assert large.max() <= 1.0
    # Enlarging twofold without aligned corners weighs every inner pixel alike: the mean moves only by the border.
    assert (large.mean((1, 2, 3)) - small.mean((1, 2, 3))).abs().max() < 0.02


def test_digits_can_be_kept_or_held_out():
    _, labels = rows(Digits(classes=[0, 7]), count=100)
    assert set(labels.tolist()) == {0, 7}
    data = Digits(exclude=[9])
    train, test, held = (data.split(name) for name in ("train", "test", "held-out"))
    assert 9 not in train.get(torch.arange(len(train)))[1]
    assert 9 not in test.get(torch.arange(len(test)))[1]
    assert set(held.get(torch.arange(len(held)))[1].tolist()) == {9}
    assert len(test) + len(held) == 359
    assert len(Digits(limit=10).split("train")) == 10
    with pytest.raises(DataError, match="no row is left"):
        Digits().split("held-out")
    with pytest.raises(ContractError, match="at least 8"):
        Digits(size=7)
