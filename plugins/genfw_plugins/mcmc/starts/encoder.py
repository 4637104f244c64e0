"""Begin where the encoder says the data came from."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from genfw import ContractError, DataTarget, Encoder, JointTarget, Start, StartRequest
from genfw.models.freezing import frozen
from genfw.plugins.validators import at_least
from genfw_plugins.mcmc.starts._fill import with_fresh_x


@attrs.define(kw_only=True, eq=False, slots=False)
class EncoderStart(Start):
    r"""Noise drawn from the encoder's posterior :math:`q(\epsilon_z \mid x)`; the decoder's noise fresh where the
    position holds it. In space ``joint``, :math:`z` from the posterior beside x itself.

    Arguments:
        encoder: :math:`q(z \mid x)`.
        temperature: Factor on the posterior's scale; 0 begins in its centre.
    """

    encoder: Encoder
    temperature: float = attrs.field(default=1.0, validator=at_least(0))

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: There is no data to encode, or positions are data.
        """
        if request.x is None:
            raise ContractError("start 'encoder' needs data to encode, and there is none here; use 'noise'")
        if isinstance(request.target, DataTarget):
            raise ContractError("start 'encoder' gives noise, and positions in space 'data' are data; use 'data'")
        x = request.x.to(request.generator.device)
        with frozen(self.encoder), torch.no_grad():
            posterior = self.encoder(x, generator=request.generator, temperature=self.temperature)
        if isinstance(request.target, JointTarget):
            return torch.cat([posterior.latent.flat(), x.flatten(1)], dim=1)
        return with_fresh_x(request, posterior.noise, "encoder")
