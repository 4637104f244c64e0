r"""Split :math:`\hat R`, effective counts of draws and the standard error of a mean, by ArviZ.

Every function takes draws in the order of the chain, with shape :math:`(K, n)` or :math:`(K, n, *)`: :math:`K` steps of
:math:`n` chains. It returns one number for each quantity, with shape :math:`()` or :math:`(*)`, on the CPU; ``nan``
where a draw is not finite, or where all draws are equal and the number has no meaning.

References:
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16, 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genfw.errors import ContractError


def split_rhat(draws: Tensor) -> Tensor:
    r"""Rank-normalised split :math:`\hat R` of at least two chains, the larger of that of location and that of scale
    (folded draws). Below 1.01 where chains agree; infinite where no chain moves within its halves.
    """
    draws = _checked(draws, steps=4, chains=2)
    half = len(draws) // 2
    # Without movement the ratio is x/0 or 0/0, and rounding can make any number of it.
    moves = torch.stack([(part != part[0]).any(0).any(0) for part in (draws[:half], draws[-half:])]).any(0)
    return torch.where(_finite(draws) & ~moves, torch.inf, _arviz("rhat", draws))


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective count of draws for location, in the bulk of the law."""
    return _arviz("ess", _checked(draws), method="bulk")


def ess_tail(draws: Tensor) -> Tensor:
    """Effective count of draws for the tails: the smaller of those of the 5 % and the 95 % quantile."""
    draws = _checked(draws)
    # ArviZ follows whether draws are at most a quantile. Where both quantiles are the largest draw, all draws are:
    # then only the mirrored draws have a tail.
    below = (draws < draws.amax((0, 1))).sum((0, 1))
    mirrored = below <= 0.05 * (draws.shape[0] * draws.shape[1] - 1)
    return _arviz("ess", torch.where(mirrored, -draws, draws), method="tail", prob=(0.05, 0.95))


def ess_mean(draws: Tensor) -> Tensor:
    """Effective count of draws for the mean itself, on their own scale; the law needs a variance."""
    return _arviz("ess", _checked(draws), method="mean")


def mcse_mean(draws: Tensor) -> Tensor:
    r"""Monte-Carlo standard error of the mean of all draws, :math:`\sigma / \sqrt{ESS}`, in the draws' units."""
    return _arviz("mcse", _checked(draws), method="mean")


def _checked(draws: Tensor, *, steps: int = 10, chains: int = 1) -> Tensor:
    # In halves of fewer than five steps ArviZ looks at no lag, and takes the largest count that there is.
    if draws.ndim < 2 or draws.shape[0] < steps or draws.shape[1] < chains:
        raise ContractError(
            f"draws need the shape (steps, chains, ...) with at least {steps} steps and {chains} "
            f"chain{'s' if chains > 1 else ''}; got {tuple(draws.shape)}"
        )
    return draws.detach().double().cpu()


def _finite(draws: Tensor) -> Tensor:
    return draws.isfinite().all(0).all(0)


def _arviz(measure: str, draws: Tensor, **options: Any) -> Tensor:
    # Takes more than a second to import: SciPy's statistics and signals come with it.
    from arviz_stats.base.array import array_stats

    usable = _finite(draws) & (draws != draws[0, 0]).any(0).any(0)
    with np.errstate(all="ignore"):
        found = getattr(array_stats, measure)(draws.numpy(), chain_axis=1, draw_axis=0, **options)
    return torch.where(usable, torch.as_tensor(found), torch.nan)
