"""Where chains begin."""

from __future__ import annotations

import abc

import attrs
import torch
from torch import Tensor

from genfw.interfaces.target import Target
from genfw.interfaces.values import StateTree


@attrs.frozen(eq=False)
class StartRequest:
    r"""What a start is given.

    Arguments:
        count: How many positions are wanted, :math:`B`.
        target: The target of the chain: its layout says which groups there are, its ``draw_base`` gives fresh noise.
        generator: Source of all randomness; positions must be on its device.
        x: Data the chains are conditioned on or may start from, with shape :math:`(B, *)`, or ``None``.
        index: Row numbers of ``x`` in the data set, with shape :math:`(B,)`, or ``None``.
        step: Training step, counted from 0; schedules read it.
    """

    count: int
    target: Target
    generator: torch.Generator
    x: Tensor | None = None
    index: Tensor | None = None
    step: int = 0


class Start(abc.ABC):
    """Law of a chain's first position.

    A subclass guarantees positions that fit the request's target, on the generator's device, without gradient.
    """

    @abc.abstractmethod
    def draw(self, request: StartRequest) -> Tensor:
        r"""First positions, with shape :math:`(B, D)`."""

    def store(self, request: StartRequest, position: Tensor) -> None:
        r"""Called with the end :math:`(B, D)` of each chain that the matching :meth:`draw` began, in the same order."""

    def after_update(self, step: int) -> None:
        """Called once after every training step: starts that follow a moving network (an EMA) update it here."""

    def state_dict(self) -> StateTree:
        """Everything the next draw depends on; nothing by default."""
        return {}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
