"""Begin in one of several ways, chosen by chance for each chain."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Start, StartRequest
from genfw.interfaces.values import StateTree
from genfw.nn.precision import constants
from genfw.plugins.validators import at_least


@attrs.define(kw_only=True, eq=False, slots=False)
class MixtureStart(Start):
    r"""Each chain begins in start :math:`k` with probability :math:`w_k`, independently; its end goes back to the
    start it came from.

    Arguments:
        starts: The starts.
        weights: :math:`w_k`, in proportion; even where absent.
    """

    starts: list[Start]
    weights: list[float] | None = attrs.field(default=None, validator=at_least(0))
    _routes: list[tuple[Start, StartRequest, Tensor]] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        if not self.starts:
            raise ContractError("a mixture needs at least one start")
        if self.weights is None:
            self.weights = [1.0] * len(self.starts)
        if len(self.weights) != len(self.starts):
            raise ContractError(
                f"a mixture needs one weight for each start: {len(self.starts)} starts, {len(self.weights)} weights"
            )
        if sum(self.weights) <= 0:
            raise ContractError(f"weights must not all be 0, got {self.weights}")

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`; waits for the device once, for the choices."""
        device = request.generator.device
        assert self.weights is not None  # even ones are filled in
        weights = constants(self.weights, torch.empty(0, device=device))
        choice = torch.multinomial(weights, request.count, replacement=True, generator=request.generator)
        self._routes = []
        parts: list[Tensor] = []
        for number, start in enumerate(self.starts):
            rows = (choice == number).nonzero()[:, 0]
            if not rows.numel():
                continue
            part = attrs.evolve(
                request,
                count=rows.numel(),
                x=None if request.x is None else request.x[rows.to(request.x.device)],
                index=None if request.index is None else request.index[rows.to(request.index.device)],
            )
            self._routes.append((start, part, rows))
            parts.append(start.draw(part))
        position = torch.empty(request.count, request.target.layout.size, device=device, dtype=parts[0].dtype)
        for (_, _, rows), drawn in zip(self._routes, parts, strict=True):
            position[rows] = drawn
        return position

    def store(self, request: StartRequest, position: Tensor) -> None:
        if sum(part.count for _, part, _ in self._routes) != position.shape[0]:
            raise ContractError("mixture: positions to store do not match those drawn")
        for start, part, rows in self._routes:
            start.store(part, position[rows])
        self._routes = []

    def after_update(self, step: int) -> None:
        for start in self.starts:
            start.after_update(step)

    def state_dict(self) -> StateTree:
        """State of every start."""
        return {"starts": [start.state_dict() for start in self.starts]}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        for start, saved in zip(self.starts, state["starts"], strict=True):
            start.load_state_dict(saved)
