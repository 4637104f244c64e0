"""How well a generator's latents give images back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import Chain, ContractError, Evaluation, Figure, Metric, Result
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import is_image
from genfw.evaluation.results import Pairs
from genfw.models.sampling import reconstruct
from genfw.plugins.validators import at_least
from genfw_plugins.stylegan.features import FeatureNetwork, Features
from genfw_plugins.stylegan.perceptual import feature_error


@attrs.define(kw_only=True, eq=False, slots=False)
class Inversion(Metric):
    r"""Errors of inverted images, in pixels and in features: ``mse``, :math:`\overline{(x - g(z))^2}`, and
    ``feature-distance``, :math:`\overline{(F(x) - F(g(z)))^2}`, means over numbers and images of [-1, 1].

    :math:`z` is where a chain of the posterior :math:`p(z \mid x)` ends (an optimiser's, from noise, from the encoder,
    from the amortizer) or, without one, the encoder's centre. The feature network need not be the one that chains saw.

    References: DAMC (arXiv 2310.03218) section 4.1 and Table 2, where FID takes the place of the second.

    Arguments:
        split: Split that is inverted.
        count: Rows of it, all where absent.
        chain: Posterior chain, one per image; the encoder is asked where absent.
        features: Feature network; no second result where absent.
        batch: Images at once.
        show: Pairs in the picture.
    """

    smoke: ClassVar[dict[str, Any]] = {"count": 2, "show": 2}

    split: str = "test"
    count: int | None = None
    chain: Chain | None = None
    features: Features | None = None
    batch: int = attrs.field(default=50, validator=at_least(1))
    show: int = attrs.field(default=8, validator=at_least(0))
    _network: FeatureNetwork | None = attrs.field(default=None, init=False)

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        if self.chain is None and evaluation.model.encoder is None:
            raise ContractError("inversion needs a posterior chain (chain: {sampler: ..., start: ...}) or an encoder")
        rows = evaluation.rows(self.split, self.count)
        image = is_image(tuple(rows.x.shape[1:]))
        said = Extent.of(rows.x).of_data(f"the data (split '{self.split}')") if image else ""
        batches = zip(rows.x.split(self.batch), rows.index.split(self.batch), strict=True)
        tasks = [(number, x, index) for number, (x, index) in enumerate(batches)]
        pixels, errors, images = zip(*evaluation.spread(self._invert, tasks), strict=True)
        self._network = None  # it may be large, and other metrics follow
        made = torch.cat(images)
        shown = zip(rows.x[: self.show], made[: self.show], strict=True)
        tiles = [image for pair in shown for image in pair]
        protocol = evaluation.protocol(
            split=self.split,
            count=len(rows),
            latent="encoder" if self.chain is None else "posterior chain",
            **({} if self.chain is None else self.chain.protocol()),
            features=None if self.features is None else self.features.digest(),
            range="[-1, 1]",
        )
        evaluation.pairs["inversion"] = Pairs(rows.x, made, protocol)
        figures = []
        if tiles:
            caption = "Pairs: an image, and what the generator makes of its latent. From -1 (black) to 1 (white)."
            pairs = torch.stack(tiles)
            figures.append(evaluation.picture("inversion", "Inversions", caption, pairs, columns=8, shows_data=True))
        results = [_result("mse", torch.cat(pixels), protocol, figures, said)]
        if self.features is not None:
            results.append(_result("feature-distance", torch.cat(errors), protocol, [], said))
        return results

    @torch.no_grad()
    def _invert(self, evaluation: Evaluation, number: int, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Errors in pixels and in features (none without a network), each with shape ``(B,)``, and the images."""
        x = x.to(evaluation.device)
        generator = evaluation.generator(f"inversion.{number}")
        index = index.to(evaluation.device)
        image = reconstruct(evaluation.model, x, index, chain=self.chain, generator=generator, temperature=0.0)
        pixels = (x - image).double().square().flatten(1).mean(1).cpu()
        if self.features is not None and self._network is None:
            self._network = self.features.build().to(evaluation.device)
        errors = torch.empty(0) if self._network is None else feature_error(self._network, x, image).double().cpu()
        return pixels, errors, image.cpu()


def _result(name: str, values: Tensor, protocol: dict[str, Any], figures: list[Figure], said: str) -> Result:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    note = f"{said} Mean over numbers and images.".strip()
    return Result(name, float(values.mean()), "", protocol, error, "lower", note, figures)
