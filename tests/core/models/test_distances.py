"""Distances against their closed forms between Gaussians, their floors, and what they must not see."""

import math
import re

import pytest
import torch

from genfw.errors import ContractError
from genfw.models.distances import directions, kernel_stein, median_distance, mmd, sliced_wasserstein


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(count, size=2, seed=0, mean=0.0, std=1.0):
    return mean + std * torch.randn(count, size, generator=generator(seed))


def test_directions_are_unit_and_uniform():
    theta = directions(3, 4000, generator())
    torch.testing.assert_close(theta.norm(dim=1), torch.ones(4000))
    torch.testing.assert_close(theta.T @ theta / 4000, torch.eye(3) / 3, atol=0.02, rtol=0)
    assert directions(1, 50, generator()).tolist() == [[1.0]]


def test_a_shift_is_its_length_over_the_root_of_the_dimension():
    a, along = normal(500, 3), directions(3, 4000, generator(1))
    shift = torch.tensor([1.0, -2.0, 2.0])
    assert float(sliced_wasserstein(a, a + shift, along)) == pytest.approx(3 / math.sqrt(3), rel=0.02)
    # For order 1, |m| times the mean length of one coordinate of a unit vector: 1/2 in three dimensions.
    assert float(sliced_wasserstein(a, a + shift, along, order=1)) == pytest.approx(1.5, rel=0.02)
    assert float(sliced_wasserstein(a, a, along)) == 0.0


def test_normals_of_two_widths_are_apart_by_the_difference_of_scale():
    along = directions(2, 20, generator(1))
    wide = normal(20_000, seed=2, std=1.6)
    assert float(sliced_wasserstein(normal(20_000), wide, along)) == pytest.approx(0.6, abs=0.03)
    # Sets of unequal size have the same quantile functions.
    assert float(sliced_wasserstein(normal(13_000), wide, along)) == pytest.approx(0.6, abs=0.03)


def test_unequal_sets_are_compared_exactly():
    a, b = normal(6), normal(4, seed=1)
    along = directions(2, 20, generator(2))
    # 12 is a common multiple: the same laws, as sets of one size.
    same = sliced_wasserstein(a.repeat(2, 1), b.repeat(3, 1), along)
    torch.testing.assert_close(sliced_wasserstein(a, b, along), same)
    torch.testing.assert_close(sliced_wasserstein(b, a, along), same)


def test_floor_of_equal_laws_falls_with_the_root_of_the_count():
    along = directions(2, 20, generator(1))

    def floor(count):
        pairs = [(normal(count, seed=seed), normal(count, seed=seed + 100)) for seed in range(8)]
        return sum(float(sliced_wasserstein(a, b, along)) for a, b in pairs) / 8

    assert floor(3200) / floor(200) == pytest.approx(0.25, rel=0.4)
    assert floor(3200) < 0.07


def test_mmd_is_that_of_two_normals():
    # E k(u, v) = l^2 / (l^2 + s^2 + t^2) exp(-|m|^2 / 2 (l^2 + s^2 + t^2)) in two dimensions.
    def mean(a, b, apart, width):
        total = width**2 + a**2 + b**2
        return width**2 / total * math.exp(-(apart**2) / (2 * total))

    widths = (0.7, 1.5)
    square = sum(mean(1, 1, 0, w) + mean(0.5, 0.5, 0, w) - 2 * mean(1, 0.5, 1.0, w) for w in widths) / 2
    b = normal(4000, seed=1, std=0.5) + torch.tensor([0.6, 0.8])
    assert float(mmd(normal(4000), b, widths)) == pytest.approx(math.sqrt(square), rel=0.05)
    same = normal(300)
    assert float(mmd(same, same, widths)) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(mmd(normal(300), b[:200], widths, chunk=7), mmd(normal(300), b[:200], widths))


def test_mmd_of_equal_laws_is_the_floor_it_names():
    width, count = 1.0, 2000
    expected = math.sqrt(2 * (1 - width**2 / (width**2 + 2)) / count)
    values = [float(mmd(normal(count, seed=seed), normal(count, seed=seed + 50), [width])) for seed in range(3)]
    assert sum(values) / 3 == pytest.approx(expected, rel=0.3)


def test_median_distance_of_a_normal():
    # |u - v|^2 / 2 of two planar normals is exponential: the median of |u - v| is 2 sqrt(log 2).
    assert median_distance(normal(3000)) == pytest.approx(2 * math.sqrt(math.log(2)), rel=0.05)


def test_stein_discrepancy_is_small_for_draws_and_large_for_others():
    exact = normal(1500)
    floor = float(kernel_stein(exact, exact, 1.0))  # the gradient of |u|^2 / 2 is u
    # kappa(u, u) = |u|^2 + D has the mean 2 D.
    assert floor == pytest.approx(math.sqrt(4 / 1500), rel=0.4)
    for other in (exact + 0.5, 1.5 * exact, 0.5 * exact):
        assert float(kernel_stein(other, other, 1.0)) > 4 * floor
    torch.testing.assert_close(kernel_stein(exact, exact, 1.0, chunk=64), torch.tensor(floor, dtype=torch.float64))


def test_stein_kernel_is_that_of_autograd():
    points, width = normal(5, 3).double(), 1.3
    gradient = torch.stack([points[:, 0] ** 3, points[:, 1], points[:, 2].sin()], dim=1)

    def kernel(u, v):
        return (1 + (u - v).square().sum() / width**2) ** -0.5

    total = 0.0
    for u, s in zip(points, -gradient, strict=True):
        for v, t in zip(points, -gradient, strict=True):
            slope_u, slope_v = torch.autograd.functional.jacobian(kernel, (u, v))
            cross = torch.autograd.functional.hessian(kernel, (u, v))[0][1]
            total += kernel(u, v) * (s @ t) + s @ slope_v + t @ slope_u + cross.trace()
    # In units of the bandwidth, which makes the number free of units.
    expected = (total * width**2 / 25).sqrt()
    torch.testing.assert_close(kernel_stein(points, gradient, width), expected)


def test_stein_discrepancy_does_not_see_the_weights_of_far_modes():
    # Said in the docstring: -10 and 10 hold half each, all points lie in one of them, and it is content.
    side = torch.where(torch.arange(1000) % 2 == 0, -10.0, 10.0)[:, None]
    points = normal(1000, 1)
    floor = float(kernel_stein(points + side, points, 1.0))
    assert float(kernel_stein(points + 10.0, points, 1.0)) < 2 * floor
    assert float(sliced_wasserstein(points + side, points + 10.0, directions(1, 1, generator()))) > 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced_wasserstein(normal(3), normal(3, 3), directions(2, 4, generator())), "(3, 2) and (3, 3)"),
        (lambda: mmd(normal(3), torch.zeros(0, 2), [1.0]), "(3, 2) and (0, 2)"),
        (lambda: mmd(normal(3), normal(3), []), "at least one, and above 0; got []"),
        (lambda: mmd(normal(3), normal(3), [1.0, 0.0]), "above 0; got [1.0, 0.0]"),
        (lambda: sliced_wasserstein(normal(3), normal(3), directions(2, 4, generator()), order=0), "at least 1, got 0"),
        (lambda: kernel_stein(normal(3), normal(4), 1.0), "(3, 2) and (4, 2)"),
        (lambda: kernel_stein(normal(3), normal(3), 0.0), "the bandwidth is above 0, got 0.0"),
        (lambda: median_distance(normal(1)), "at least 2 points, got 1"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        call()
