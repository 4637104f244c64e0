"""Energies by classification: posterior latents against draws of the prior as it stands."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw import Batch, Chain, ContractError, Model, OptimizerFactory, PosteriorTarget, PriorTarget, Stage, Updater
from genfw.models.freezing import frozen
from genfw.plugins.validators import within
from genfw.training.updater import Clip
from genfw_plugins.training._common import chain_health, energy_health, need, reconstruction, run_chain


@attrs.define(kw_only=True, eq=False, slots=False)
class NoiseContrastive(Stage):
    r"""Train one energy on the latent to tell posterior latents :math:`z^+` from draws :math:`z^-` of the prior so far.

    The prior before energy :math:`k`, counted from 0, is :math:`p_k(z) \propto p_0(z) e^{-E_0(z) - \dots -
    E_{k-1}(z)}`, the aggregated posterior is :math:`q(z) = \mathbb{E}_x\, q(z \mid x)`. The energy descends the
    logistic loss

    .. math:: \overline{\log(1 + e^{E_k(z^+)})} + \overline{\log(1 + e^{-E_k(z^-)})},

    whose optimum is the log density ratio, :math:`E_k = -\log q(z) / p_k(z)`, with its constant: the tilted prior
    :math:`p_k e^{-E_k}` is then :math:`q`, normalised. Several such stages, one for each energy of the recipe, take the
    ratio in parts that are easy one by one. Energies after the one in training are no part of the model yet: a
    recipe trains all that it has, in order.

    With the encoder's draws as :math:`z^+` and a fixed generator this is NCP-VAE; with posterior chains, and a
    generator that moves along, adaptive multi-stage density-ratio estimation (Adaptive CE).

    References:
        A contrastive learning approach for training variational autoencoder priors (Aneja et al., 2021),
        https://arxiv.org/abs/2010.02917; Adaptive multi-stage density ratio estimation for learning latent space
        energy-based model (Xiao and Han, 2022), https://arxiv.org/abs/2209.08739

    Arguments:
        model: The composed model; it needs a prior, an energy on the latent, and an encoder or a decoder.
        optimizer: How the energy's weights move.
        number: Which of the energies on the latent is trained, counted from 0 in the recipe's order.
        noise: Kernel and start of the chains of :math:`p_k`; for the first energy, whose :math:`p_0` is drawn from
            exactly, it may be absent.
        posterior: Kernel and start of the chains of :math:`p(z \mid x)`, with the energies up to the one in training;
            draws of the encoder where absent.
        generator_optimizer: How the weights of prior and decoder move, towards :math:`\log p(x \mid z^+)`; absent, the
            generator stays as it is. Needs ``posterior``.
        clip: Gradient clipping of energy and generator.
        average: Decay of the average of the trained weights that the stage leaves in the model; 0 keeps none.
    """

    optimizer: OptimizerFactory
    number: int = 0
    noise: Chain | None = None
    posterior: Chain | None = None
    generator_optimizer: OptimizerFactory | None = None
    clip: Clip | None = None
    average: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))

    def __attrs_post_init__(self) -> None:
        model, number = self.model, self.number
        need(model, "noise-contrastive", "prior", "energy", "encoder" if self.posterior is None else "decoder")
        energies = model.latent_energies
        if not energies:
            raise ContractError("stage 'noise-contrastive' trains energies on the latent; the recipe's are on data")
        if not 0 <= number < len(energies):
            raise ContractError(
                f"number counts the recipe's {len(energies)} energies on the latent from 0, got {number}"
            )
        if number and self.noise is None:
            raise ContractError(
                f"energy {number} is set against the prior that the {number} before it have tilted; give noise, the "
                "chains that draw from it"
            )
        if self.generator_optimizer is not None and self.posterior is None:
            raise ContractError(
                "generator_optimizer needs posterior: the encoder's draws would not follow the generator"
            )
        self.energy = energies[number]
        # The model as far as it goes: weights are shared, later energies left out.
        self.before = Model(model.prior, model.decoder, energy=energies[:number])
        self.upto = Model(model.prior, model.decoder, energy=energies[: number + 1])

    def setup(self) -> None:
        self.generator = nn.ModuleList([part for part in (self.model.prior, self.model.decoder) if part is not None])
        self.energy_updater = self._updater("energy", self.energy, self.optimizer)
        self.generator_updater: Updater | None = None
        if self.generator_optimizer is not None:
            self.generator_updater = self._updater("generator", self.generator, self.generator_optimizer)
        for name, chain in (("noise", self.noise), ("posterior", self.posterior)):
            if chain is not None:
                self.register(name, chain)

    def _updater(self, name: str, network: nn.Module, factory: OptimizerFactory) -> Updater:
        return self.register(name, Updater([network], factory, self.run, self.steps, self.clip, self.average))

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        positive, report = self._positive(batch, step)
        negative = self._negative(batch, step, report)
        with torch.no_grad():
            high, low = self.model.latent(positive).flat(), self.model.latent(negative).flat()
        self.energy.train()
        with self.run.fabric.autocast():
            data, chain = self.energy(high), self.energy(low)
            loss = F.softplus(data).mean() + F.softplus(-chain).mean()
        report["gradient"] = self.energy_updater.update(loss, step)
        if self.generator_updater is not None:
            report.update(self._train_generator(positive, batch, step))
        for chains in (self.noise, self.posterior):
            if chains is not None:
                chains.after_update(step)
        right = (data.detach() < 0).to(data.dtype).mean() + (chain.detach() > 0).to(data.dtype).mean()
        # At the optimum -E is log q/p_k, and its mean over q the divergence that is left to be tilted away.
        report |= {"loss": loss.detach(), "accuracy": right / 2, "kl": -data.detach().mean()}
        return {**report, **energy_health(data, chain)}

    def _positive(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if self.posterior is None:
            assert self.model.encoder is not None  # refused in __init__
            with frozen(self.model.encoder), torch.no_grad():
                noise: Tensor = self.model.encoder(batch.x, generator=self.run.generator).noise
            return noise, {}
        result = run_chain(self, self.posterior, PosteriorTarget(self.upto, batch.x), batch, step)
        return result.position, chain_health(result, "posterior")

    def _negative(self, batch: Batch, step: int, report: dict[str, Tensor]) -> Tensor:
        target = PriorTarget(self.before)
        if self.noise is None:
            return target.draw_base(len(batch), self.run.generator)
        result = run_chain(self, self.noise, target, batch, step)
        report.update(chain_health(result))
        return result.position

    def _train_generator(self, positive: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        assert self.generator_updater is not None  # the caller has asked
        self.generator.train()
        loss, report = reconstruction(self.model, positive, batch.x, self.run.fabric)
        return {**report, "generator/gradient": self.generator_updater.update(loss, step)}
