"""Begin in what the generator draws."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from genfw import ContractError, DataTarget, Model, Start, StartRequest
from genfw.models.freezing import frozen
from genfw.plugins.validators import at_least


@attrs.define(kw_only=True, eq=False, slots=False)
class GeneratorStart(Start):
    r"""Data drawn from the generator, for chains in space ``data``: the EBM on x started from NVAE's samples.

    Arguments:
        model: The composed model; it needs prior and decoder.
        mean: Begin in the decoder's mean instead of a draw from it.
        temperature: Factor on the latent noise's scale.

    References:
        VAEBM (arXiv 2010.00654), section 5.3.
    """

    model: Model
    mean: bool = False
    temperature: float = attrs.field(default=1.0, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        if self.model.prior is None or self.model.decoder is None:
            raise ContractError("start 'generator' needs a prior and a decoder to draw data from")

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: Positions are not data.
        """
        if not isinstance(request.target, DataTarget):
            raise ContractError(
                "start 'generator' gives data, for space 'data'; where positions are noise, the start 'noise' is the "
                "generator's own"
            )
        with frozen(self.model), torch.no_grad():
            noise = self.model.latent_layout.draw(request.count, generator=request.generator)
            likelihood = self.model.likelihood(self.model.latent(noise, self.temperature))
            x = likelihood.mean if self.mean else likelihood.sample(generator=request.generator)
        return x.flatten(1)
