"""Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import Info, Target
from genfw.plugins.validators import positive, within
from genfw_plugins.mcmc.adaptation import AdaptiveSampler, StepSize, StepState
from genfw_plugins.mcmc.moves import choose, jittered, metropolis, normal_like


class HMCState(NamedTuple):
    r"""Position :math:`(B, D)`, potential :math:`(B,)`, gradient :math:`(B, D)` of chains, and their common step
    size."""

    position: Tensor
    potential: Tensor
    gradient: Tensor
    step_size: StepState


def leapfrog(
    target: Target, start: tuple[Tensor, Tensor, Tensor], momentum: Tensor, step_size: Tensor, steps: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    r"""Walk Hamilton's equations with unit mass: half a kick, then drift and kick in turn, half a kick at the end.

    Arguments:
        target: The potential.
        start: Position :math:`(B, D)`, potential :math:`(B,)`, gradient :math:`(B, D)`.
        momentum: :math:`p`, with shape :math:`(B, D)`.
        step_size: :math:`\tau`, 0-dim or with shape :math:`(B, 1)`.
        steps: :math:`L`, one gradient each.

    Returns:
        Position, potential and gradient at the end, and the momentum there.
    """
    position, potential, gradient = start
    momentum = momentum - 0.5 * step_size * gradient
    for number in range(steps):
        position = position + step_size * momentum
        potential, gradient = target.potential_and_grad(position)
        momentum = momentum - (step_size if number < steps - 1 else 0.5 * step_size) * gradient
    return (position, potential, gradient), momentum


@attrs.define(kw_only=True, eq=False, slots=False)
class HMC(AdaptiveSampler):
    r"""Hamiltonian Monte Carlo with unit mass: :math:`L` leapfrog steps of length :math:`\tau`, accepted or rejected
    as a whole, so that the target is exactly invariant.

    :math:`L` gradients per step: that of the state is kept. Every chain and step has its own length :math:`\tau (1 +
    j u)`, :math:`u` uniform on :math:`[-1, 1]`, so that no period of the motion is met for ever. :math:`\tau` adapts
    itself (see :mod:`genfw_plugins.mcmc.adaptation`) and is handed on from one chain to the next. One leapfrog step
    is MALA with :math:`h = \tau^2/2`.

    Arguments:
        step_size: First :math:`\tau`.
        leapfrog_steps: :math:`L`.
        steps: Moves in one chain.
        jitter: :math:`j` in [0, 1).
        target: Acceptance to aim at; 0.651 is the optimum for many independent dimensions, 0.8 is the safer habit.
        adapt: Adapt the step size.
        adapt_steps: Steps, over all chains, after which the step size stays; ``None`` adapts for ever.

    References:
        R. M. Neal, MCMC using Hamiltonian dynamics, 2011; A. Beskos et al., Optimal tuning of the hybrid Monte Carlo
        algorithm, 2013.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2, "leapfrog_steps": 2}

    step_size: float = 0.1
    leapfrog_steps: int = attrs.field(default=5, validator=positive)
    steps: int = attrs.field(default=10, validator=positive)
    jitter: float = attrs.field(default=0.2, validator=within(0, 1, "[)"))
    target: float = 0.8
    adapt: bool = True
    adapt_steps: int | None = None

    def __attrs_post_init__(self) -> None:
        self._step_size = StepSize(self.step_size, self.target, self.adapt, self.adapt_steps)

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> HMCState:
        return HMCState(position, *target.potential_and_grad(position), self._step_size.begin(position))

    def step(self, target: Target, state: HMCState, generator: torch.Generator) -> tuple[HMCState, Info]:
        momentum = normal_like(state.position, generator)
        length = jittered(state.step_size.step, self.jitter, momentum, generator)
        end, last = leapfrog(target, state[:3], momentum, length, self.leapfrog_steps)
        ratio = state.potential - end[1] + 0.5 * (momentum.square() - last.square()).sum(1)
        probability, accept = metropolis(ratio, generator)
        position, potential, gradient = (choose(accept, new, old) for new, old in zip(end, state[:3], strict=True))
        step_size = self._step_size.update(state.step_size, probability.mean())
        return HMCState(position, potential, gradient, step_size), Info(probability, accept)

    def relocate(self, target: Target, state: HMCState, position: Tensor, generator: torch.Generator) -> HMCState:
        return HMCState(position, *target.potential_and_grad(position), state.step_size)
