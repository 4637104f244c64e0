"""Unadjusted Langevin: the papers' kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Info, Sampler, Target
from genfw.plugins.validators import at_least, positive
from genfw_plugins.mcmc.moves import normal_like


class _Position(NamedTuple):
    target: Target
    position: Tensor


class LangevinState(_Position):
    r"""Position :math:`(B, D)` of chains; a move takes the gradient there when it begins."""

    @cached_property
    def potential(self) -> Tensor:
        """Potential there in nats, with shape ``(B,)``, computed when it is first read."""
        with torch.no_grad():
            return self.target.potential(self.position)


@attrs.define(kw_only=True, eq=False, slots=False)
class Langevin(Sampler):
    r"""Unadjusted Langevin dynamics:

    .. math:: \epsilon \leftarrow \epsilon - h \nabla U(\epsilon) + c \sqrt{2h}\, \xi, \qquad \xi \sim N(0, I).

    Nothing corrects the discretisation, so the chain's law is biased by :math:`O(h)`, and for a step beyond the
    stiffest curvature it has none. One gradient per step.

    Arguments:
        step_size: :math:`h`. From VAEBM's :math:`\eta`: :math:`h = \eta/2`; from LEBM's and DAMC's :math:`s`:
            :math:`h = s^2/2`.
        steps: Moves in one chain.
        noise: Factor :math:`c` on the noise; 0 descends the gradient, 1 is Langevin.
        clip: Largest absolute value of an element of the gradient, IGEBM's guard; none where absent. It bends the law
            that the chain has.
        bounds: Range that positions are cut to after each move, such as that of pixels in space ``data``.

    References:
        G. O. Roberts and R. L. Tweedie, Exponential convergence of Langevin distributions, 1996;
        VAEBM, Eq. 3; DAMC, Eq. 2; Y. Du and I. Mordatch, Implicit generation and modeling with energy-based models,
        2019, for ``clip`` and ``bounds``.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    step_size: float = attrs.field(validator=positive)
    steps: int = attrs.field(default=20, validator=positive)
    noise: float = attrs.field(default=1.0, validator=at_least(0))
    clip: float | None = attrs.field(default=None, validator=positive)
    bounds: tuple[float, float] | None = None

    def __attrs_post_init__(self) -> None:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ContractError(f"bounds are a lower and an upper end, got {list(self.bounds)}")

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> LangevinState:
        return LangevinState(target, position)

    def step(self, target: Target, state: LangevinState, generator: torch.Generator) -> tuple[LangevinState, Info]:
        h = self.step_size
        potential, gradient = target.potential_and_grad(state.position)
        if self.clip is not None:
            gradient = gradient.clamp(-self.clip, self.clip)
        position = torch.add(state.position, gradient, alpha=-h)
        if self.noise:
            position.add_(normal_like(position, generator), alpha=self.noise * math.sqrt(2.0 * h))
        if self.bounds is not None:
            position = position.clamp(*self.bounds)
        one = torch.ones_like(potential)
        return LangevinState(target, position), Info(acceptance=one, moved=one.bool())
