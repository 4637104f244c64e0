"""Begin where the amortizer says long chains would end."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor

from genfw import Amortizer, ContractError, DataTarget, JointTarget, PosteriorTarget, Start, StartRequest
from genfw.interfaces.values import StateTree
from genfw.models.freezing import frozen
from genfw.plugins.validators import positive, within
from genfw.training.updater import move_average
from genfw_plugins.mcmc.starts._fill import with_fresh_x


@attrs.define(kw_only=True, eq=False, slots=False)
class AmortizerStart(Start):
    r"""Draws of the amortizer: given x where the chain's target is a posterior, without condition elsewhere.

    Arguments:
        amortizer: :math:`q_\phi`.
        ema: :math:`\rho`; draws come from a copy that follows the amortizer, :math:`\bar\phi \leftarrow (1 - \rho)
            \bar\phi + \rho \phi` (DAMC's moving average). Absent, from the amortizer itself.
        every: Training steps from one move of the copy to the next.
        given_x: Draw given x for chains of other targets too, as Algorithm 1 of DAMC starts those of the prior.

    References:
        DAMC (arXiv 2310.03218), Algorithm 1.
    """

    amortizer: Amortizer
    ema: float | None = attrs.field(default=None, validator=within(0, 1, "(]"))
    every: int = attrs.field(default=1, validator=positive)
    given_x: bool = False
    # Made at the first use, when the amortizer has the weights and the device that training begins with.
    _copy: Amortizer | None = attrs.field(default=None, init=False)

    def _network(self) -> Amortizer:
        if self.ema is None:
            return self.amortizer
        if self._copy is None:
            self._copy = copy.deepcopy(self.amortizer).requires_grad_(False).eval()
        return self._copy

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: A chain to be started given x came without its data, or positions are not noise.
        """
        if isinstance(request.target, DataTarget | JointTarget):
            raise ContractError("start 'amortizer' gives noise, and positions in this space are data or (z, x)")
        network = self._network()
        with frozen(network), torch.no_grad():
            if self.given_x or isinstance(request.target, PosteriorTarget):
                if request.x is None:
                    raise ContractError("start 'amortizer' needs the data x of the chain")
                position = network.sample_given(request.x, generator=request.generator)
            else:
                position = network.sample(request.count, generator=request.generator)
        return with_fresh_x(request, position.detach(), "amortizer")

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """See :meth:`Start.after_update`: the copy follows."""
        if self.ema is None or (step + 1) % self.every:
            return
        weights = self.amortizer.state_dict()
        moved = [name for name, value in weights.items() if value.is_floating_point()]
        move_average(self._network().state_dict(), weights, self.ema, moved)

    def state_dict(self) -> StateTree:
        """The copy's weights."""
        return {} if self._copy is None else {"copy": self._copy.state_dict()}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self._copy = None
        if "copy" in state:
            self._network().load_state_dict(state["copy"])
