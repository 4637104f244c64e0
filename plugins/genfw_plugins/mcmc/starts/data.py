"""Begin in the data."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Start, StartRequest
from genfw.plugins.validators import at_least


@attrs.define(kw_only=True, eq=False, slots=False)
class DataStart(Start):
    r"""The batch itself, with noise on it where asked: chains in space ``data`` (contrastive divergence).

    Arguments:
        noise: Standard deviation of normal noise added, in the data's units.

    References:
        G. E. Hinton, Training products of experts by minimizing contrastive divergence, 2002.
    """

    noise: float = attrs.field(default=0.0, validator=at_least(0))

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: There is no data, or positions are not data.
        """
        if request.x is None:
            raise ContractError("start 'data' needs a batch of data to begin in, and there is none here")
        if request.target.layout.names != ("x",):
            raise ContractError(
                "start 'data' begins in data itself, and positions here are noise; use space 'data', or the start "
                "'encoder'"
            )
        position = request.x.flatten(1).to(request.generator.device)
        if self.noise:
            noise = torch.randn(
                position.shape, generator=request.generator, device=position.device, dtype=position.dtype
            )
            position = position + self.noise * noise
        return position
