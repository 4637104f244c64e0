"""The interface of an optimiser, and its learning rate over a stage."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import Literal

import attrs
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.plugins.validators import at_least, positive

Decay = Literal["none", "linear", "cosine", "exponential"]


@attrs.define(kw_only=True, eq=False, slots=False)
class OptimizerFactory(abc.ABC):
    r"""Recipe of an optimiser; one factory may build several optimisers.

    The learning rate at step :math:`t` of :math:`T` is ``lr`` times a factor that rises linearly over ``warmup`` steps
    and then falls from 1 to ``final`` along ``decay``, at once or in ``stairs``.

    Arguments:
        lr: Peak learning rate.
        warmup: Steps of linear warm-up.
        decay: Course after the warm-up.
        final: Factor on ``lr`` at the last step.
        stairs: Steps for which the course stands still between two falls; 1 falls in every step.
        least: Learning rate below which the course does not fall.
        accumulate: Steps whose gradients are averaged into one update: with batches of ``b`` rows, an update is that of
            ``accumulate * b`` rows, in the memory of ``b``. A rest at the end of a stage makes no update.
    """

    lr: float = attrs.field(validator=positive)
    warmup: int = 0
    decay: Decay = "none"
    final: float = 0.0
    stairs: int = 1
    least: float = 0.0
    accumulate: int = attrs.field(default=1, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        at_least(0).check(warmup=self.warmup, final=self.final, least=self.least)
        at_least(1).check(stairs=self.stairs)
        if self.decay == "exponential" and not self.final > 0:
            raise ContractError(f"exponential decay needs final above 0, got {self.final}")

    @abc.abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser over ``parameters`` at the peak learning rate."""

    def factor(self, step: int, steps: int) -> float:
        """Factor on the learning rate at ``step`` of ``steps``, both counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        past = (step - self.warmup) // self.stairs * self.stairs
        progress = min(max(past / max(steps - 1 - self.warmup, 1), 0.0), 1.0)
        return max(self._course(progress), min(self.least / self.lr, 1.0))

    def _course(self, progress: float) -> float:
        match self.decay:
            case "none":
                return 1.0
            case "linear":
                return 1.0 + (self.final - 1.0) * progress
            case "cosine":
                return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))
            case "exponential":
                return float(self.final**progress)
