"""Maximum likelihood of energies over a fixed generator, with chains as negatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import Batch, Chain, ContractError, OptimizerFactory, Stage, Updater, make_target
from genfw.models.freezing import frozen
from genfw.models.targets import Space
from genfw.plugins.validators import at_least, within
from genfw.training.updater import Clip
from genfw_plugins.training._common import (
    chain_health,
    energy_health,
    generator_loss,
    generator_updater,
    initialise_energies,
    need,
    noisy,
    penalised,
    run_chain,
    saturation,
)


@attrs.define(kw_only=True, eq=False, slots=False)
class Contrastive(Stage):
    r"""Train the energies on data by their likelihood; prior, decoder and encoder stay as they are, unless asked for.

    The gradient of the log likelihood is :math:`-\nabla E(x^+) + \nabla E(x^-)` with data :math:`x^+` and chain ends
    :math:`x^-`; the loss is

    .. math:: \overline{E(x^+)} - \overline{E(x^-)} + l_2 \overline{E(x^+)^2 + E(x^-)^2} + w \sum_l \sigma_{\max}(W_l).

    With a ``generator_optimizer`` the generator follows: after the energies have moved, prior and decoder descend the
    reverse divergence :math:`KL[p_\theta \| h]`, whose gradient (VAEBM Eq. 21) is that of

    .. math:: \overline{E(x_\theta(\epsilon))}, \quad \epsilon \sim N(0, I),

    with fresh noise and the energies held still. Batch norms of the generator keep their statistics, as in the chains.

    References: VAEBM (arXiv 2010.00654) Eq. 7, App. C and App. E; Du & Mordatch 2019 (IGEBM) for space ``data``.

    Arguments:
        batch: Rows per step over all processes; also the number of chains, where ``negatives`` does not say.
        optimizer: How the energies' weights move.
        negatives: Kernel and start of the chains.
        space: Space the chains run in: ``noise`` (VAEBM), ``data`` (an EBM on x), ``joint`` (VAEBM App. B.1),
            ``noise-published`` (the potential of VAEBM's code, without the Jacobian; for comparison).
        mean: Score the decoder's mean instead of the data that a position stands for.
        l2: Weight of the mean squared energies, which holds the energies' level and keeps training stable.
        penalty: Weight of the spectral norms, for an energy that offers them.
        clip: Gradient clipping; VAEBM clamps at 3 sigmas.
        average: Decay of the average of the energies' weights that the stage leaves in the model; 0 keeps none.
        data_noise: Standard deviation of normal noise added to the data.
        init_batches: Batches that an energy with a data-dependent initialisation is shown before the first step.
        generator_optimizer: How the weights of prior and decoder move; they stay as they are where absent.
        generator_moves: Which of them move: both, or the decoder alone.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "batch": 8, "init_batches": 1}

    optimizer: OptimizerFactory
    negatives: Chain
    space: Space = "noise"
    mean: bool = False
    l2: float = attrs.field(default=0.0, validator=at_least(0))
    penalty: float = attrs.field(default=0.0, validator=at_least(0))
    clip: Clip | None = None
    average: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))
    data_noise: float = attrs.field(default=0.0, validator=at_least(0))
    init_batches: int = attrs.field(default=5, validator=at_least(1))
    generator_optimizer: OptimizerFactory | None = None
    generator_moves: Literal["prior-and-decoder", "decoder"] = "prior-and-decoder"

    def __attrs_post_init__(self) -> None:
        model, space = self.model, self.space
        need(model, "contrastive", "energy")
        if model.latent_energies:
            raise ContractError(
                "stage 'contrastive' trains energies on data; stage 'alternating' trains those on the latent"
            )
        if space in ("posterior", "prior"):
            raise ContractError(
                f"negatives of an energy on data can't be drawn in space '{space}'; use noise, data or joint"
            )
        if self.mean and space == "data":
            raise ContractError("mean: true needs a decoder; chains in space 'data' have none")
        if self.generator_optimizer is not None:
            if space == "data":
                raise ContractError(
                    "generator_optimizer moves the generator that the energies tilt; chains in space 'data' have none"
                )
            need(model, "contrastive", "prior", "decoder")

    def setup(self) -> None:
        updater = Updater([self.model.energies], self.optimizer, self.run, self.steps, self.clip, self.average)
        self.updater = self.register("updater", updater)
        self.register("negatives", self.negatives)
        self.generator_updater: Updater | None = None
        if self.generator_optimizer is not None:
            updater = generator_updater(
                self.model, self.generator_optimizer, self.run, self.steps, prior=self.generator_moves != "decoder"
            )
            self.generator_updater = self.register("generator_updater", updater)

    def prepare(self, batch_at: Callable[[int], Batch]) -> None:
        initialise_energies(self.model, self.run.fabric, batch_at, self.init_batches)

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        model, generator = self.model, self.run.generator
        target = make_target(model, self.space)
        result = run_chain(self, self.negatives, target, batch, step)
        with torch.no_grad(), frozen(model.prior, model.decoder):
            negative = target.to_data(result.position, mean=self.mean, generator=generator)
        positive = noisy(batch.x, self.data_noise, generator)
        model.energies.train()
        with self.run.fabric.autocast():
            # One pass over both: statistics of the batch, where an energy has any, see data and negatives alike.
            both = model.data_energy(torch.cat([positive, negative]))
            data, chain = both[: len(positive)], both[len(positive) :]
            loss = data.mean() - chain.mean()
            if self.l2:
                loss = loss + self.l2 * (data.square().mean() + chain.square().mean())
            loss = penalised(loss, self.penalty, model.data_energies)
        gradient = self.updater.update(loss, step)
        report = {"loss": loss.detach(), "gradient": gradient, **energy_health(data, chain), **chain_health(result)}
        if self.generator_updater is not None:
            loss = generator_loss(model, len(batch), generator, self.run.fabric)
            report["generator/loss"] = loss.detach()
            report["generator/gradient"] = self.generator_updater.update(loss, step)
        self.negatives.after_update(step)
        report["chain/saturation"] = saturation(negative)
        if not self.space.startswith("noise"):
            # Only noise has a base whose expected square is 1.
            report["chain/drift"] = negative.square().mean() / positive.square().mean().clamp_min(1e-12)
        return report
