"""R-hat, effective counts and standard errors against closed forms and against numbers of ArviZ's older package."""

from __future__ import annotations

import pytest
import torch
from arviz_stats.base.array import array_stats
from torch import Tensor

from genfw.errors import ContractError
from genfw_plugins.metrics.chains.convergence import ess_bulk, ess_mean, ess_tail, mcse_mean, split_rhat


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def autoregressive(steps: int, count: int, memory: float, *, rng: torch.Generator | None = None) -> Tensor:
    """Stationary AR(1) chains with unit variance."""
    rng = rng or generator()
    state = torch.randn(count, generator=rng, dtype=torch.float64)
    trace = [state]
    for _ in range(steps - 1):
        state = memory * state + (1 - memory**2) ** 0.5 * torch.randn(count, generator=rng, dtype=torch.float64)
        trace.append(state)
    return torch.stack(trace)


def waves(steps: int, count: int, memory: float) -> Tensor:
    """The same on every machine: sines that look random, then an AR(1) filter."""
    k, j = torch.arange(steps, dtype=torch.float64)[:, None], torch.arange(count, dtype=torch.float64)[None]
    noise = torch.sin(0.7 * k * k + 1.3 * j * k + 0.1 * k * k * k) + torch.sin(2.1 * k * k + 0.5 * k * j + j)
    trace = [noise[0]]
    for row in noise[1:]:
        trace.append(memory * trace[-1] + row)
    return torch.stack(trace)


# split R-hat, bulk, tail and mean ESS, by ArviZ 0.23.4 on the same draws.
REFERENCE = {
    "independent": (waves(300, 4, 0.0), 1.0051501799, 1264.648422, 1258.399380, 1247.342224),
    "sticky": (waves(301, 3, 0.9), 1.0298550205, 61.545161, 88.322093, 61.200209),
    "apart": (waves(300, 4, 0.5) + torch.tensor([0.0, 0.0, 0.0, 2.0]), 1.2922533100, 11.119025, 31.404756, 10.115884),
    "wider": (waves(300, 4, 0.5) * torch.tensor([1.0, 1.0, 1.0, 3.0]), 1.1708189194, 389.189672, 31.404756, 379.618231),
    "ties": (waves(200, 2, 0.5).round(), 1.0033676888, 164.441147, 250.352400, 164.252473),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_agrees_with_arviz(name) -> None:
    draws, *expected = REFERENCE[name]
    found = [measure(draws).item() for measure in (split_rhat, ess_bulk, ess_tail, ess_mean)]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, -0.4])
def test_ess_of_autoregressive_chains_is_the_closed_form(memory) -> None:
    # Integrated autocorrelation time of AR(1): (1 + phi) / (1 - phi).
    steps, count = 4000, 25
    draws = autoregressive(steps, count, memory)
    expected = steps * count * (1 - memory) / (1 + memory)
    assert ess_mean(draws).item() == pytest.approx(expected, rel=0.1)
    assert ess_bulk(draws).item() == pytest.approx(expected, rel=0.1)
    assert mcse_mean(draws).item() == pytest.approx(expected**-0.5, rel=0.1)
    assert split_rhat(draws).item() == pytest.approx(1.0, abs=0.01)


def test_standard_error_of_the_mean_is_what_repetition_shows() -> None:
    draws = autoregressive(400, 300, 0.8)
    alone = torch.stack([mcse_mean(draws[:, i : i + 3]) for i in range(0, 300, 3)])
    spread = draws.unflatten(1, (100, 3)).mean((0, 2)).std()
    assert alone.mean().item() == pytest.approx(spread.item(), rel=0.25)


def test_autocovariance_is_the_plain_sum() -> None:
    draws = torch.randn(30, 2, generator=generator(), dtype=torch.float64)
    centred = draws - draws.mean(0)
    plain = torch.stack([(centred[: 30 - lag] * centred[lag:]).sum(0) / 30 for lag in range(30)])
    torch.testing.assert_close(torch.from_numpy(array_stats.autocov(draws.T.numpy())).T, plain)


def test_rhat_sees_each_way_of_not_having_converged() -> None:
    rng = generator()
    draws = torch.randn(500, 4, generator=rng)
    assert split_rhat(draws) < 1.01
    assert split_rhat(draws + torch.tensor([0.0, 0.0, 0.0, 1.0])) > 1.05  # one chain elsewhere
    assert split_rhat(draws * torch.tensor([1.0, 1.0, 1.0, 3.0])) > 1.1  # one chain wider: the folded draws
    assert split_rhat(draws + torch.linspace(0, 2, 500)[:, None]) > 1.1  # all drift alike: the split halves


def test_ranks_make_heavy_tails_harmless() -> None:
    normal = torch.randn(500, 4, generator=generator(), dtype=torch.float64)
    heavy = torch.tan(torch.pi * (torch.special.ndtr(normal) - 0.5))  # the same ranks, Cauchy
    assert split_rhat(heavy) == pytest.approx(split_rhat(normal).item(), abs=1e-3)
    assert ess_bulk(heavy).item() == pytest.approx(ess_bulk(normal).item())
    assert ess_tail(heavy).item() == pytest.approx(ess_tail(normal).item())


def test_every_quantity_is_measured_apart() -> None:
    draws = torch.stack([autoregressive(300, 4, memory) for memory in (0.0, 0.5, 0.9)], dim=2)
    draws = torch.stack([draws, draws.round()], dim=3)  # shape: (300, 4, 3, 2)
    for measure in (split_rhat, ess_bulk, ess_tail, ess_mean, mcse_mean):
        found = measure(draws)
        assert found.shape == (3, 2)
        alone = torch.stack([measure(draws[:, :, i, j]) for i in range(3) for j in range(2)]).view(3, 2)
        torch.testing.assert_close(found, alone)


def test_chains_that_say_nothing_get_no_number() -> None:
    draws = torch.randn(50, 3, 4, generator=generator())
    draws[:, :, 1] = 2.0
    draws[7, 1, 2] = torch.nan
    draws[:, :, 3] = torch.inf
    for measure in (split_rhat, ess_bulk, ess_tail, ess_mean, mcse_mean):
        assert measure(draws).isfinite().tolist() == [True, False, False, False]


@pytest.mark.parametrize("starts", [[0.3, -1.2, 0.7, 0.1], [1.0, -1.0, 1.0, -1.0], [0.1, 0.1, 0.1, 0.1]])
def test_rhat_of_chains_that_never_move_is_infinite(starts) -> None:
    draws = torch.tensor(starts).expand(100, 4)
    assert split_rhat(draws) == torch.inf
    # A chain that jumps once, between its halves, has moved within neither.
    assert split_rhat(draws + (torch.arange(100) >= 50)[:, None]) == torch.inf
    assert split_rhat(draws + (torch.arange(100) == 70)[:, None]) < torch.inf


@pytest.mark.parametrize("share", [0.5, 0.02, 0.98])
def test_tails_of_draws_with_two_values_are_counted(share) -> None:
    draws = (torch.rand(400, 4, generator=generator()) < share).double() * 2.0 - 1.0
    # The only indicator that varies says which of the two values a draw has; so do the ranks.
    assert ess_tail(draws).item() == pytest.approx(ess_bulk(draws).item(), rel=0.05)
    assert split_rhat(draws).item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("shape", [(50,), (9, 4), (50, 0)])
def test_too_few_draws_are_refused(shape) -> None:
    for measure in (ess_bulk, ess_tail, ess_mean, mcse_mean):
        with pytest.raises(ContractError, match="at least 10 steps and 1 chain;"):
            measure(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(50,), (3, 4), (50, 1)])
def test_rhat_compares_at_least_two_chains(shape) -> None:
    with pytest.raises(ContractError, match="at least 4 steps and 2 chains;"):
        split_rhat(torch.zeros(shape))


def test_no_effective_count_is_invented_for_short_chains() -> None:
    draws = autoregressive(10, 400, 0.9).unflatten(1, (4, 100))
    assert ess_mean(draws).median() < 20  # of 40 draws
