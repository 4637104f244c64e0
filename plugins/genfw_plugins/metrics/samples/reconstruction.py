"""How well data come back through the latent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import Chain, ContractError, Evaluation, Figure, Metric, Result
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import SERIES, Canvas, draw_samples_2d, is_image
from genfw.evaluation.results import Pairs
from genfw.models.sampling import reconstruct
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.common.pixels import join_notes


@attrs.define(kw_only=True, eq=False, slots=False)
class Reconstruction(Metric):
    r"""Squared error between data and the decoder's mean: :math:`\|x - E[x \mid z]\|^2`.

    :math:`z` is the encoder's draw from :math:`q(z \mid x)` or, with ``chain``, where a chain of the posterior
    :math:`p(z \mid x)` ends. Reported per number of an item (``mse``) and summed over the item (``mse-item``), in the
    data's own units: images span [-1, 1], so that ``mse`` is 4 times what it would be on [0, 1].

    References:
        Yu et al., DAMC (NeurIPS 2023), table 1.

    Arguments:
        split: Split that is reconstructed.
        count: Rows of it, all where absent.
        chain: Posterior chain, one per item; the encoder is asked where absent.
        temperature: Factor on the scale of the encoder's draw; 0 takes its centre.
        batch: Items at once.
        show: Pairs in the picture.
    """

    smoke: ClassVar[dict[str, Any]] = {"count": 16, "show": 8}

    split: str = "test"
    count: int | None = None
    chain: Chain | None = None
    temperature: float = attrs.field(default=1.0, validator=at_least(0))
    batch: int = attrs.field(default=250, validator=at_least(1))
    show: int = attrs.field(default=16, validator=at_least(0))

    def examine(self, evaluation: Evaluation) -> None:
        if self.chain is None and evaluation.model.encoder is None:
            raise ContractError(
                "reconstruction needs an encoder, or a posterior chain (chain: {sampler: ..., start: ...})"
            )

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        rows = evaluation.rows(self.split, self.count)
        extent = Extent.of(rows.x) if is_image(tuple(rows.x.shape[1:])) else None
        # Errors are right in any units. It is metrics that make pixels of what this one leaves that must refuse.
        said = "" if extent is None else extent.say_beyond("the data") or extent.of_data()
        batches = zip(rows.x.split(self.batch), rows.index.split(self.batch), strict=True)
        tasks = [(number, x, index) for number, (x, index) in enumerate(batches)]
        mean = torch.cat(evaluation.spread(self._reconstruct, tasks))
        per_item = (rows.x - mean).double().flatten(1).square().sum(1)
        size = math.prod(rows.x.shape[1:])
        protocol = evaluation.protocol(
            split=self.split,
            count=len(rows),
            latent="encoder" if self.chain is None else "posterior chain",
            temperature=self.temperature if self.chain is None else None,
            **({} if self.chain is None else self.chain.protocol()),
            decoder="mean",
            range="[-1, 1]" if extent is not None and not extent.cut else "the data's own",
        )
        evaluation.pairs["reconstruction"] = Pairs(rows.x, mean, protocol)
        error = float(per_item.std()) / math.sqrt(len(rows)) if len(rows) > 1 else None
        figures = [self._figure(evaluation, rows.x, mean)] if self.show else []
        per_number = None if error is None else error / size
        note = join_notes(said, "Mean over the numbers of an item.")
        whole = join_notes(said, f"Sum over the {size} numbers of an item.")
        value = float(per_item.mean())
        return [
            Result("mse", value / size, "", protocol, per_number, "lower", note, figures),
            Result("mse-item", value, "", protocol, error, "lower", whole),
        ]

    def _reconstruct(self, evaluation: Evaluation, number: int, x: Tensor, index: Tensor) -> Tensor:
        return reconstruct(
            evaluation.model,
            x.to(evaluation.device),
            index.to(evaluation.device),
            chain=self.chain,
            generator=evaluation.generator(f"reconstruction.{number}"),
            temperature=self.temperature,
        ).cpu()

    def _figure(self, evaluation: Evaluation, x: Tensor, mean: Tensor) -> Figure:
        if is_image(tuple(x.shape[1:])):
            show = min(self.show, len(x))
            columns = min(8, show)
            pairs = []
            for first in range(0, show, columns):
                pairs += [*x[first : first + columns], *mean[first : min(first + columns, show)]]
            caption = "Rows in turn: test images, and the decoder's mean for them. Values from -1 (black) to 1 (white)."
            tiles = torch.stack(pairs)
            return evaluation.picture(
                "reconstruction", "Reconstructions", caption, tiles, columns=columns, shows_data=True
            )

        def draw(canvas: Canvas) -> None:
            axes = canvas.subplots()
            draw_samples_2d(axes, x[:2000], "", colour="#8c959f")
            draw_samples_2d(axes, mean[:2000], "data (grey) and reconstructions (blue)", colour=SERIES[0])

        caption = "First two coordinates of data and of the decoder's mean for them."
        return evaluation.figure("reconstruction", "Reconstructions", caption, draw, size=(4.4, 4.4), shows_data=True)
