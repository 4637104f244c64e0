"""Energy and generator in the game of Wasserstein GANs: what VAEBM is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import Batch, ContractError, Model, OptimizerFactory, Stage, Updater
from genfw.models.freezing import frozen
from genfw.plugins.validators import at_least
from genfw.training.updater import Clip
from genfw_plugins.training._common import (
    energy_health,
    generator_loss,
    generator_updater,
    initialise_energies,
    need,
    penalised,
    saturation,
)


def gradient_penalty(model: Model, data: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
    r"""How far the energy's slope is from 1 between data and negatives, with graph.

    .. math:: \overline{(|\nabla E(\hat x)| - 1)^2}, \quad \hat x = u x^+ + (1 - u) x^-, \quad u \sim U[0, 1]

    References: Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (arXiv 1704.00028).

    Arguments:
        model: With an energy on data.
        data: :math:`x^+`, with shape :math:`(B, *)`.
        negatives: :math:`x^-`, of the same shape.
        generator: Source of :math:`u`, one for each pair.
    """
    u = torch.rand(len(data), *(1 for _ in data.shape[1:]), generator=generator, device=data.device, dtype=data.dtype)
    between = (u * data + (1.0 - u) * negatives).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(model.data_energy(between).sum(), between, create_graph=True)
    # The root has no derivative at 0, where a fresh energy may well be flat.
    return ((slope.flatten(1).square().sum(1) + 1e-12).sqrt() - 1.0).square().mean()


@attrs.define(kw_only=True, eq=False, slots=False)
class WGAN(Stage):
    r"""Train energy and generator against one another; no chains.

    The energy is the critic with its sign turned. It descends

    .. math:: \overline{E(x^+)} - \overline{E(x^-)} + w \sum_l \sigma_{\max}(W_l)
        + \lambda\, \overline{(|\nabla E(\hat x)| - 1)^2}

    with data :math:`x^+` and fresh draws of the generator :math:`x^-`; prior and decoder descend
    :math:`\overline{E(x_\theta(\epsilon))}` on every ``generator_every``-th step. VAEBM's comparison begins with a
    pretrained decoder and bounds the critic's slope by spectral norm (``energy: {norm: spectral}``) instead of
    :math:`\lambda`. Batch norms of the generator keep their statistics.

    References: Arjovsky et al. 2017 (arXiv 1701.07875); VAEBM (arXiv 2010.00654) section 5.2 and App. F.

    Arguments:
        model: The composed model; it needs prior, decoder and an energy on data.
        steps: Updates of the energy.
        optimizer: How the energy's weights move.
        generator_optimizer: How the weights of prior and decoder move; its schedule is over ``steps``.
        generator_every: Steps between updates of the generator.
        gradient_penalty: :math:`\lambda`, weight of the slope's distance from 1; 10 in WGAN-GP.
        penalty: Weight :math:`w` of the spectral norms, for an energy that offers them.
        mean: Score the decoder's mean instead of a draw from it.
        clip: Gradient clipping of the energy.
        init_batches: Batches that an energy with a data-dependent initialisation is shown before the first step.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "batch": 8, "generator_every": 2, "init_batches": 1}

    optimizer: OptimizerFactory
    generator_optimizer: OptimizerFactory
    generator_every: int = attrs.field(default=5, validator=at_least(1))
    gradient_penalty: float = attrs.field(default=0.0, validator=at_least(0))
    penalty: float = attrs.field(default=0.0, validator=at_least(0))
    mean: bool = False
    clip: Clip | None = None
    init_batches: int = attrs.field(default=5, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        need(self.model, "wgan", "prior", "decoder", "energy")
        if self.model.latent_energies:
            raise ContractError("stage 'wgan' plays with an energy on data; the recipe's energy is on the latent")

    def setup(self) -> None:
        updater = Updater([self.model.energies], self.optimizer, self.run, self.steps, self.clip)
        self.updater = self.register("updater", updater)
        updater = generator_updater(self.model, self.generator_optimizer, self.run, self.steps)
        self.generator_updater = self.register("generator_updater", updater)

    def prepare(self, batch_at: Callable[[int], Batch]) -> None:
        initialise_energies(self.model, self.run.fabric, batch_at, self.init_batches)

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        model, generator = self.model, self.run.generator
        with torch.no_grad(), frozen(model.prior, model.decoder):
            noise = model.noise_layout.draw(len(batch), generator=generator, dtype=model.anchor.dtype)
            if self.mean:
                negative = model.likelihood(model.latent(noise[:, : model.latent_layout.size])).mean
            else:
                negative = model.decode(noise)
        model.energies.train()
        with self.run.fabric.autocast():
            # One pass over both: statistics of the batch, where the energy has any, see data and negatives alike.
            both = model.data_energy(torch.cat([batch.x, negative]))
            data, drawn = both[: len(batch)], both[len(batch) :]
            loss = data.mean() - drawn.mean()
            report = {"wasserstein": -loss.detach()}
            if self.gradient_penalty:
                slope = gradient_penalty(model, batch.x, negative, generator)
                report["slope-penalty"] = slope.detach()
                loss = loss + self.gradient_penalty * slope
            loss = penalised(loss, self.penalty, model.data_energies)
        report |= {"loss": loss.detach(), "gradient": self.updater.update(loss, step), **energy_health(data, drawn)}
        if (step + 1) % self.generator_every == 0:
            loss = generator_loss(model, len(batch), generator, self.run.fabric, mean=self.mean)
            report["generator/loss"] = loss.detach()
            report["generator/gradient"] = self.generator_updater.update(loss, step)
        report["chain/saturation"] = saturation(negative)
        return report
