"""Learning to draw what chains reach: an amortizer fitted to samples of a model that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces.sampler import Sampler
from genfw.interfaces.start import Start
from genfw.interfaces.target import Target
from genfw.interfaces.values import Batch
from genfw.models.chains import Chain, ChainResult, as_sampler
from genfw.models.distances import directions, sliced_wasserstein
from genfw.models.freezing import frozen, frozen_for_chain
from genfw.models.targets import PosteriorTarget, PriorTarget
from genfw.plugins.validators import at_least
from genfw.training.stage import Stage
from genfw_plugins.training._amortize import Amortization, Amortize
from genfw_plugins.training._common import chain_health, run_chain

#: Directions of the watched sliced Wasserstein distance.
_DIRECTIONS = 64


@attrs.define(kw_only=True, eq=False, slots=False)
class Distill(Stage):
    r"""Fit the amortizer to positions that chains reach; prior, decoder and energies stay as they are.

    In each step, chains of :math:`p(z \mid x)` (or of the prior) run from ``start``, and the amortizer makes
    :math:`M` updates towards where they end. What that is depends on the start:

    * ``amortizer``: DAMC's iteration :math:`q_{k+1} \leftarrow \arg\min_q KL(K^T q_k \| q)` (section 3.1). It moves
      :math:`q` to the chains' law as far as the kernel :math:`K` mixes; how much mass lies in modes between which
      :math:`T` of its moves never pass stays as it happens to be, and only a kernel with global moves (``ex2``,
      ``isir``, ``tempered-langevin``) settles it.
    * ``noise``, ``warm``, ``replay``: samples of ordinary chains, short, long or persistent.
    * ``encoder`` without sampler: the encoder's own draws, to warm an amortizer up.

    References:
        DAMC (arXiv 2310.03218), section 3.1, Eq. 6 to 8.

    Arguments:
        model: The composed model; it needs prior, decoder and amortizer.
        batch: Rows per step over all processes, and chains.
        start: Where chains begin; several share the chains out evenly.
        amortize: How the amortizer is fitted.
        sampler: Kernel of the chains; absent, the amortizer is fitted to the starts themselves.
        space: ``posterior``: chains and amortizer are given x; ``prior``: neither is.
        watch: Steps from one look at the amortizer to the next, 0 for none: ``watch/sliced-wasserstein`` between as
            many fresh draws of it and the chain ends of the step, in the units of the noise, and ``watch/energy-gap``,
            the draws' mean potential minus that of the chain ends, in nats. Training does not depend on it.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "batch": 8, "watch": 2}

    start: Start | list[Start]
    amortize: Amortize
    sampler: Sampler | None = None
    space: Literal["posterior", "prior"] = "posterior"
    watch: int = attrs.field(default=0, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        model, space = self.model, self.space
        if model.amortizer is None:
            raise ContractError("stage 'distill' fits an amortizer, and the recipe has none")
        if model.prior is None or (space == "posterior" and model.decoder is None):
            raise ContractError(
                f"stage 'distill' in space '{space}' needs a model with prior{' and decoder' * (space == 'posterior')}"
            )
        self.amortizer = model.amortizer
        self.chain = Chain(as_sampler(self.sampler), self.start)

    def setup(self) -> None:
        self.register("chain", self.chain)
        self.amortization = Amortization(self.amortizer, self.amortize, self)

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        x = batch.x if self.space == "posterior" else None
        target = PriorTarget(self.model) if x is None else PosteriorTarget(self.model, x)
        ends = run_chain(self, self.chain, target, batch, step)
        report = chain_health(ends)
        report.update(self.amortization.fit(ends.position, x, step))
        if self.watch and (step + 1) % self.watch == 0:
            report.update(self._look(target, x, ends, step))
        self.chain.after_update(step)
        return report

    def _look(self, target: Target, x: Tensor | None, ends: ChainResult, step: int) -> dict[str, Tensor]:
        # A generator of its own: whoever watches trains the same amortizer as who does not.
        generator = torch.Generator(ends.position.device).manual_seed(step)
        count = len(ends.position)
        with (
            self.amortization.updater.averaged(),
            frozen(self.amortizer),
            frozen_for_chain(*target.modules()),
            torch.no_grad(),
        ):
            if x is None:
                drawn = self.amortizer.sample(count, generator=generator)
            else:
                drawn = self.amortizer.sample_given(x, generator=generator)
            gap = target.potential(drawn).mean() - target.potential(ends.position).mean()
            along = directions(drawn.shape[1], _DIRECTIONS, generator)
            apart = sliced_wasserstein(drawn, ends.position, along)
        return {"watch/sliced-wasserstein": apart, "watch/energy-gap": gap}
