"""The training items that samples are most like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Dataset, Evaluation, Figure, Metric, Result, Split
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import is_image
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.common.classifier import Classifier, check_images
from genfw_plugins.metrics.common.pixels import TensorPixels, check_data, join_notes
from genfw_plugins.metrics.common.sets import draw_index
from genfw_plugins.metrics.fidelity.extractors import Features, make_extractor
from genfw_plugins.metrics.fidelity.features import extract_batches

#: Items described at once.
_BATCH = 1000

Describe = Callable[[Tensor], Tensor]


def nearest(x: Tensor, split: Split, index: Tensor, count: int, describe: Describe) -> tuple[Tensor, Tensor]:
    """The items of a split that are nearest, read a part at a time.

    Arguments:
        x: Items, with shape ``(N, *)``.
        split: Where neighbours are looked for.
        index: Row numbers that are looked at.
        count: Neighbours of each item.
        describe: From items ``(B, *)`` to what distances are taken between, ``(B, F)``.

    Returns:
        Distances, nearest first, and row numbers, both with shape ``(N, count)``.
    """
    own = torch.cat([describe(part) for part in x.split(_BATCH)])
    distances = torch.full((len(x), count), math.inf, dtype=own.dtype)
    rows = torch.zeros(len(x), count, dtype=torch.int64)
    for part in index.split(_BATCH):
        # Differences themselves, not the expanded square: a copy must come out at distance 0.
        found = torch.cdist(own, describe(split.get(part)[0]), compute_mode="donot_use_mm_for_euclid_dist")
        both = torch.cat([distances, found], dim=1)
        distances, best = both.topk(count, dim=1, largest=False)
        rows = torch.cat([rows, part.expand(len(x), -1)], dim=1).gather(1, best)
    return distances, rows


_Space = Literal["pixels", "classifier", "inception"]


def _or_pixels(spaces: list[_Space] | None) -> list[_Space]:
    return list(dict.fromkeys(spaces or ["pixels"]))


@attrs.define(kw_only=True, eq=False, slots=False)
class NearestNeighbours(Metric):
    r"""Samples beside their nearest training items, and how near those are.

    ``nn-ratio`` is the median distance from a sample to its nearest training item over that from a test item to its
    own: about 1 where samples are as new as test items, towards 0 where they are copies. Distances are Euclidean,
    between pixels, between features of a small classifier of the data, trained on the way, or between those of
    Inception's last pooling.

    References:
        VAEBM (Xiao et al., 2021), App. I.

    Arguments:
        spaces: What distances are taken between: ``pixels``, ``classifier``, ``inception``.
        samples: Samples that are measured.
        rows: Training items looked at; all where absent.
        neighbours: Neighbours shown of each sample.
        show: Samples shown.
        crop: Side of the centred square that pixels are compared on, and that Inception sees; the whole image where
            absent.
        classifier: How the classifier is trained: ``steps``, ``width``, ``seed``.
        inception: Where Inception's weights are: ``weights``, ``sha256``; see metric ``fid``.
    """

    smoke: ClassVar[dict[str, Any]] = {"samples": 16, "rows": 32, "neighbours": 3, "show": 4}

    spaces: list[_Space] = attrs.field(default=None, converter=_or_pixels)
    samples: int = attrs.field(default=200, validator=at_least(2))
    rows: int | None = None
    neighbours: int = attrs.field(default=7, validator=at_least(1))
    show: int = attrs.field(default=8, validator=at_least(0))
    crop: int | None = attrs.field(default=None, validator=at_least(1))
    classifier: Classifier = attrs.field(default=Classifier())
    inception: Features = attrs.field(default=Features())

    def __attrs_post_init__(self) -> None:
        if self.rows is not None and self.rows < self.neighbours:
            raise ContractError(f"neighbours must be at most rows, got {self.neighbours} of {self.rows}")

    def examine(self, evaluation: Evaluation) -> None:
        data = evaluation.data
        if data is None:
            raise ContractError("neighbours are looked for in the training data, and the recipe has no 'data:' section")
        if "classifier" in self.spaces:
            check_images(data.data_shape)
        shape, crop = tuple(data.data_shape), self.crop
        # In a smoke run images may be smaller, and so is the square.
        if crop is not None and (len(shape) != 3 or (crop > min(shape[1:]) and not evaluation.smoke)):
            raise ContractError(f"a square of {crop} can't be cut out of items of shape {shape}")

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        data = evaluation.data
        assert data is not None  # examine refuses this
        split = data.split("train")
        index = draw_index(len(split), self.rows, "nearest-neighbours")
        # Before anything is drawn.
        said = check_data(evaluation, "train", index)
        x = evaluation.samples(self.samples).x
        if is_image(tuple(x.shape[1:])):
            said = join_notes(said, Extent.of(x).of_samples())
        test = evaluation.rows("test", self.samples).x
        count = min(self.neighbours, len(index))
        results: list[Result] = []
        for space in self.spaces:
            describe, facts = self._describe(evaluation, data, space)
            distances, rows = nearest(x, split, index, count, describe)
            apart, _ = nearest(test, split, index, 1, describe)
            protocol = evaluation.protocol(
                samples=self.samples, space=space, rows=len(index), test_rows=len(test), **facts
            )
            mine, theirs = float(distances[:, 0].median()), float(apart[:, 0].median())
            note = f"Median distance to the nearest of {len(index):,} training items, between {space}."
            figures = [self._figure(evaluation, split, x, rows, space)] if self._shown(x) else []
            results += [
                Result(f"nn-distance-{space}", mine, "", protocol, note=f"Of samples. {note}", figures=figures),
                Result(f"nn-distance-{space}-test", theirs, "", protocol, note=f"Of test items. {note}"),
                Result(
                    f"nn-ratio-{space}",
                    mine / theirs if theirs > 0 else None,
                    "",
                    protocol,
                    note="Samples over test items; towards 0 where samples are copies of training items.",
                ),
            ]
        return [attrs.evolve(result, note=join_notes(said, result.note)) for result in results]

    def _shown(self, x: Tensor) -> bool:
        return self.show > 0 and is_image(tuple(x.shape[1:]))

    def _describe(self, evaluation: Evaluation, data: Dataset, space: str) -> tuple[Describe, dict[str, Any]]:
        cut, facts = self._square(evaluation, tuple(data.data_shape))
        if space == "pixels":
            return (lambda x: cut(x).flatten(1).float()), facts
        if space == "inception":
            extractor = make_extractor(evaluation, self.inception, cut(torch.zeros(1, *data.data_shape)).shape[1:])
            layer = extractor.layer("fid", self.inception.layer)

            def features(x: Tensor) -> Tensor:
                found = extract_batches(evaluation, extractor, TensorPixels(cut(x)), self.inception.batch)
                return found[layer].flatten(1).float()

            return features, {**facts, **extractor.facts, "layer": layer}
        device = evaluation.device
        classifier = self.classifier.train(evaluation, data)
        facts = {"classifier": classifier.digest[:16], "classifier_accuracy": round(classifier.accuracy, 6)}
        return (lambda x: classifier.features(x.to(device)).cpu().float()), facts

    def _square(self, evaluation: Evaluation, shape: tuple[int, ...]) -> tuple[Describe, dict[str, Any]]:
        """What cuts the compared square out of images, and what is to be said of it."""
        crop = self.crop
        if crop is None:
            return (lambda x: x), {}
        if evaluation.smoke:  # images may be smaller there
            crop = min(crop, *shape[1:])
        top, left = (shape[1] - crop) // 2, (shape[2] - crop) // 2
        return (lambda x: x[..., top : top + crop, left : left + crop]), {"crop": crop}

    def _figure(self, evaluation: Evaluation, split: Split, x: Tensor, rows: Tensor, space: str) -> Figure:
        shown = min(self.show, len(x))
        tiles: list[Tensor] = []
        for sample, near in zip(x[:shown], rows[:shown], strict=True):
            # A white bar's worth of nothing between a sample and what it is compared with.
            tiles += [sample, torch.ones_like(sample), *split.get(near)[0].to(sample.dtype)]
        caption = f"Samples on the left; their nearest training items beside them, nearest first, between {space}."
        columns = rows.shape[1] + 2
        title = f"Nearest neighbours, {space}"
        return evaluation.picture(
            f"neighbours-{space}", title, caption, torch.stack(tiles), columns=columns, shows_data=True
        )
