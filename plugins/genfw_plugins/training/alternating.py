"""Learning by sampling: chains of prior and posterior, and updates of energy, decoder and amortizer in turn."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces.values import Batch
from genfw.models.chains import Chain, ChainResult
from genfw.models.targets import PosteriorTarget, PriorTarget
from genfw.plugins.validators import at_least, within
from genfw.training.optimizer import OptimizerFactory
from genfw.training.stage import Stage
from genfw.training.updater import Clip, Updater
from genfw_plugins.training._amortize import Amortization, Amortize
from genfw_plugins.training._common import chain_health, energy_health, need, reconstruction, run_chain


@attrs.define(kw_only=True, eq=False, slots=False)
class Alternating(Stage):
    r"""Maximum likelihood of a latent-variable model, expectations by chains.

    In each step: (1) chains of the posterior :math:`p(z \mid x)` give :math:`z^+`; (2) with an energy on the latent,
    chains of the prior :math:`p_\alpha(z)` give :math:`z^-`; (3) the energy descends :math:`\overline{E(z^+)} -
    \overline{E(z^-)}`; (4) the generator descends :math:`-\overline{\log p(x \mid z^+)}`; (5) the amortizer, if there
    is one, is fitted to :math:`z^+`.

    Without energy this is alternating back-propagation (ABP) or short-run inference (SRI), by where the posterior chain
    starts; with energy it is LEBM; with amortizer DAMC.

    References: Pang et al. 2020 (LEBM); DAMC (arXiv 2310.03218) Algorithm 1.

    Arguments:
        model: The composed model; it needs prior and decoder.
        optimizer: How the weights of prior and decoder move; absent, the generator stays as it is.
        posterior: Kernel and start of the posterior chains.
        prior: Kernel and start of the prior chains; needed with an energy on the latent.
        energy_optimizer: How the energy's weights move; needed with an energy on the latent.
        share_start: Prior chains begin where the posterior chains of the same step began, item by item, and ``prior``'s
            start has only those that its ``count`` asks for beyond. DAMC's Algorithm 1, line 3: one draw of the
            amortizer for each item begins both its chains, so that it is sampled once in a step.
        amortize: How the amortizer is fitted; needed with one, unless another stage does it.
        l2: Weight of the mean squared energies.
        clip: Gradient clipping of generator and energy. The generator's gradient is that of :math:`-\log p`, which is
            :math:`1/(2\sigma^2)` times that of the squared error.
        energy_clip: Gradient clipping of the energy, where it is another.
        average: Decay of the average of the weights of energy and generator that the stage leaves in the model; 0 keeps
            none.
    """

    posterior: Chain
    optimizer: OptimizerFactory | None = None
    prior: Chain | None = None
    energy_optimizer: OptimizerFactory | None = None
    amortize: Amortize | None = None
    l2: float = attrs.field(default=0.0, validator=at_least(0))
    clip: Clip | None = None
    energy_clip: Clip | None = None
    average: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))
    share_start: bool = False

    def __attrs_post_init__(self) -> None:
        model = self.model
        need(model, "alternating", "prior", "decoder")
        if model.data_energies:
            raise ContractError(
                "stage 'alternating' trains energies on the latent; stage 'contrastive' trains those on data"
            )
        if bool(model.latent_energies) != (self.prior is not None) or (self.prior is None) != (
            self.energy_optimizer is None
        ):
            raise ContractError(
                "an energy on the latent goes with prior (its chains) and energy_optimizer: give all three or none"
            )
        if self.share_start and self.prior is None:
            raise ContractError("share_start lends the prior chains where the posterior chains begin; there are none")
        if self.amortize is not None and model.amortizer is None:
            raise ContractError("amortize needs an amortizer in the recipe")
        if self.optimizer is None and self.energy_optimizer is None and self.amortize is None:
            raise ContractError("this stage would train nothing: give optimizer, energy_optimizer or amortize")

    def setup(self) -> None:
        model = self.model
        self.generator = nn.ModuleList([part for part in (model.prior, model.decoder) if part is not None])
        self.register("posterior", self.posterior)
        self.generator_updater = self._updater("generator", self.generator, self.optimizer, self.clip)
        self.energy_updater: Updater | None = None
        if self.prior is not None:
            self.register("prior", self.prior)
            self.energy_updater = self._updater(
                "energy", model.energies, self.energy_optimizer, self.energy_clip or self.clip
            )
        self.amortization: Amortization | None = None
        if self.amortize is not None and model.amortizer is not None:
            self.amortization = Amortization(model.amortizer, self.amortize, self)

    def _updater(
        self, name: str, network: nn.Module, factory: OptimizerFactory | None, clip: Clip | None
    ) -> Updater | None:
        if factory is None:
            return None
        return self.register(name, Updater([network], factory, self.run, self.steps, clip, self.average))

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        positive = run_chain(self, self.posterior, PosteriorTarget(self.model, batch.x), batch, step)
        report = chain_health(positive, "posterior")
        if self.prior is not None:
            # Prior chains run before anything moves: both expectations are of the model as it is now.
            first = positive.start if self.share_start else None
            negative = run_chain(self, self.prior, PriorTarget(self.model), batch, step, first)
            report.update(chain_health(negative))
            report.update(self._train_energy(positive, negative, step))
        report.update(self._train_generator(positive, batch, step))
        if self.amortization is not None:
            report.update(self.amortization.fit(positive.position, batch.x, step))
        for chain in (self.posterior, self.prior):
            if chain is not None:
                chain.after_update(step)
        return report

    def _train_energy(self, positive: ChainResult, negative: ChainResult, step: int) -> dict[str, Tensor]:
        model = self.model
        assert self.energy_updater is not None  # prior chains are run for it alone
        with torch.no_grad():
            high, low = model.latent(positive.position), model.latent(negative.position)
        model.energies.train()
        with self.run.fabric.autocast():
            data, chain = model.latent_energy(high), model.latent_energy(low)
            loss = data.mean() - chain.mean()
            if self.l2:
                loss = loss + self.l2 * (data.square().mean() + chain.square().mean())
        gradient = self.energy_updater.update(loss, step)
        return {"energy/gradient": gradient, **energy_health(data, chain)}

    def _train_generator(self, positive: ChainResult, batch: Batch, step: int) -> dict[str, Tensor]:
        self.generator.train()
        with torch.set_grad_enabled(self.generator_updater is not None):
            loss, report = reconstruction(self.model, positive.position, batch.x, self.run.fabric)
        if self.generator_updater is not None:
            report["gradient"] = self.generator_updater.update(loss, step)
        return report
