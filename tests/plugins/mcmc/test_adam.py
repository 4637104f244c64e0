"""Adam in the place of a sampler: torch's own steps, chain by chain; what a sampler promises but for the law."""

import pytest
import torch

from genfw.errors import ContractError
from genfw.models.chains import run_chain
from genfw.testing import SamplerSuite
from genfw.testing.targets import CorrelatedGaussian
from genfw_plugins.mcmc.adam import AdamMode


class TestAdam(SamplerSuite):
    # An optimiser has no law to keep or to reach, and draws nothing.
    test_randomness_comes_from_the_generator = None
    test_law_is_kept = None
    test_law_is_reached = None
    test_a_biased_kernel_would_be_noticed = None

    def make(self):
        return AdamMode(lr=0.1)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_moves_are_torch_s(decay):
    target = CorrelatedGaussian()
    start = target.sample(4, torch.Generator().manual_seed(0))
    sampler = AdamMode(lr=0.05, betas=(0.8, 0.95), decay=decay)
    actual = run_chain(target, sampler, start, generator=torch.Generator(), steps=12).position
    expected = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([expected], lr=0.05, betas=(0.8, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for _ in range(12):
        optimizer.zero_grad()
        target.potential(expected).sum().backward()
        optimizer.step()
        if decay == "cosine":
            schedule.step()
    torch.testing.assert_close(actual, expected.detach())


def test_chains_go_to_the_mode():
    target = CorrelatedGaussian()
    start = target.sample(20, torch.Generator().manual_seed(0))
    end = run_chain(target, AdamMode(lr=0.1, decay="cosine"), start, generator=torch.Generator(), steps=300).position
    torch.testing.assert_close(end, target.mean.expand_as(end), rtol=0, atol=1e-2)


def test_moments_go_on_where_something_else_moves_the_chains():
    target = CorrelatedGaussian()
    generator = torch.Generator().manual_seed(0)
    sampler = AdamMode(lr=0.1)
    state = sampler.init(target, target.sample(2, generator), generator)
    state, _ = sampler.step(target, state, generator)
    moved = sampler.relocate(target, state, state.position + 1, generator)
    assert torch.equal(moved.first, state.first)
    assert moved.moves == 1
    torch.testing.assert_close(moved.potential, target.potential(state.position + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr"),
        ({"steps": 0}, "steps"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \(0\.9, 1\.0\)"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        AdamMode(**{"lr": 0.1, **arguments})
