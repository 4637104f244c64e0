"""A deterministic autoencoder, held in shape by penalties instead of noise."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from genfw import Batch, OptimizerFactory, Stage, Updater
from genfw.plugins.validators import at_least, within
from genfw.training.updater import Clip
from genfw_plugins.training._common import need


@attrs.define(kw_only=True, eq=False, slots=False)
class Autoencoder(Stage):
    r"""Train encoder and decoder to give data back, with the encoder's centre :math:`\mu(x)` as the latent noise.

    .. math:: \overline{\|x - E[x \mid z]\|^2} + \frac{\beta}{2} \overline{|\mu(x)|^2} + \lambda \sum_w w^2,
        \quad z = T_z(\mu(x)),

    the last sum over the decoder's weights (RAE-L2). The latents get no law in this stage: fit one afterwards (stage
    ``distill`` with start ``encoder`` at temperature 0), and draw from that.

    References:
        From variational to deterministic autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436

    Arguments:
        model: The composed model; it needs prior, decoder and encoder.
        optimizer: How the weights of prior, decoder and encoder move.
        latent_l2: :math:`\beta`.
        decoder_l2: :math:`\lambda`.
        clip: Gradient clipping.
        average: Decay of the average of the weights that the stage leaves in the model; 0 keeps none.
    """

    optimizer: OptimizerFactory
    latent_l2: float = attrs.field(default=1e-4, validator=at_least(0))
    decoder_l2: float = attrs.field(default=1e-7, validator=at_least(0))
    clip: Clip | None = None
    average: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))

    def __attrs_post_init__(self) -> None:
        need(self.model, "autoencoder", "prior", "decoder", "encoder")

    def setup(self) -> None:
        model = self.model
        self.networks = nn.ModuleList([p for p in (model.prior, model.decoder, model.encoder) if p is not None])
        updater = Updater([self.networks], self.optimizer, self.run, self.steps, self.clip, self.average)
        self.updater = self.register("updater", updater)

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        model = self.model
        assert model.encoder is not None  # refused in __init__
        assert model.decoder is not None
        self.networks.train()
        with self.run.fabric.autocast():
            centre = model.encoder(batch.x, generator=self.run.generator, temperature=0.0)
            error = (batch.x - model.likelihood(centre.latent).mean).flatten(1).square()
            size = centre.noise.square().sum(1)
            weights = torch.stack([weight.square().sum() for weight in model.decoder.parameters()]).sum()
            loss = error.sum(1).mean() + 0.5 * self.latent_l2 * size.mean() + self.decoder_l2 * weights
        gradient = self.updater.update(loss, step)
        return {
            "loss": loss.detach(),
            "mse": error.detach().mean(),
            # Of any scale that the decoder likes; no law is asked of it.
            "latent/square": size.detach().mean(),
            "gradient": gradient,
        }
