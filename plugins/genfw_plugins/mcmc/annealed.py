"""Langevin whose tilt is turned on along the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Info, Sampler, Target
from genfw.plugins.validators import positive, within
from genfw_plugins.mcmc.moves import normal_like


class AnnealedState(NamedTuple):
    r"""Chains, base and tilt and their gradients apart.

    Arguments:
        position: With shape :math:`(B, D)`.
        base: With shape :math:`(B,)`.
        tilt: With shape :math:`(B,)`.
        base_gradient: With shape :math:`(B, D)`.
        tilt_gradient: With shape :math:`(B, D)`.
        moves: Made so far.
    """

    position: Tensor
    base: Tensor
    tilt: Tensor
    base_gradient: Tensor
    tilt_gradient: Tensor
    moves: int

    @property
    def potential(self) -> Tensor:
        """Potential of the target itself, tilt at full weight, with shape ``(B,)``."""
        return self.base + self.tilt


@attrs.define(kw_only=True, eq=False, slots=False)
class AnnealedLangevin(Sampler):
    r"""Unadjusted Langevin from the base to the target: move :math:`k` walks on :math:`\text{base} + \beta_k
    \text{tilt}` with step :math:`h_k`.

    :math:`\beta_k` rises evenly from 0 to 1 and :math:`h_k` falls geometrically from ``first_step_size`` to
    ``step_size`` over the planned moves, but for a share ``hold`` at the end that stays on the target. Chains that
    begin in the base are spread over the modes while the walls between them are low. Nothing is corrected or weighed:
    neither the discretisation nor the annealing leaves the target invariant. One gradient per step.

    Arguments:
        step_size: Last :math:`h`.
        first_step_size: First :math:`h`.
        steps: Moves in one chain.
        hold: Share of the moves at the end with :math:`\beta = 1` and the last :math:`h`, in [0, 1).

    References:
        R. M. Neal, Annealed importance sampling, 2001; Y. Song and S. Ermon, Generative modeling by estimating
        gradients of the data distribution, 2019.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    step_size: float = attrs.field(validator=positive)
    first_step_size: float = attrs.field(default=0.1, validator=positive)
    steps: int = attrs.field(default=60, validator=positive)
    hold: float = attrs.field(default=0.25, validator=within(0, 1, "[)"))

    def __attrs_post_init__(self) -> None:
        if self.first_step_size < self.step_size:
            raise ContractError(
                f"step sizes fall along the chain: first_step_size {self.first_step_size} is below step_size "
                f"{self.step_size}"
            )
        self._planned = self.steps

    def plan(self, steps: int) -> None:
        self._planned = max(steps, 1)

    def schedule(self, move: int) -> tuple[float, float]:
        r""":math:`(\beta_k, h_k)` of a move, counted from 0."""
        rising = self._planned - math.ceil(self.hold * self._planned)
        beta = 1.0 if move >= rising else move / rising
        return beta, math.exp((1.0 - beta) * math.log(self.first_step_size) + beta * math.log(self.step_size))

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> AnnealedState:
        return self._at(target, position, 0)

    def step(self, target: Target, state: AnnealedState, generator: torch.Generator) -> tuple[AnnealedState, Info]:
        beta, h = self.schedule(state.moves)
        drift = h * (state.base_gradient + beta * state.tilt_gradient)
        position = state.position - drift + math.sqrt(2.0 * h) * normal_like(drift, generator)
        one = torch.ones_like(state.tilt)
        return self._at(target, position, state.moves + 1), Info(acceptance=one, moved=one.bool())

    def relocate(
        self, target: Target, state: AnnealedState, position: Tensor, generator: torch.Generator
    ) -> AnnealedState:
        """See :meth:`Sampler.relocate`; the schedule goes on."""
        return self._at(target, position, state.moves)

    def _at(self, target: Target, position: Tensor, moves: int) -> AnnealedState:
        tilt, tilt_gradient = target.tilt_and_grad(position)
        base, base_gradient = target.base_and_grad(position)
        return AnnealedState(position, base, tilt, base_gradient, tilt_gradient, moves)
