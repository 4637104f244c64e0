"""The evidence lower bound: variational autoencoders, with or without an energy on the latent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from genfw import Batch, Chain, ContractError, Latent, OptimizerFactory, PriorTarget, Stage, Updater
from genfw.nn.precision import constants
from genfw.plugins.validators import at_least, positive, within
from genfw.training.updater import Clip
from genfw_plugins.training._common import chain_health, energy_health, need, noisy, penalised, run_chain


def balance_weights(sizes: Tensor, latent: Latent) -> Tensor:
    r"""Weights that push groups with little KL less, so that none collapses early.

    .. math:: \gamma_g \propto \frac{\overline{|KL_g|} + 0.01}{\alpha_g}, \quad \overline{\gamma} = 1,

    with :math:`\alpha_g` the size of the group over the number of groups of that shape. References: NVAE (arXiv
    2007.03898) App. A.

    Arguments:
        sizes: :math:`\overline{|KL_g|}` in nats, the mean over the batch, with shape :math:`(G,)`.
        latent: Latent whose groups these are.

    Returns:
        :math:`\gamma`, with shape :math:`(G,)`.
    """
    shapes = [tuple(group.shape[1:]) for group in latent.groups]
    counts = Counter(shapes)
    alpha = constants([math.prod(shape) / counts[shape] for shape in shapes], sizes)
    gamma = (sizes + 0.01) / alpha
    return gamma / gamma.mean()


@attrs.define(kw_only=True, eq=False, slots=False)
class ELBO(Stage):
    r"""Train prior, decoder and encoder on the evidence lower bound.

    .. math:: -\log p(x \mid z) + \beta_t\, KL[q(z \mid x) \| p(z)], \quad z \sim q(z \mid x),

    where :math:`\beta_t` rises linearly from ``kl_start`` to ``beta`` over ``kl_warmup`` steps. With an energy on the
    latent the bound gains :math:`+ E(z)` (and the constant :math:`\log Z`), and the energy is trained by its
    likelihood, :math:`\overline{E(z^+)} - \overline{E(z^-)}`, on posterior draws and chains of the prior (VI-LEBM).

    References: Kingma & Welling 2014; DAMC (arXiv 2310.03218) Table 4 for VI-LEBM.

    Arguments:
        model: The composed model; it needs prior, decoder and encoder.
        optimizer: How the weights of prior, decoder and encoder move.
        beta: Final weight of the KL.
        kl_start: Its weight at the first step.
        kl_warmup: Steps until it is ``beta``.
        free_bits: Nats per latent group below which the KL is not reduced further.
        penalty: Weight of the penalties that prior, decoder and encoder offer.
        clip: Gradient clipping.
        average: Decay of the average of the weights that the stage leaves in the model; 0 keeps none.
        energy_optimizer: How the energy's weights move; needed with an energy on the latent.
        negatives: Prior chains for the energy; needed with an energy on the latent.
        balance: Until ``kl_warmup``, weigh the KL of each group by :func:`balance_weights`.
        penalty_start: Weight of the penalties at the first step, which goes to ``penalty`` by equal factors until
            ``kl_warmup``; ``penalty`` throughout where absent.
        tilted: Whether an energy on the latent belongs to the bound; ``false`` trains the generator as if there were
            none, for a later stage to tilt (NCP-VAE).
        data_noise: Standard deviation of normal noise added to the data: the model is then one of data with that noise,
            and the decoder's scale can't fall below it.
    """

    optimizer: OptimizerFactory
    beta: float = attrs.field(default=1.0, validator=at_least(0))
    kl_start: float = attrs.field(default=0.0, validator=at_least(0))
    kl_warmup: int = attrs.field(default=0, validator=at_least(0))
    free_bits: float = attrs.field(default=0.0, validator=at_least(0))
    penalty: float = attrs.field(default=0.0, validator=at_least(0))
    clip: Clip | None = None
    average: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))
    energy_optimizer: OptimizerFactory | None = None
    negatives: Chain | None = None
    balance: bool = False
    penalty_start: float | None = attrs.field(default=None, validator=positive)
    tilted: bool = True
    data_noise: float = attrs.field(default=0.0, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        need(self.model, "elbo", "prior", "decoder", "encoder")
        self.tilted = self.tilted and bool(self.model.latent_energies)
        if self.tilted and (self.energy_optimizer is None or self.negatives is None):
            raise ContractError(
                "with an energy on the latent, stage 'elbo' needs energy_optimizer and negatives; or tilted: false, "
                "which leaves the energy to a later stage"
            )
        if not self.tilted and (self.energy_optimizer is not None or self.negatives is not None):
            raise ContractError(
                "energy_optimizer and negatives are for an energy on the latent; the recipe has none, or tilted is "
                "false"
            )
        if self.penalty_start is not None and not (self.penalty > 0.0 and self.kl_warmup >= 1):
            raise ContractError(
                "penalty_start goes to penalty until kl_warmup, all of them above 0, "
                f"got penalty_start={self.penalty_start}, penalty={self.penalty}, kl_warmup={self.kl_warmup}"
            )

    def setup(self) -> None:
        model = self.model
        parts = [part for part in (model.prior, model.decoder, model.encoder) if part is not None]
        self.networks = nn.ModuleList(parts)
        self._layers = list(self.networks.modules())
        updater = Updater([self.networks], self.optimizer, self.run, self.steps, self.clip, self.average)
        self.updater = self.register("updater", updater)
        self.energy_updater: Updater | None = None
        if self.energy_optimizer is not None and self.negatives is not None:
            updater = Updater([model.energies], self.energy_optimizer, self.run, self.steps, self.clip)
            self.energy_updater = self.register("energy_updater", updater)
            self.register("negatives", self.negatives)

    def kl_weight(self, step: int) -> float:
        """Weight of the KL at a step."""
        progress = min(step / self.kl_warmup, 1.0) if self.kl_warmup else 1.0
        return self.kl_start + (self.beta - self.kl_start) * progress

    def penalty_weight(self, step: int) -> float:
        """Weight of the penalties at a step."""
        if self.penalty_start is None:
            return self.penalty
        progress = min(step / self.kl_warmup, 1.0)
        return float(self.penalty_start ** (1.0 - progress) * self.penalty**progress)

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        model = self.model
        assert model.encoder is not None  # refused in __init__
        if not all(part.training for part in self._layers):
            self.networks.train()
        x = noisy(batch.x, self.data_noise, self.run.generator)
        with self.run.fabric.autocast():
            posterior = model.encoder(x, generator=self.run.generator)
            negative_log = -model.likelihood(posterior.latent).log_prob(x)
            kl = posterior.kl
            held = kl.clamp_min(self.free_bits) if self.free_bits else kl
            if self.balance and step < self.kl_warmup:
                sizes = self.run.average(kl.detach().abs().mean(0))
                held = held * balance_weights(sizes, posterior.latent)
            loss = (negative_log + self.kl_weight(step) * held.sum(1)).mean()
            if self.tilted:
                loss = loss + model.latent_energy(posterior.latent).mean()
            loss = penalised(loss, self.penalty_weight(step), [model.prior, model.decoder, model.encoder])
        gradient = self.updater.update(loss, step)
        negative_log, kl = negative_log.detach(), kl.detach().sum(1)
        report = {
            "loss": loss.detach(),
            "elbo": -(negative_log + kl).mean(),
            "reconstruction": negative_log.mean(),
            "kl": kl.mean(),
            "gradient": gradient,
        }
        if self.energy_updater is not None:
            report.update(self._train_energy(posterior.latent.detach(), batch, step))
        return report

    def _train_energy(self, positive: Latent, batch: Batch, step: int) -> dict[str, Tensor]:
        model = self.model
        assert self.negatives is not None  # setup has built the updater from it
        assert self.energy_updater is not None
        result = run_chain(self, self.negatives, PriorTarget(model), batch, step)
        with torch.no_grad():
            negative = model.latent(result.position)
        with self.run.fabric.autocast():
            data, chain = model.latent_energy(positive), model.latent_energy(negative)
            loss = data.mean() - chain.mean()
        self.energy_updater.update(loss, step)
        self.negatives.after_update(step)
        return {**energy_health(data, chain), **chain_health(result)}
