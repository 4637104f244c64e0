"""Batch-norm statistics for sampling at a low temperature: a function, and a stage of it for recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor, nn

from genfw import Batch, ContractError, Model, Stage
from genfw.plugins.validators import at_least, positive
from genfw_plugins.nvae.network import InvertedCell


def batch_norms(model: Model) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms of prior and decoder."""
    parts = [part for part in (model.prior, model.decoder) if part is not None]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def forget_folded(model: Model) -> None:
    """Have the cells of prior and decoder read their batch norms anew, after statistics were changed in eval mode."""
    for cell in model.modules():
        if isinstance(cell, InvertedCell):
            cell.forget()


@contextmanager
def _measuring(model: Model, number: int) -> Iterator[None]:
    """Have the batch of that number, from 0, count as much as each before it, and put modes back afterwards."""
    norms = batch_norms(model)
    before = [(layer.training, layer.momentum) for layer in norms]
    try:
        for layer in norms:
            # The plain mean over batches. ``momentum = None`` would have the host wait for a count on the device.
            layer.momentum = 1.0 / (number + 1)
            layer.train()
        yield
    finally:
        for layer, (training, momentum) in zip(norms, before, strict=True):
            layer.training, layer.momentum = training, momentum
        forget_folded(model)


@torch.no_grad()
def _draw(model: Model, temperature: float, count: int, generator: torch.Generator) -> Tensor:
    noise = model.latent_layout.draw(count, generator=generator, dtype=model.anchor.dtype)
    return model.likelihood(model.latent(noise, temperature)).mean


def readjust_batch_norm(
    model: Model, temperature: float, *, generator: torch.Generator, draws: int = 500, batch: int = 32
) -> None:
    """Measure the batch-norm statistics of prior and decoder anew, on the model's own draws at a temperature.

    Colder latents make other features than those the averages were taken over in training. The statistics stay in the
    model: work on a copy where the old ones are still needed. Modes are restored.

    References: Vahdat & Kautz 2020 (arXiv 2007.03898) section 4.

    Arguments:
        model: With prior and decoder.
        temperature: Factor on the scale of every latent group.
        generator: Source of the noise, on the model's device.
        draws: Batches drawn; the statistics are their plain mean.
        batch: Items in each.
    """
    for layer in batch_norms(model):
        layer.reset_running_stats()
    for number in range(draws):
        with _measuring(model, number):
            _draw(model, temperature, batch, generator)


@attrs.define(kw_only=True, eq=False, slots=False)
class ReadjustBatchNorm(Stage):
    """Measure the batch-norm statistics anew for samples at a temperature; the last stage before them. No weight moves.

    For plain generation: an energy, and chains, want the statistics that the generator was trained with.

    References: Vahdat & Kautz 2020, "NVAE" (arXiv 2007.03898) section 4.

    Arguments:
        model: The composed model; it needs prior and decoder, with batch norms in them.
        temperature: Factor on the scale of every latent group, that of ``sample.temperature``.
        steps: Batches drawn; the statistics are their plain mean.
        batch: Items in each, over all processes.
    """

    temperature: float = attrs.field(validator=positive)
    steps: int = attrs.field(default=500, validator=at_least(1))
    batch: int = attrs.field(default=32, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if self.model.prior is None or self.model.decoder is None or not batch_norms(self.model):
            raise ContractError("stage 'readjust-batch-norm' needs a prior and a decoder with batch norms in them")

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """See :meth:`Stage.step`; the data only say how many to draw."""
        self.model.eval()
        if step == 0:
            for layer in batch_norms(self.model):
                layer.reset_running_stats()
        with _measuring(self.model, step):
            x = _draw(self.model, self.temperature, len(batch), self.run.generator)
        return {"pixel/mean": x.mean(), "pixel/scale": x.std()}
