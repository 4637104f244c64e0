"""Distances between samples and data in the features of a network: FID, KID, Inception score, precision and recall."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from genfw import ContractError, Evaluation, Metric, Result
from genfw.errors import DataError
from genfw.nn.torchvision import import_torchvision
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.common.pixels import (
    ROUNDING,
    FilePixels,
    SplitPixels,
    TensorPixels,
    check_data,
    check_image,
    check_made,
    data_pixels,
    drawn_pixels,
    join_notes,
    made_of,
    protocol_of,
)
from genfw_plugins.metrics.fidelity.extractors import Extractor, Features, make_extractor
from genfw_plugins.metrics.fidelity.features import extract, remembered, statistics

#: torch-fidelity's own seed for shuffling and subsets.
_SEED = 2020
#: Rows that are looked at where a metric compares with none.
_LOOKED_AT = 10_000


@attrs.define(kw_only=True, eq=False, slots=False)
class _Fidelity(Metric):
    """What the four have in common.

    Arguments:
        samples: Images drawn from the model.
        features: Network whose features images are compared by: ``extractor`` (``inception``, ``classifier``,
            ``random``, or one of torch-fidelity's, such as ``vgg16``), its ``weights`` with their ``sha256``,
            ``layer``, the ``dataset`` that a classifier is trained on, and ``batch``, images extracted at once.
    """

    smoke: ClassVar[dict[str, Any]] = {"samples": 16, "rows": 32}
    #: torch-fidelity's name of the metric, by which extractors choose a layer.
    short: ClassVar[str]
    #: What is compared with the data: the model's samples, or what another metric has made of data.
    of = "samples"

    samples: int = attrs.field(default=50_000, validator=at_least(2))
    features: Features = attrs.field(default=Features())

    @abc.abstractmethod
    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        """The numbers, without their protocol's common part."""

    def examine(self, evaluation: Evaluation) -> None:
        shape = check_image(evaluation.model.data_shape)
        if self.of != "samples":
            check_made(evaluation, self.of)
        self.features.examine(evaluation.data, shape, smoke=evaluation.smoke)

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        if self.of != "samples":
            made_of(evaluation, self.of)  # before weights are fetched, or a classifier is trained
        # Before anything is drawn: absent weights should not cost an hour of chains.
        shape = tuple(evaluation.model.data_shape)
        extractor: Extractor = remembered(
            evaluation, self.features.key, lambda: make_extractor(evaluation, self.features, shape)
        )
        layer = extractor.layer(self.short, self.features.layer)
        note = join_notes(self.note(evaluation), extractor.note)
        results = self.measure(evaluation, extractor, layer)
        cut = self.drawn(evaluation).extent.of_samples(self._drawn_name())
        return [attrs.evolve(result, note=join_notes(note, cut, result.note)) for result in results]

    def note(self, evaluation: Evaluation) -> str:
        """What is to be said of the data. They are looked at before anything is drawn."""
        # This metric compares with no data, but what a model has learnt of them has their scale.
        if evaluation.data is None:
            return ""
        try:
            return check_data(evaluation, "train", evaluation.row_numbers("train", _LOOKED_AT)[1])
        except DataError:  # a model may be measured where its data are not
            return ""

    def _drawn_name(self) -> str:
        return "the samples" if self.of == "samples" else f"the {self.of}s"

    def drawn(self, evaluation: Evaluation) -> FilePixels | TensorPixels:
        """The model's samples, or what :attr:`of` says."""
        if self.of != "samples":
            # Not remembered: another metric of this name may stand further down, with other images.
            made = TensorPixels(made_of(evaluation, self.of).made)
            made.extent.of_samples(self._drawn_name())
            return made
        found: FilePixels = remembered(
            evaluation, ("drawn", self.samples), lambda: drawn_pixels(evaluation, self.samples)
        )
        found.extent.of_samples(self._drawn_name())  # each time: what has raised is asked again by the next metric
        return found

    def protocol(self, evaluation: Evaluation, extractor: Extractor, layer: str, **more: Any) -> dict[str, Any]:
        """All that would change a number of this kind."""
        train = evaluation.recipe.get("train") or []
        stages = [block.get("use") for block in (train if isinstance(train, list) else [train])]
        facts = {
            **extractor.facts,
            "layer": layer,
            "extract_batch": self.features.batch,
            "rounding": ROUNDING,
            "grey": "repeated to three channels" if extractor.rgb and evaluation.model.data_shape[0] == 1 else None,
            "batch_norm": "readjusted" if "readjust-batch-norm" in stages else "as trained",
            "torch_fidelity": str(import_torchvision("torch_fidelity").__version__),
            "numpy": np.__version__,
        }
        if self.of == "samples":
            return evaluation.protocol(samples=self.samples, **(facts | more))
        return evaluation.protocol(of=self.of, **(protocol_of(evaluation, self.of) | facts | more))


@attrs.define(kw_only=True, eq=False, slots=False)
class _Compared(_Fidelity):
    """Features of samples beside those of data.

    Arguments:
        split: Split that images are compared with; the papers use the training data.
        rows: Rows of it; all where absent.
    """

    split: str = "train"
    rows: int | None = attrs.field(default=None, validator=at_least(2))

    def data(self, evaluation: Evaluation) -> SplitPixels:
        """The data they are compared with."""
        split, rows = self.split, self.rows
        found: SplitPixels = remembered(evaluation, ("rows", split, rows), lambda: data_pixels(evaluation, split, rows))
        shapes = tuple(evaluation.model.data_shape), found.shape
        if shapes[0] != shapes[1]:
            raise ContractError(f"samples have shape {shapes[0]} and data {shapes[1]}; they can't be compared")
        return found

    def note(self, evaluation: Evaluation) -> str:
        return self.data(evaluation).extent.of_data()

    def protocol(self, evaluation: Evaluation, extractor: Extractor, layer: str, **more: Any) -> dict[str, Any]:
        """All that would change a number of this kind."""
        return super().protocol(evaluation, extractor, layer, split=self.split, rows=len(self.data(evaluation)), **more)

    def both(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> tuple[Any, Any]:
        """Features of samples and of data."""
        drawn = extract(evaluation, extractor, self.drawn(evaluation), self.features.batch, keep=False)
        data = extract(evaluation, extractor, self.data(evaluation), self.features.batch, keep=True)
        return drawn[layer], data[layer]


@attrs.define(kw_only=True, eq=False, slots=False)
class FID(_Compared):
    r"""Fréchet distance between samples and data, their features taken as normal:
    :math:`|\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})`.

    Computed by torch-fidelity on samples of genfw's own sampler. It is biased upwards by small counts: only numbers
    of equal counts can be compared. With extractor ``classifier`` the distance is on the scale of that classifier
    and compares with no published number.

    References:
        Heusel et al. 2017 (arXiv 1706.08500); torch-fidelity, https://github.com/toshas/torch-fidelity

    Arguments:
        of: What is compared: ``samples``, or what the metric ``reconstruction`` or ``inversion``, listed before, has
            made of data; the result is then called ``fid-reconstruction`` or ``fid-inversion``.
    """

    short: ClassVar[str] = "fid"

    of: Literal["samples", "reconstruction", "inversion"] = "samples"

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        module = import_torchvision("torch_fidelity.metric_fid")
        rows, images = self.data(evaluation), self.drawn(evaluation)
        data = statistics(evaluation, extractor, rows, layer, self.features.batch, keep=True)
        drawn = statistics(evaluation, extractor, images, layer, self.features.batch, keep=False)
        value = module.fid_statistics_to_metric(drawn, data, verbose=False)[module.KEY_METRIC_FID]
        size, least = len(drawn["mu"]), min(len(images), len(rows))
        note = f"{least} images can't fill the covariance of {size} features." if least <= size else ""
        protocol = self.protocol(evaluation, extractor, layer)
        name = "fid" if self.of == "samples" else f"fid-{self.of}"
        return [Result(name, float(value), "", protocol, better="lower", note=note)]


@attrs.define(kw_only=True, eq=False, slots=False)
class KID(_Compared):
    r"""Squared maximum mean discrepancy between samples and data under the kernel
    :math:`(f \cdot g / F + 1)^3` of their features, averaged over random subsets; unbiased.

    Computed by torch-fidelity on samples of genfw's own sampler. Its spread over subsets is noted; they share images,
    so that no standard error follows from it.

    References:
        Bińkowski et al. 2018 (arXiv 1801.01401)

    Arguments:
        subsets: Count of subsets.
        subset_size: Images in a subset, at most as many as there are.
    """

    smoke: ClassVar[dict[str, Any]] = _Fidelity.smoke | {"subsets": 2, "subset_size": 8}
    short: ClassVar[str] = "kid"

    subsets: int = attrs.field(default=100, validator=at_least(1))
    subset_size: int = attrs.field(default=1000, validator=at_least(2))

    def __attrs_post_init__(self) -> None:
        if self.subset_size > self.samples:
            raise ContractError(f"subset_size must be at most samples, got {self.subset_size} of {self.samples}")

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        module = import_torchvision("torch_fidelity.metric_kid")
        if len(self.data(evaluation)) < self.subset_size:
            raise ContractError(
                f"a subset has {self.subset_size} images and the data {len(self.data(evaluation))}; set 'subset_size'"
            )
        drawn, data = self.both(evaluation, extractor, layer)
        options = {"kid_subsets": self.subsets, "kid_subset_size": self.subset_size, "rng_seed": _SEED}
        found = module.kid_features_to_metric(drawn, data, verbose=False, **options)
        protocol = self.protocol(evaluation, extractor, layer, kernel="cubic polynomial", **options)
        spread = found[module.KEY_METRIC_KID_STD]
        note = f"Unbiased, so near 0 it may be negative. Standard deviation over subsets: {spread:.3g}."
        return [Result("kid", found[module.KEY_METRIC_KID_MEAN], "", protocol, better="lower", note=note)]


@attrs.define(kw_only=True, eq=False, slots=False)
class InceptionScore(_Fidelity):
    r"""How sure the classes of samples are, and how many there are of them:
    :math:`\exp E_x\, \mathrm{KL}(p(y \mid x) \,\|\, p(y))`.

    Computed by torch-fidelity on samples of genfw's own sampler; the mean over ``splits`` parts of them. With
    extractor ``classifier``, :math:`y` are the classes of the data, and the score is at most their count.

    References:
        Salimans et al. 2016 (arXiv 1606.03498)

    Arguments:
        splits: Parts that the samples are cut into.
    """

    smoke: ClassVar[dict[str, Any]] = {"samples": 16, "splits": 2}
    short: ClassVar[str] = "isc"

    splits: int = attrs.field(default=10, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if self.splits > self.samples:
            raise ContractError(f"splits must be at most samples, got {self.splits} of {self.samples}")

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        module = import_torchvision("torch_fidelity.metric_isc")
        logits = extract(evaluation, extractor, self.drawn(evaluation), self.features.batch, keep=False)[layer]
        found = module.isc_features_to_metric(logits, splits=self.splits, shuffle=True, rng_seed=_SEED)
        protocol = self.protocol(evaluation, extractor, layer, splits=self.splits, shuffle=True, rng_seed=_SEED)
        # torch-fidelity divides by the count of parts, where an estimate from so few of them takes one less.
        error = found[module.KEY_METRIC_ISC_STD] / (self.splits - 1) ** 0.5 if self.splits > 1 else None
        return [Result("inception-score", found[module.KEY_METRIC_ISC_MEAN], "", protocol, error, "higher")]


@attrs.define(kw_only=True, eq=False, slots=False)
class PrecisionRecall(_Compared):
    """Share of samples among the data (precision), and of data among the samples (recall).

    Among: within the distance of another image's ``neighbours``-th nearest neighbour of its own kind, in feature
    space. Computed by torch-fidelity on samples of genfw's own sampler. The paper's features are those of ``vgg16``.

    References:
        Kynkäänniemi et al. 2019 (arXiv 1904.06991)

    Arguments:
        rows: Rows of it, as many as samples where that is wanted; all where absent.
        neighbours: Which nearest neighbour's distance counts.
    """

    short: ClassVar[str] = "prc"

    samples: int = attrs.field(default=10_000, validator=at_least(2))
    rows: int | None = attrs.field(default=10_000, validator=at_least(2))
    neighbours: int = attrs.field(default=3, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if self.neighbours >= self.samples:
            raise ContractError(f"neighbours must be below samples, got {self.neighbours} of {self.samples}")

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        module = import_torchvision("torch_fidelity.metric_prc")
        if len(self.data(evaluation)) <= self.neighbours:
            raise ContractError(f"{self.neighbours} neighbours are asked for among {len(self.data(evaluation))} rows")
        drawn, data = self.both(evaluation, extractor, layer)
        # Distances in parts: all of them at once are N x N numbers.
        options = {"prc_neighborhood": self.neighbours, "prc_batch_size": 2000, "save_cpu_ram": True}
        found = module.prc_features_to_metric(drawn, data, verbose=False, **options)
        protocol = self.protocol(evaluation, extractor, layer, neighbours=self.neighbours)
        keys = (module.KEY_METRIC_PRECISION, module.KEY_METRIC_RECALL, module.KEY_METRIC_F_SCORE)
        names = ("precision", "recall", "f-score")
        return [Result(name, found[key], "", protocol, better="higher") for name, key in zip(names, keys, strict=True)]
