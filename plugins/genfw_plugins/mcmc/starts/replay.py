"""Begin where earlier chains ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import ContractError, NoiseLayout, PosteriorTarget, Start, StartRequest
from genfw.interfaces.values import StateTree, Volatile
from genfw.plugins.validators import positive, within
from genfw_plugins.mcmc.starts.noise import or_noise

_log = logging.getLogger("genfw")

_STORAGE = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Bytes up to which a buffer lies where the chains run; a larger one lies in host memory, for which each draw waits.
_ON_DEVICE = 1 << 30


@attrs.define(kw_only=True, eq=False, slots=False)
class ReplayStart(Start):
    r"""A buffer of :math:`N` chain ends. Every chain is tied to a slot of its own, drawn at random; it begins in what
    the slot holds with probability :math:`p_t = p \min(1, t / \text{ramp})`, else fresh, and leaves its end in the
    slot. A buffer of more than 1 GiB lies in host memory, also where chains run on a GPU.

    With :math:`p = 1` and as many slots as chains, the chains are persistent (PCD). Chains beyond :math:`N` begin
    fresh and are not kept.

    With ``order: fifo`` nobody owns a slot, as in VAEBM's published code: the ends of all chains are added to the
    buffer, where the oldest leave it, and a chain that goes on begins in any end, which stays.

    Arguments:
        size: Slots :math:`N`, in each process.
        probability: :math:`p`, the share of chains that go on from the buffer once the schedule is through.
        ramp: Training steps over which the share grows from 0; 0 begins at :math:`p`.
        groups: Noise groups that are kept; ``z`` stands for all of ``z.0``, ``z.1``, .... The others are drawn fresh
            each time, as VAEBM's published code does with ``x``. All groups where absent.
        storage: Precision of the buffer. ``bfloat16`` takes half the memory, and moves where chains go on by up to
            0.4 % of each number.
        fresh: Where chains begin that do not go on; draws of the base where absent.
        order: What leaves the buffer: the chain's own last state (``own``), or the oldest state (``fifo``).
        keep: Whether checkpoints hold the buffer (``saved``): a resumed run then goes on bit for bit. With ``rebuilt``
            they are smaller by it, and after a resumption or a rollback chains begin fresh until it is filled again.

    References:
        T. Tieleman, Training restricted Boltzmann machines using approximations to the likelihood gradient, 2008;
        Y. Du and I. Mordatch, Implicit generation and modeling with energy-based models, 2019; VAEBM, App. E.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"size": 64}

    size: int = attrs.field(default=10_000, validator=positive)
    probability: float = attrs.field(default=0.95, validator=within(0, 1))
    ramp: int = 0
    groups: list[str] | None = None
    storage: Literal["float32", "bfloat16"] = "float32"
    fresh: Start = attrs.field(default=None, converter=or_noise)
    order: Literal["own", "fifo"] = "own"
    keep: Literal["saved", "rebuilt"] = "saved"
    _buffer: Tensor | None = attrs.field(default=None, init=False)
    _filled: Tensor | None = attrs.field(default=None, init=False)
    _slots: Tensor | None = attrs.field(default=None, init=False)
    _next: int = attrs.field(default=0, init=False)
    _known: int = attrs.field(default=0, init=False)

    def probability_at(self, step: int) -> float:
        """:math:`p_t`."""
        return self.probability * min(1.0, step / self.ramp) if self.ramp > 0 else self.probability

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: The chains are conditioned on data, or the target is not the one the buffer was filled for.
        """
        if isinstance(request.target, PosteriorTarget):
            raise ContractError(
                "a replay buffer would hand one item's posterior chain to another item; use the start 'warm', which "
                "keeps one chain per row of the data set"
            )
        fresh = self.fresh.draw(request)
        columns, width = self._columns(request.target.layout, fresh.device)
        buffer, filled = self._allocate(width, fresh.device)
        generator = request.generator
        if self.order == "fifo":
            # Filled from the first slot on; any end may begin several chains.
            slots = torch.randint(
                max(self._known, 1), (min(request.count, self.size),), generator=generator, device=fresh.device
            )
        else:
            # Slots without repetition, so that no two chains write to one.
            slots = torch.randperm(self.size, generator=generator, device=fresh.device)[: request.count]
        coin = torch.rand(slots.shape, generator=generator, device=fresh.device)
        slots = slots.to(buffer.device)
        replayed = (coin < self.probability_at(request.step)) & filled[slots].to(fresh.device)
        position = fresh.clone()
        kept = torch.where(replayed[:, None], buffer[slots].to(fresh), fresh[: slots.numel(), columns])
        position[: slots.numel(), columns] = kept
        self._slots = slots
        return position

    def store(self, request: StartRequest, position: Tensor) -> None:
        slots = self._slots
        if slots is None or self._buffer is None or self._filled is None or position.shape[0] != request.count:
            raise ContractError("replay: positions to store do not match those drawn")
        columns, _ = self._columns(request.target.layout, position.device)
        if self.order == "fifo":
            slots = (self._next + torch.arange(len(slots), device=slots.device)) % self.size
            self._next = (self._next + len(slots)) % self.size
            self._known = min(self._known + len(slots), self.size)  # counted here: a look at the device would wait
        self._buffer[slots] = position[: slots.numel(), columns].to(self._buffer)
        self._filled[slots] = True
        self._slots = None
        self.fresh.store(request, position)

    def _columns(self, layout: NoiseLayout, device: torch.device) -> tuple[Tensor | slice, int]:
        """Which columns of a position are kept, and how many."""
        if self.groups is None:
            return slice(None), layout.size
        for wanted in self.groups:
            if not any(_belongs(name, wanted) for name in layout.names):
                raise ContractError(f"replay: no noise group '{wanted}'; there are {', '.join(layout.names)}")
        columns = torch.cat(
            [
                torch.arange(where.start, where.stop, device=device)
                for group, where in layout.slices()
                if any(_belongs(group.name, wanted) for wanted in self.groups)
            ]
        )
        return columns, columns.numel()

    def _allocate(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        dtype = _STORAGE[self.storage]
        device = device if self.size * width * dtype.itemsize <= _ON_DEVICE else torch.device("cpu")
        if self._buffer is None or self._filled is None:
            self._buffer = torch.zeros(self.size, width, dtype=dtype, device=device)
            self._filled = torch.zeros(self.size, dtype=torch.bool, device=device)
        if self._buffer.shape != (self.size, width):
            raise ContractError(
                f"replay: the buffer holds {tuple(self._buffer.shape)} numbers, this target needs {(self.size, width)}"
            )
        self._buffer, self._filled = self._buffer.to(device), self._filled.to(device)
        return self._buffer, self._filled

    def after_update(self, step: int) -> None:
        self.fresh.after_update(step)

    def state_dict(self) -> StateTree:
        """The buffer, which slots are filled, and the state of ``fresh``."""
        fresh = self.fresh.state_dict()
        if self._buffer is None or self._filled is None:
            return {"fresh": fresh}
        kept = {"next": self._next, "known": self._known, "buffer": self._buffer, "filled": self._filled}
        return {"fresh": fresh, **kept} if self.keep == "saved" else {"fresh": fresh, "rebuilt": Volatile(kept)}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self.fresh.load_state_dict(state["fresh"])
        if "rebuilt" in state:
            if state["rebuilt"] is None:
                _log.warning("genfw: the replay buffer is not in the checkpoint (keep: rebuilt); chains begin fresh")
            state = {} if state["rebuilt"] is None else state["rebuilt"].value
        self._next = state.get("next", 0)
        self._buffer = state["buffer"].clone() if "buffer" in state else None
        self._filled = state["filled"].clone() if "filled" in state else None
        self._known = state["known"] if "known" in state else int(state.get("filled", torch.empty(0)).sum())


def _belongs(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(wanted + ".")
