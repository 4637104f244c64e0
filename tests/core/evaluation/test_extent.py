"""Which values images have, and what is said of those that lie beyond [-1, 1]."""

import math

import pytest
import torch

from genfw.errors import ContractError
from genfw.evaluation.extent import Extent


def normal(mean, sigma, count=20_000):
    return mean + sigma * torch.randn(count, generator=torch.Generator().manual_seed(0))


def test_counts_add_up_over_batches():
    x = torch.tensor([-20.0, -3.0, -1.5, -1.0005, 0.0, 1.0, 4.0, math.nan, -math.inf])
    extent = Extent()
    for part in x.split(2):
        extent.add(part)
    assert extent == Extent.of(x) == Extent(count=9, cut=4, wide=3, far=1, lost=2, low=-20.0, high=4.0)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.tensor([0.0, 255.0]), r"rows have values from 0 to 255, .*lie in \[-1, 1\]: bring .*x / 127\.5 - 1"),
        (torch.tensor([-1.01, 1.0]), r"rows have values from -1\.01 to 1, "),
        (torch.tensor([0.0, math.nan]), "rows have 1 values that are not finite, of 2"),
        (torch.tensor([math.inf, 0.0]), "not finite"),
    ],
)
def test_data_beyond_the_range_are_refused(x, match):
    with pytest.raises(ContractError, match=match):
        Extent.of(x).of_data("rows")


def test_data_in_half_of_the_range_are_noted():
    assert Extent.of(torch.tensor([-1.0009, 1.0009])).of_data() == ""
    assert Extent.of(torch.tensor([-0.1, 1.0])).of_data() == ""
    note = "All data lie in [0, 1]: half of the levels are unused; genfw's images lie in [-1, 1]."
    assert Extent.of(torch.tensor([0.0, 1.0])).of_data() == note


@pytest.mark.parametrize("mean", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_noise_on_samples_is_noted_and_never_refused(mean, sigma):
    note = Extent.of(normal(mean, sigma)).of_samples()
    assert ("were cut" in note) == (abs(mean) + 4 * sigma > 1)


def test_the_note_says_share_and_extremes():
    x = torch.tensor([-1.5, 0.0, 0.5, 1.25])
    said = "50 % of the values of the samples lie beyond [-1, 1] and were cut; they reach from -1.5 to 1.25."
    assert Extent.of(x).of_samples() == said


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (normal(128, 40), r"from .* to 2.*, 100 % of them beyond \[-2, 2\]: they are on another scale"),
        # Digits as bytes are zero for the most part.
        (torch.cat([torch.zeros(800), normal(128, 20, 200)]), r"20 % of them beyond \[-10, 10\]"),
        (torch.tensor([0.0, math.inf]), "not finite"),
    ],
)
def test_samples_on_another_scale_are_refused(x, match):
    with pytest.raises(ContractError, match=match):
        Extent.of(x).of_samples()
