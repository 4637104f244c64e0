"""How stages fit an amortizer to positions that chains have reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import Amortizer, OptimizerFactory, Settings, Stage, Updater
from genfw.plugins.validators import at_least, within
from genfw.training.updater import Clip


@attrs.define(kw_only=True, eq=False, slots=False)
class Amortize(Settings):
    r"""How an amortizer is fitted to the chain ends of each step (DAMC Algorithm 1, line 7).

    Arguments:
        optimizer: How the amortizer's weights move.
        updates: :math:`M`, steps of the optimiser per training step, each on the same chain ends with fresh diffusion
            noise.
        drop_condition: Share of items whose x is hidden, so that the same network learns the unconditional law.
        hide: When it is drawn whose x that is: anew in each ``update``, or once in a ``step`` for all its updates, as
            the published code does. ``both``: every item counts twice, with its x and without, as in the published
            code for MNIST; ``drop_condition`` says nothing then.
        clip: Gradient clipping.
        average: Decay of the average of the amortizer's weights that the stage leaves in the model; 0 keeps none.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"updates": 1}

    optimizer: OptimizerFactory
    updates: int = attrs.field(default=6, validator=at_least(1))
    drop_condition: float = attrs.field(default=0.2, validator=within(0, 1))
    hide: Literal["update", "step", "both"] = "update"
    clip: Clip | None = None
    average: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))


class Amortization:
    r"""The fit of one amortizer in one stage: :math:`M` descents of its loss per training step (DAMC Eq. 8).

    Its optimiser is registered with the stage, under ``amortizer``; the average of the weights moves once a step.

    Arguments:
        amortizer: :math:`q_\phi`.
        settings: How it is fitted.
        stage: The stage, in its ``setup``.
    """

    def __init__(self, amortizer: Amortizer, settings: Amortize, stage: Stage) -> None:
        self.amortizer, self.settings, self.run = amortizer, settings, stage.run
        # Its schedule counts its own updates: M to a step.
        total, every = stage.steps * settings.updates, settings.updates
        updater = Updater([amortizer], settings.optimizer, stage.run, total, settings.clip, settings.average, every)
        self.updater = stage.register("amortizer", updater)

    def fit(self, position: Tensor, x: Tensor | None, step: int) -> dict[str, Tensor]:
        r"""Move the amortizer towards the law of ``position``, then the average of its weights.

        Arguments:
            position: Chain ends, with shape :math:`(B, D)`.
            x: What they are conditioned on, with shape :math:`(B, *)`; ``None`` for the unconditional law.
            step: Training step, from 0.

        Returns:
            The mean loss, named ``amortizer/loss``.
        """
        settings, generator = self.settings, self.run.generator
        self.amortizer.train()
        total = position.new_zeros(())
        hidden = None
        if x is not None and settings.hide == "both":
            hidden = torch.arange(2 * len(x), device=x.device) < len(x)
            position, x = torch.cat([position, position]), torch.cat([x, x])
        for update in range(settings.updates):
            if x is not None and (settings.hide == "update" or (settings.hide == "step" and not update)):
                chance = torch.rand(len(x), generator=generator, device=generator.device)
                hidden = chance < settings.drop_condition
            with self.run.fabric.autocast():
                loss = self.amortizer.loss(position, x, generator=generator, hidden=hidden).mean()
            self.updater.update(loss, step * settings.updates + update)
            total = total + loss.detach()
        return {"amortizer/loss": total / settings.updates}
