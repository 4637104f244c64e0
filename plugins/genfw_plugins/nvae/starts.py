"""Begin chains in what NVAE draws cold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Model, NoiseTarget, PosteriorTarget, Start, StartRequest
from genfw.models.freezing import frozen
from genfw.plugins.validators import at_least, positive
from genfw_plugins.nvae.statistics import batch_norms, forget_folded, readjust_batch_norm


@attrs.define(kw_only=True, eq=False, slots=False)
class LowTemperatureStart(Start):
    r"""Noise that the encoder finds behind the generator's cold draws, for chains in space ``noise``.

    The generator draws with all latent groups at a low temperature, its batch norms measured anew for that; the
    encoder, with the statistics of training, then says which :math:`\epsilon_z` such images come from. That noise is
    again of a size that the chain's base knows, where cold noise itself would have to warm up first. The decoder's
    noise is drawn fresh. VAEBM shows faces of 256x256 pixels so; its FID is measured without.

    References:
        VAEBM (arXiv 2010.00654), App. E; Vahdat & Kautz 2020 (arXiv 2007.03898), section 4.

    Arguments:
        model: The composed model; it needs prior, decoder and encoder, with batch norms in prior or decoder.
        temperature: Factor on the scale of every latent group.
        draws: Batches that the statistics are measured on, at every draw of starts.
        batch: Items in each.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"draws": 2, "batch": 4}

    model: Model
    temperature: float = attrs.field(default=0.7, validator=positive)
    draws: int = attrs.field(default=100, validator=at_least(1))
    batch: int = attrs.field(default=32, validator=at_least(2))

    def __attrs_post_init__(self) -> None:
        model = self.model
        if model.prior is None or model.decoder is None or model.encoder is None or not batch_norms(model):
            raise ContractError(
                "start 'low-temperature' needs prior, decoder and encoder, with batch norms in prior or decoder"
            )

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: Positions are not the model's noise.
        """
        target = request.target
        if not isinstance(target, NoiseTarget) or isinstance(target, PosteriorTarget):
            raise ContractError("start 'low-temperature' gives noise, for chains in space 'noise' or 'prior'")
        with torch.no_grad(), frozen(self.model):
            x = self._cold(request.count, request.generator)
            assert self.model.encoder is not None  # refused before
            position = target.draw_base(request.count, request.generator)
            latent = self.model.encoder(x, generator=request.generator).noise
            position[:, : latent.shape[1]] = latent
        return position

    def _cold(self, count: int, generator: torch.Generator) -> Tensor:
        """The decoder's means of cold draws; the statistics of training are back in place afterwards."""
        model = self.model
        norms = batch_norms(model)
        kept = [{name: value.clone() for name, value in layer.named_buffers()} for layer in norms]
        try:
            readjust_batch_norm(model, self.temperature, generator=generator, draws=self.draws, batch=self.batch)
            noise = model.latent_layout.draw(count, generator=generator, dtype=model.anchor.dtype)
            return model.likelihood(model.latent(noise, self.temperature)).mean
        finally:
            for layer, values in zip(norms, kept, strict=True):
                for name, value in layer.named_buffers():
                    value.copy_(values[name])
            forget_folded(model)
