"""Batch-norm statistics for sampling at a low temperature."""

from __future__ import annotations

import torch
from torch import nn

from genfw.model import Model

__all__ = ["readjust_batch_norm"]


@torch.no_grad()
def readjust_batch_norm(
    model: Model, temperature: float, *, generator: torch.Generator, draws: int = 500, batch: int = 32
) -> None:
    """Measure the batch-norm statistics of prior and decoder anew, on the model's own draws at a temperature.

    Colder latents make other features than those the averages were taken over in training; with statistics of their
    own, cold samples are sharper and truer in colour. The statistics stay in the model: work on a copy where the old
    ones are still needed. Modes are restored.

    References: Vahdat & Kautz 2020 (arXiv 2007.03898) section 4.

    Arguments:
        model: With prior and decoder.
        temperature: Factor on the scale of every latent group.
        generator: Source of the noise, on the model's device.
        draws: Batches drawn; the statistics are their plain mean.
        batch: Items in each.
    """
    parts = [part for part in (model.prior, model.decoder) if part is not None]
    norms = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.training, layer.momentum) for layer in norms]
    layout, like = model.latent_layout, model.anchor
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        for _ in range(draws):
            noise = layout.draw(batch, generator=generator, dtype=like.dtype)
            model.likelihood(model.latent(noise, temperature))
    finally:
        for layer, (training, momentum) in zip(norms, before, strict=True):
            layer.training, layer.momentum = training, momentum
