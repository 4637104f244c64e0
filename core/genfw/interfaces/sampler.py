"""Transition kernels: they see a target and positions, nothing of the model."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from genfw.interfaces.target import Target
from genfw.interfaces.values import StateTree


class SamplerState(Protocol):
    r"""What every sampler's state holds; each sampler's own NamedTuple adds what its next step needs."""

    @property
    def position(self) -> Tensor:
        r"""Where the chains are, with shape :math:`(B, D)`."""

    @property
    def potential(self) -> Tensor:
        r"""Potential there in nats, with shape :math:`(B,)`.

        A state may compute it on first access: read it within the chain, and only where you need it.
        """


class Info(NamedTuple):
    r"""What one step reports, on the device, without a host sync.

    Arguments:
        acceptance: Probability with which the move was accepted (1 where a kernel does not reject), with shape
            :math:`(B,)`.
        moved: Whether the position changed, with shape :math:`(B,)`.
    """

    acceptance: Tensor
    moved: Tensor


class Sampler(abc.ABC):
    r"""Markov kernel :math:`K(\epsilon' \mid \epsilon)` for a target given by its potential.

    A subclass guarantees that all randomness comes from the given generator, that ``step`` does not change its
    ``state`` and does not wait for the device, and, where it corrects its moves, that the target is invariant.
    An uncorrected kernel says so in its docstring. The state carries what a step needs from the one before;
    :meth:`finish` and :meth:`state_dict` keep what outlives a chain (an adapted step size).
    """

    #: Moves in one chain by default.
    steps: int
    #: Whether a chain is the same list of operations each time, so that it can be recorded
    #: (:mod:`genfw.models.recording`): nothing but :meth:`state_dict` may change from one chain to the next.
    recordable: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> Any:
        r"""Begin chains at ``position`` :math:`(B, D)`; the state evaluates the target there once at most."""

    @abc.abstractmethod
    def step(self, target: Target, state: Any, generator: torch.Generator) -> tuple[Any, Info]:
        """Make one move of every chain."""

    def relocate(self, target: Target, state: Any, position: Tensor, generator: torch.Generator) -> Any:
        r"""The state after something else moved the chains to ``position`` :math:`(B, D)`; adaptation is kept.

        Kernels that combine others call it. Override it where the state holds adaptation, or counts steps.
        """
        self.finish(state)
        return self.init(target, position, generator)

    def plan(self, steps: int) -> None:
        """Called once before a chain with its number of steps; annealed kernels set up their schedule here."""

    def finish(self, state: Any) -> None:
        """Called once after a chain; keep here what the next chain should begin with (adapted step sizes)."""

    def state_dict(self) -> StateTree:
        """What outlives a chain; nothing by default."""
        return {}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""


class Resting(NamedTuple):
    r"""Chains that stay where they are: position :math:`(B, D)`, and zeros :math:`(B,)` for the potential."""

    position: Tensor
    potential: Tensor


class Rest(Sampler):
    """No kernel: chains end where they start, and nobody asks for a potential."""

    steps = 0

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> Resting:
        return Resting(position, position.new_zeros(len(position)))

    def step(self, target: Target, state: Resting, generator: torch.Generator) -> tuple[Resting, Info]:
        one = torch.ones_like(state.potential)
        return state, Info(one, torch.zeros_like(one, dtype=torch.bool))
