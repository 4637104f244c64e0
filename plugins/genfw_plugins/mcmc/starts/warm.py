"""Begin where this row's chain ended last time."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Start, StartRequest
from genfw.interfaces.values import StateTree
from genfw.plugins.validators import positive
from genfw_plugins.mcmc.starts.noise import or_noise


@attrs.define(kw_only=True, eq=False, slots=False)
class WarmStart(Start):
    r"""One chain for each row of the data set, gone on with whenever the row comes up: alternating back-propagation's
    posterior chains.

    Where a row has several chains at once, the end of the last of them is kept. Memory is one position for each row.
    With several processes each keeps a table of its own: a row that another one was given last goes on from where it
    ended here, longer ago.

    Arguments:
        size: Rows of the data set; the table grows with the row numbers where absent (that reads the largest one back
            from the device at each draw).
        fresh: Where a row's first chain begins; draws of the base where absent.

    References:
        T. Han et al., Alternating back-propagation for generator network, 2017.
    """

    size: int | None = attrs.field(default=None, validator=positive)
    fresh: Start = attrs.field(default=None, converter=or_noise)
    _table: Tensor | None = attrs.field(default=None, init=False)
    _filled: Tensor | None = attrs.field(default=None, init=False)

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: The request has no row numbers, or more rows than ``size`` says.
        """
        index = _rows(request)
        fresh = self.fresh.draw(request)
        table, filled = self._grown(index, fresh)
        return torch.where(filled[index][:, None], table[index].to(fresh), fresh)

    def store(self, request: StartRequest, position: Tensor) -> None:
        index = _rows(request)
        table, filled = self._grown(index, position)
        # Writing twice to one row has no defined order: all of a row's chains write the position of its last.
        number = torch.arange(index.numel(), device=index.device)
        last = torch.zeros(table.shape[0], dtype=torch.int64, device=index.device)
        last = last.scatter_reduce(0, index, number, "amax", include_self=False)
        table[index] = position[last[index]].to(table)
        filled[index] = True
        self.fresh.store(request, position)

    def _grown(self, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.size if self.size is not None else int(index.max()) + 1
        if self._table is None or self._filled is None:
            self._table, self._filled = like.new_zeros(0, like.shape[1]), index.new_zeros(0, dtype=torch.bool)
        if self._table.shape[1] != like.shape[1]:
            raise ContractError(
                f"warm: positions have {like.shape[1]} numbers, but those kept so far have {self._table.shape[1]}"
            )
        self._table, self._filled = self._table.to(like.device), self._filled.to(like.device)
        missing = rows - self._table.shape[0]
        if missing > 0:
            self._table = torch.cat([self._table, self._table.new_zeros(missing, like.shape[1])])
            self._filled = torch.cat([self._filled, self._filled.new_zeros(missing)])
        return self._table, self._filled

    def after_update(self, step: int) -> None:
        self.fresh.after_update(step)

    def state_dict(self) -> StateTree:
        """The table, which rows are filled, and the state of ``fresh``."""
        state: StateTree = {"fresh": self.fresh.state_dict()}
        if self._table is not None and self._filled is not None:
            state |= {"table": self._table, "filled": self._filled}
        return state

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self.fresh.load_state_dict(state["fresh"])
        self._table = state["table"].clone() if "table" in state else None
        self._filled = state["filled"].clone() if "filled" in state else None


def _rows(request: StartRequest) -> Tensor:
    if request.index is None:
        raise ContractError(
            "warm starts keep one chain per row of the data set, and this chain has no row numbers; use 'replay'"
        )
    return request.index.to(request.generator.device)
