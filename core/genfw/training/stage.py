"""The interface of a training algorithm."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import attrs
import torch
from torch import Tensor

from genfw.interfaces.values import Batch, Stateful, StateTree
from genfw.models.model import Model
from genfw.plugins.validators import at_least, positive

if TYPE_CHECKING:  # `genfw check` imports stages, and is faster without Fabric
    from lightning_fabric import Fabric

P = TypeVar("P", bound=Stateful)


@runtime_checkable
class Finishing(Protocol):
    """A part of a stage that changes the model when the stage ends, such as a weight average."""

    def finish(self) -> None:
        """Called at the end of the stage."""


@attrs.define(eq=False)
class StageRun:
    """What a stage uses of its run.

    Arguments:
        fabric: Devices, precision, processes; ``fabric.autocast()`` applies the recipe's precision.
        device: Device of all tensors.
        generator: Source of the stage's randomness, on ``device``; saved in checkpoints, different in each process.
        dataset_size: Rows in the training split.
        lr_scale: Factor on every learning rate, cut by the health monitor; saved in every checkpoint.
        spent: Share of the stage's ``seconds`` that has passed; 0 where it has none.
    """

    fabric: Fabric
    device: torch.device
    generator: torch.Generator
    dataset_size: int
    lr_scale: float = 1.0
    spent: float = 0.0

    def average(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all processes, without graph; with one process the tensor itself.

        For what depends on a batch, except gradients, which :class:`~genfw.training.updater.Updater` averages. Every
        process must call it.
        """
        if self.fabric.world_size == 1:
            return value.detach()
        mean = self.fabric.all_reduce(value.detach().clone(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean


@attrs.define(kw_only=True, eq=False, slots=False)
class Stage(abc.ABC):
    """One phase of training.

    A subclass guarantees that ``step`` depends only on its arguments, the model's weights, the run's generator and
    registered parts, so that a run resumes bit for bit; that returned metrics stay on the device; and that its
    constructor takes settings alone, and ``setup`` builds optimisers.

    With several processes ``prepare``, ``step`` and ``finish`` run in all of them, each with its share of the rows, and
    must leave the same weights and buffers in each. :class:`~genfw.training.updater.Updater` averages gradients, batch
    norms of the model use the rows of all processes (:func:`genfw.nn.batch_norm.synchronised`), and the stage averages
    the rest (:meth:`StageRun.average`). All three wait for the other processes: outside of chains, every process must
    call networks in training mode equally often and in the same order, whatever its rows are.

    Arguments:
        model: The composed model.
        steps: Training steps, at most.
        batch: Rows per step over all processes.
        seconds: Time after which the stage ends, if its steps have not ended before. Learning rates fall by whichever
            is further. It is for methods that are compared on one budget: the count of steps depends on the machine
            then, and a resumed run need not be the same bit for bit.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "batch": 8}

    model: Model
    steps: int = attrs.field(validator=at_least(1))
    batch: int = attrs.field(validator=at_least(1))
    seconds: float | None = attrs.field(default=None, validator=positive)
    #: Set by the engine before :meth:`setup`.
    run: StageRun = attrs.field(init=False)

    def setup(self) -> None:
        """Build optimisers and averages, and :meth:`register` them; ``self.run`` is set, weights are on the device."""

    def prepare(self, batch_at: Callable[[int], Batch]) -> None:
        """Look at data before the first step; called after :meth:`setup`, but not when a stage resumes.

        Arguments:
            batch_at: Gives this process's batch of a step, on its device.
        """

    @abc.abstractmethod
    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Train on one batch; return scalars to log (0-dim tensors on the device), named ``group/name`` or ``name``."""

    def finish(self) -> None:
        """Leave in the model the weights for later stages and evaluation: finishes registered parts.

        Called once after the last step, and on a copy of an unfinished run to sample from it.
        """
        for part in self._parts.values():
            if isinstance(part, Finishing):
                part.finish()

    @functools.cached_property
    def _parts(self) -> dict[str, Stateful]:
        return {}

    def register(self, name: str, part: P) -> P:
        """Save, restore and finish ``part`` with the stage, under ``name``; returns ``part``."""
        if name in self._parts:
            raise ValueError(f"the stage already has a part named '{name}'")
        self._parts[name] = part
        return part

    def state_dict(self) -> StateTree:
        """State of every registered part."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`; called after :meth:`setup`."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


#: A subclass with a constructor of its own has no time limit.
Stage.seconds = None
