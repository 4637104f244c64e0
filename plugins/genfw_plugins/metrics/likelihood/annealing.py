r"""Normalisers by annealed importance sampling, from below and from above.

For a target :math:`\pi \propto e^{-\text{base} - \text{tilt}}` whose base is a normalised law up to a known constant,
:math:`Z = E_{\text{base}}[e^{-\text{tilt}}]`. Temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1` lead from the base
to the target; a kernel that leaves each tempered target invariant moves the chains between them.

References:
    R. M. Neal, Annealed importance sampling, 2001; R. Grosse, Z. Ghahramani and R. P. Adams, Sandwiching the marginal
    likelihood using bidirectional Monte Carlo, 2015; Y. Burda, R. Grosse and R. Salakhutdinov, Accurate and
    conservative estimates of MRF log-likelihood using reverse annealing, 2015.
"""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Sampler, Target, run_chain
from genfw.models.freezing import frozen_for_chain


@attrs.frozen
class Bound:
    """An estimate of a logarithm that is too low (or too high) on average.

    Arguments:
        value: In nats.
        error: Its standard error.
    """

    value: float
    error: float


def schedule(temperatures: int, device: torch.device | str = "cpu") -> Tensor:
    r"""Inverse temperatures :math:`\beta_0 = 0, \dots, \beta_T = 1`, dense at both ends: a sigmoid over [-4, 4].

    Arguments:
        temperatures: :math:`T`, steps between neighbours.
        device: Where they are wanted.
    """
    if temperatures < 1:
        raise ContractError(f"annealing takes at least 1 step, got {temperatures}")
    beta = torch.sigmoid(torch.linspace(-4.0, 4.0, temperatures + 1, dtype=torch.float64))
    return ((beta - beta[0]) / (beta[-1] - beta[0])).to(device)


def anneal(
    target: Target,
    sampler: Sampler,
    position: Tensor,
    temperatures: int,
    *,
    generator: torch.Generator,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Walk chains from base to target, or back, and weigh them on the way.

    Forward, :math:`\log w = -\sum_t (\beta_t - \beta_{t-1})\, \text{tilt}(z_{t-1})` and :math:`E[w] = Z`; in reverse,
    from exact draws of the target, the weights are those of the same walk backwards and :math:`E[w] = 1/Z`.

    Arguments:
        target: The target.
        sampler: Kernel, told of each tempered target in turn; its ``steps`` moves are made at each. It must leave its
            target invariant: an uncorrected one bends both bounds.
        position: Draws of the base, or of the target in reverse, with shape :math:`(B, D)`.
        temperatures: :math:`T`.
        generator: Source of all randomness.
        reverse: Walk from the target to the base.

    Returns:
        Log weights, float64, with shape :math:`(B,)`, and last positions, with shape :math:`(B, D)`.
    """
    beta = schedule(temperatures).tolist()
    if reverse:
        beta.reverse()
    log_weight = torch.zeros(len(position), dtype=torch.float64, device=position.device)
    with frozen_for_chain(*target.modules()), torch.no_grad():
        for before, after in pairwise(beta):
            log_weight += (before - after) * target.tilt(position).double()
            # Forward the last move would serve nobody, in reverse the last is at the base: the weight is complete.
            if after not in (0.0, 1.0):
                bridge = target.tempered(after)
                position = run_chain(bridge, sampler, position, generator=generator, end_potential=False).position
    return log_weight, position


def log_mean(log_weight: Tensor) -> Bound:
    r"""Logarithm of a mean, :math:`\log \frac1N \sum_n w_n`, and its standard error by the delta method.

    By Jensen's inequality it lies below :math:`\log E[w]` on average.

    Arguments:
        log_weight: :math:`\log w_n`, with shape :math:`(N,)`.
    """
    log_weight = log_weight.double()
    count = len(log_weight)
    value = float(log_weight.logsumexp(0)) - math.log(count)
    if count < 2 or not math.isfinite(value):
        return Bound(value, math.nan)
    relative = (log_weight - value).exp()
    return Bound(value, float(relative.std()) / math.sqrt(count))
