r"""What chains say about themselves: split :math:`\hat R`, bulk and tail effective sample size.

All take draws in the order of the chain, with shape :math:`(K, n)` or :math:`(K, n, *)`: :math:`K` steps of :math:`n`
chains; and give one number for each quantity, shape :math:`()` or :math:`(*)`. Chains are split in halves, so that a
single drifting chain is caught too, and made normal by their ranks, so that heavy tails do no harm.

References:
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16, 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genfw.errors import ContractError

__all__ = ["autocovariance", "ess_bulk", "ess_mean", "ess_tail", "mcse_mean", "split_rhat"]


def split_rhat(draws: Tensor) -> Tensor:
    r"""Rank-normalised split :math:`\hat R`: the larger of that of location and that of scale (folded draws). Below
    1.01 where chains agree.

    Arguments:
        draws: With shape :math:`(K, n, *)`.

    Returns:
        With shape :math:`(*)`; ``nan`` where a draw is not finite or all are equal.
    """
    halves = _split(draws)
    folded = (halves - _quantile(halves.flatten(0, 1).sort(0).values, 0.5)).abs()
    return torch.maximum(_rhat(_rank_normalised(halves)), _rhat(_rank_normalised(folded)))


def ess_bulk(draws: Tensor) -> Tensor:
    r"""Effective count of draws for location, in the bulk of the law.

    Arguments:
        draws: With shape :math:`(K, n, *)`.

    Returns:
        With shape :math:`(*)`; ``nan`` where a draw is not finite or all are equal.
    """
    return _ess(_rank_normalised(_split(draws)))


def ess_tail(draws: Tensor) -> Tensor:
    r"""Effective count of draws for the tails: the smaller of those of the 5 % and the 95 % quantile.

    Arguments:
        draws: With shape :math:`(K, n, *)`.

    Returns:
        With shape :math:`(*)`; ``nan`` where a draw is not finite or all are equal.
    """
    draws = _checked(draws)
    ordered = draws.flatten(0, 1).sort(0).values
    ess = [_ess(_split((draws <= _quantile(ordered, share)).double())) for share in (0.05, 0.95)]
    return torch.where(ordered.isfinite().all(0), torch.minimum(*ess), torch.nan)


def ess_mean(draws: Tensor) -> Tensor:
    r"""Effective count of draws for the mean itself, on their own scale; the law needs a variance.

    Arguments:
        draws: With shape :math:`(K, n, *)`.

    Returns:
        With shape :math:`(*)`.
    """
    return _ess(_split(draws))


def mcse_mean(draws: Tensor) -> Tensor:
    r"""Monte-Carlo standard error of the mean of all draws, :math:`\sigma / \sqrt{ESS}`.

    Arguments:
        draws: With shape :math:`(K, n, *)`.

    Returns:
        With shape :math:`(*)`, in the draws' units.
    """
    return _checked(draws).flatten(0, 1).std(0) / ess_mean(draws).sqrt()


def autocovariance(draws: Tensor) -> Tensor:
    r"""Autocovariance of each chain at each lag, :math:`\frac1K \sum_k (x_k - \bar x)(x_{k+l} - \bar x)`.

    Arguments:
        draws: With shape :math:`(K, *)`.

    Returns:
        With shape :math:`(K, *)`, lag first.
    """
    steps = draws.shape[0]
    centred = draws - draws.mean(0)
    # Padded to twice the length, so that the ends of a chain do not meet.
    spectrum = torch.fft.rfft(centred, n=2 * steps, dim=0)
    products: Tensor = torch.fft.irfft(spectrum.abs().square(), n=2 * steps, dim=0)[:steps]
    return products / steps


def _checked(draws: Tensor) -> Tensor:
    if draws.ndim < 2 or draws.shape[0] < 4 or draws.shape[1] < 1:
        raise ContractError(
            f"diagnostics need at least 4 steps of at least one chain, (steps, chains, ...); got {tuple(draws.shape)}"
        )
    # Sums over many draws: in double precision whatever the chain ran in.
    return draws.detach().double()


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """Interpolated quantile of sorted draws (S, *); torch's own refuses more than 2^24 numbers."""
    place = share * (ordered.shape[0] - 1)
    low = int(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, ordered.shape[0] - 1)], place - low)


def _split(draws: Tensor) -> Tensor:
    """The two halves of every chain side by side, (K // 2, 2n, *); the middle step of an odd chain is left out."""
    draws = _checked(draws)
    half = draws.shape[0] // 2
    return torch.cat([draws[:half], draws[-half:]], dim=1)


def _rank_normalised(draws: Tensor) -> Tensor:
    """Normal scores of the ranks over all draws of a quantity, ties at their mean rank; nan where one is not finite."""
    flat = draws.flatten(0, 1)
    ordered, place = flat.sort(0)
    size = flat.shape[0]
    number = torch.arange(size, dtype=torch.int64, device=flat.device).view(-1, *(1 for _ in flat.shape[1:]))
    # Rejected moves repeat a draw, so ties are the rule: from the first to the last of equals, all take the middle.
    differs = ordered[1:] != ordered[:-1]
    edge = torch.ones_like(differs[:1])
    first = torch.where(torch.cat([edge, differs]), number, 0).cummax(0).values
    last = torch.where(torch.cat([differs, edge]), number, size - 1).flip(0).cummin(0).values.flip(0)
    ranks = torch.empty_like(flat).scatter_(0, place, 0.5 * (first + last).to(flat) + 1.0)
    normal = torch.special.ndtri((ranks - 0.375) / (size + 0.25))
    normal = torch.where(flat.isfinite().all(0), normal, torch.nan)
    return normal.view(draws.shape)


def _rhat(draws: Tensor) -> Tensor:
    steps = draws.shape[0]
    within = draws.var(0).mean(0)
    between = draws.mean(0).var(0)
    return (((steps - 1) / steps * within + between) / within).sqrt()


def _ess(draws: Tensor) -> Tensor:
    """Effective count by Geyer's initial monotone sequence of the chains' common autocorrelation."""
    steps, chains = draws.shape[:2]
    covariance = autocovariance(draws).mean(1)
    within = covariance[0] * steps / (steps - 1)
    pooled = covariance[0] + (draws.mean(0).var(0) if chains > 1 else 0.0)
    correlation = 1.0 - (within - covariance) / pooled
    correlation[0] = 1.0
    even = correlation[: steps - steps % 2 : 2]
    pairs = even + correlation[1::2]
    # Sums of pairs are positive and fall for a reversible chain; noise breaks that, and there the sum is cut.
    positive = (pairs > 0).cumprod(0).bool()
    positive[max((steps - 3) // 2, 1) :] = False  # the longest lags rest on too few products
    falling = torch.where(positive, pairs.clamp(min=0).cummin(0).values, 0.0).sum(0)
    # Of the first pair left out, the even lag still counts where it is positive.
    cut = positive.sum(0, keepdim=True).clamp(max=even.shape[0] - 1)
    rest = torch.where(positive.all(0), 0.0, even.gather(0, cut)[0].clamp(min=0))
    time = 2.0 * falling - 1.0 + rest
    count = steps * chains
    # Chains that repel themselves can beat independence; by more than log10(count) it is an artefact of short chains.
    time = time.clamp(min=1.0 / math.log10(count))
    return torch.where(pooled > 0, count / time, torch.nan)
