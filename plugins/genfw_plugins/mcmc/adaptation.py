r"""Step sizes that find themselves.

Robbins and Monro's rule on the logarithm,
:math:`\log h \leftarrow \log h + \gamma_t (\bar\alpha - \alpha^\ast)`, with :math:`\bar\alpha` the acceptance
probability averaged over the chains and :math:`\gamma_t = \max((1 + t)^{-0.6}, \gamma_{\min})`. The gain does not
fall to zero, because the targets of training move; where exact invariance counts, adaptation is stopped
(``adapt_steps``, ``adapt: false``).

References:
    C. Andrieu and J. Thoms, A tutorial on adaptive MCMC, 2008, section 4.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw.interfaces import Sampler
from genfw.interfaces.values import StateTree
from genfw.plugins.validators import positive, within


class StepState(NamedTuple):
    r"""An adapted step size, on the device.

    Arguments:
        log_step: :math:`\log h`, 0-dim, or one per temperature.
        updates: How often it was adapted, 0-dim.
    """

    log_step: Tensor
    updates: Tensor

    @property
    def step(self) -> Tensor:
        """:math:`h`."""
        return self.log_step.exp()


@attrs.define(eq=False)
class StepSize:
    r"""The rule, and what one chain hands on to the next.

    Arguments:
        step_size: First :math:`h`.
        target: Acceptance :math:`\alpha^\ast` to aim at.
        adapt: Adapt at all.
        adapt_steps: Steps after which adaptation stops, over all chains; ``None`` adapts for ever.
        levels: How many step sizes there are; 0 for one 0-dim number.
    """

    #: Smallest gain :math:`\gamma_{\min}`.
    floor = 0.02

    step_size: float = attrs.field(validator=positive)
    target: float = attrs.field(validator=within(0, 1, "()"))
    adapt: bool = True
    adapt_steps: int | None = None
    levels: int = 0
    _kept: StepState | None = attrs.field(default=None, init=False)

    def begin(self, position: Tensor) -> StepState:
        """Where the last chain left off, on the device and in the precision of ``position``."""
        if self._kept is not None:
            return StepState(*(value.to(position) for value in self._kept))
        shape = (self.levels,) if self.levels else ()
        return StepState(position.new_full(shape, math.log(self.step_size)), position.new_zeros(()))

    def update(self, state: StepState, acceptance: Tensor) -> StepState:
        """One step of the rule; ``acceptance`` is averaged over chains and shaped like ``log_step``."""
        if not self.adapt:
            return state
        gain = (1.0 + state.updates).pow(-0.6).clamp(min=self.floor)
        if self.adapt_steps is not None:
            gain = torch.where(state.updates < self.adapt_steps, gain, torch.zeros_like(gain))
        return StepState(state.log_step + gain * (acceptance - self.target), state.updates + 1)

    def keep(self, state: StepState) -> None:
        """Begin the next chain with this."""
        self._kept = state

    def state_dict(self) -> StateTree:
        """What was kept."""
        return {} if self._kept is None else dict(self._kept._asdict())

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self._kept = StepState(state["log_step"].clone(), state["updates"].clone()) if state else None


class AdaptiveSampler(Sampler):
    """A kernel that hands its step size on from one chain to the next."""

    _step_size: StepSize

    def finish(self, state: Any) -> None:
        self._step_size.keep(state.step_size)

    def state_dict(self) -> StateTree:
        """The adapted step size, or one for each temperature."""
        return self._step_size.state_dict()

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self._step_size.load_state_dict(state)
