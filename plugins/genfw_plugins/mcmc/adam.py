"""Adam on the potential: the search for a mode, where others draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import Info, Sampler, Target
from genfw.plugins.validators import positive, within


class AdamState(NamedTuple):
    r"""Position :math:`(B, D)`, potential :math:`(B,)`, gradient and its two moments :math:`(B, D)`, and moves made."""

    position: Tensor
    potential: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    moves: int


@attrs.define(kw_only=True, eq=False, slots=False)
class AdamMode(Sampler):
    r"""Descend the potential by Adam, each chain for itself:

    .. math:: \epsilon \leftarrow \epsilon - \eta_t\, \hat m / (\sqrt{\hat v} + \delta),

    :math:`\hat m, \hat v` the bias-corrected moments of :math:`\nabla U`. It has no law: chains go to a mode nearby
    and stay, the point of a MAP estimate and of a GAN inversion by optimisation.

    References: Kingma & Ba 2015 (arXiv 1412.6980); Abdal et al. 2019 (arXiv 1904.03189) for inversion.

    Arguments:
        lr: :math:`\eta`, about how far every number of a position goes in one move.
        steps: Moves in one chain.
        betas: Decays of the two moments.
        decay: Whether :math:`\eta` stays (``constant``) or falls along a half wave to 0 (``cosine``).
        eps: :math:`\delta`.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    lr: float = attrs.field(validator=positive)
    steps: int = attrs.field(default=100, validator=positive)
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), validator=within(0, 1, "[)"))
    decay: Literal["constant", "cosine"] = "constant"
    eps: float = attrs.field(default=1e-8, validator=positive)

    def __attrs_post_init__(self) -> None:
        self._planned = self.steps

    def plan(self, steps: int) -> None:
        self._planned = max(steps, 1)

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> AdamState:
        zero = torch.zeros_like(position)
        return AdamState(position, *target.potential_and_grad(position), zero, zero, 0)

    def relocate(self, target: Target, state: AdamState, position: Tensor, generator: torch.Generator) -> AdamState:
        potential, gradient = target.potential_and_grad(position)
        return state._replace(position=position, potential=potential, gradient=gradient)

    def step(self, target: Target, state: AdamState, generator: torch.Generator) -> tuple[AdamState, Info]:
        (one, two), moves = self.betas, state.moves + 1
        first = torch.lerp(state.gradient, state.first, one)
        second = torch.lerp(state.gradient.square(), state.second, two)
        rate = self.lr
        if self.decay == "cosine":
            rate = 0.5 * rate * (1.0 + math.cos(math.pi * min(state.moves / self._planned, 1.0)))
        scale = (second / (1.0 - two**moves)).sqrt() + self.eps
        position = state.position - rate / (1.0 - one**moves) * first / scale
        potential, gradient = target.potential_and_grad(position)
        done = torch.ones_like(potential)
        return AdamState(position, potential, gradient, first, second, moves), Info(acceptance=done, moved=done.bool())
