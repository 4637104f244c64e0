"""Langevin, corrected by Metropolis and Hastings."""

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


class MALAState(NamedTuple):
    r"""Position :math:`(B, D)`, potential :math:`(B,)`, gradient :math:`(B, D)` of chains, and the step size they
    share."""

    position: Tensor
    potential: Tensor
    gradient: Tensor
    step_size: StepState


def propose(position: Tensor, gradient: Tensor, h: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""A Langevin proposal :math:`\epsilon' = \epsilon - h \nabla U + \sqrt{2h}\,\xi` and its :math:`\xi`.

    Arguments:
        position: :math:`\epsilon`, with shape :math:`(B, D)`.
        gradient: :math:`\nabla U(\epsilon)`, with shape :math:`(B, D)`.
        h: Step size, 0-dim or with shape :math:`(B, 1)`.
        generator: Source of :math:`\xi`.
    """
    xi = normal_like(position, generator)
    return position - h * gradient + (2.0 * h).sqrt() * xi, xi


def log_ratio(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor], xi: Tensor, h: Tensor) -> Tensor:
    r"""Logarithm of MALA's acceptance ratio, :math:`(B,)`:

    .. math:: U - U' + \tfrac12 |\xi|^2 - \tfrac{1}{4h} |\epsilon - \epsilon' + h \nabla U'|^2.

    Arguments:
        old: :math:`(\epsilon, U)`.
        new: :math:`(\epsilon', U', \nabla U')`.
        xi: The noise of the proposal, with shape :math:`(B, D)`.
        h: Step size, 0-dim or with shape :math:`(B, 1)`.
    """
    back = (old[0] - new[0] + h * new[2]) / (2.0 * h).sqrt()
    return old[1] - new[1] + 0.5 * (xi.square() - back.square()).sum(1)


@attrs.define(kw_only=True, eq=False, slots=False)
class MALA(AdaptiveSampler):
    r"""Metropolis-adjusted Langevin: a Langevin proposal, accepted so that the target is exactly invariant.

    One gradient per step: that of the state is kept. A proposal where the potential is not a number is rejected. The
    step size is shared by all chains, adapts itself (see :mod:`genfw_plugins.mcmc.adaptation`), and is handed on from
    one chain to the next.

    Arguments:
        step_size: First :math:`h`.
        steps: Moves in one chain.
        target: Acceptance to aim at; 0.574 is optimal in many dimensions.
        adapt: Adapt the step size.
        adapt_steps: Steps, over all chains, after which the step size stays; ``None`` adapts for ever.
        jitter: :math:`j` in [0, 1): every chain and step has its own :math:`h (1 + j u)`, :math:`u` uniform on [-1, 1].
            The short steps free chains that begin far out, where the common step only overshoots.

    References:
        G. O. Roberts and J. S. Rosenthal, Optimal scaling of discrete approximations to Langevin diffusions, 1998.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    step_size: float = 0.1
    steps: int = attrs.field(default=20, validator=positive)
    target: float = 0.574
    adapt: bool = True
    adapt_steps: int | None = None
    jitter: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))

    def __attrs_post_init__(self) -> None:
        self._step_size = StepSize(self.step_size, self.target, self.adapt, self.adapt_steps)

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> MALAState:
        return MALAState(position, *target.potential_and_grad(position), self._step_size.begin(position))

    def step(self, target: Target, state: MALAState, generator: torch.Generator) -> tuple[MALAState, Info]:
        h = jittered(state.step_size.step, self.jitter, state.position, generator)
        position, xi = propose(state.position, state.gradient, h, generator)
        potential, gradient = target.potential_and_grad(position)
        ratio = log_ratio((state.position, state.potential), (position, potential, gradient), xi, h)
        probability, accept = metropolis(ratio, generator)
        return (
            MALAState(
                choose(accept, position, state.position),
                choose(accept, potential, state.potential),
                choose(accept, gradient, state.gradient),
                self._step_size.update(state.step_size, probability.mean()),
            ),
            Info(probability, accept),
        )

    def relocate(self, target: Target, state: MALAState, position: Tensor, generator: torch.Generator) -> MALAState:
        return MALAState(position, *target.potential_and_grad(position), state.step_size)
