"""Barker's proposal: the gradient tips a coin instead of pushing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from genfw import Info, Sampler, Target
from genfw.plugins.validators import positive

__all__ = ["Barker", "BarkerState"]


class BarkerState(NamedTuple):
    r"""Chains with what the next move needs.

    Arguments:
        position: With shape :math:`(B, D)`.
        potential: Potential there, with shape :math:`(B,)`.
        gradient: Its gradient, with shape :math:`(B, D)`.
    """

    position: Tensor
    potential: Tensor
    gradient: Tensor


@attrs.define(kw_only=True, eq=False, slots=False)
class Barker(Sampler):
    r"""Metropolis-adjusted Barker proposal; the target is exactly invariant.

    Every coordinate draws a step :math:`z_i \sim N(0, s^2)` and a coin decides its sign, downhill with the larger
    probability,

    .. math:: \epsilon'_i = \epsilon_i + b_i z_i, \quad P(b_i = 1) = 1 / (1 + e^{z_i \partial_i U(\epsilon)}).

    The move is accepted with probability

    .. math:: \min\Big(1, e^{U(\epsilon) - U(\epsilon')} \prod_i
        \frac{1 + e^{d_i \partial_i U(\epsilon)}}{1 + e^{-d_i \partial_i U(\epsilon')}}\Big),
        \quad d = \epsilon' - \epsilon.

    However steep the potential, no coordinate moves further than its own :math:`z_i`: where Langevin's drift explodes,
    this kernel merely slows down. One gradient per step.

    References:
        The Barker proposal: combining robustness and efficiency in gradient-based MCMC (Livingstone and Zanella, 2022),
        https://arxiv.org/abs/1908.11812

    Arguments:
        scale: :math:`s`, the standard deviation of a step.
        steps: Moves in one chain.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    scale: float = attrs.field(default=0.5, validator=positive)
    steps: int = attrs.field(default=20, validator=positive)

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> BarkerState:
        return BarkerState(position, *target.potential_and_grad(position))

    def step(self, target: Target, state: BarkerState, generator: torch.Generator) -> tuple[BarkerState, Info]:
        old, gradient = state.position, state.gradient
        z = self.scale * torch.randn(old.shape, generator=generator, dtype=old.dtype, device=old.device)
        coin = torch.rand(old.shape, generator=generator, dtype=old.dtype, device=old.device)
        uniform = torch.rand(len(old), generator=generator, dtype=old.dtype, device=old.device)
        d = torch.where(coin < torch.sigmoid(-z * gradient), z, -z)
        new = BarkerState(old + d, *target.potential_and_grad(old + d))
        # log(1 + e^a) as softplus(a): the exponentials themselves overflow where the potential is steep.
        log_coins = (F.softplus(d * gradient) - F.softplus(-d * new.gradient)).sum(1)
        # A proposal without a finite potential is never accepted.
        acceptance = torch.exp(state.potential - new.potential + log_coins).clamp(max=1.0).nan_to_num(nan=0.0)
        moved = uniform < acceptance
        kept = BarkerState(
            position=torch.where(moved[:, None], new.position, old),
            potential=torch.where(moved, new.potential, state.potential),
            gradient=torch.where(moved[:, None], new.gradient, gradient),
        )
        return kept, Info(acceptance, moved)
