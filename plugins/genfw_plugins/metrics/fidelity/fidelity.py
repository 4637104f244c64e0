"""Distances between samples and data in the features of a network: FID, KID, Inception score, precision and recall."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.metric import Metric
from genfw.evaluation.results import Result
from genfw.interfaces import Dataset
from genfw.nn.torchvision import import_torchvision
from genfw_plugins.metrics.common.pixels import (
    ROUNDING,
    FilePixels,
    SplitPixels,
    TensorPixels,
    data_pixels,
    drawn_pixels,
    made_of,
    protocol_of,
)
from genfw_plugins.metrics.fidelity.extractors import Extractor, check_extractor, make_extractor
from genfw_plugins.metrics.fidelity.features import extract, remembered, statistics

__all__ = ["FID", "KID", "InceptionScore", "PrecisionRecall"]

#: torch-fidelity's own seed for shuffling and subsets.
_SEED = 2020
_SMOKE = {"samples": 16, "rows": 32, "extractor": "random", "weights": None, "sha256": None, "layer": None}


class _Fidelity(Metric):
    """What the four have in common; :class:`FID` says what the arguments are."""

    #: torch-fidelity's name of the metric, by which extractors choose a layer.
    short: ClassVar[str]
    #: What is compared with the data: the model's samples, or what another metric has made of data.
    of: str = "samples"

    def __init__(
        self,
        samples: int,
        split: str | None,
        rows: int | None,
        extractor: str,
        weights: Path | None,
        sha256: str | None,
        layer: str | None,
        dataset: Dataset | None,
        batch: int,
    ) -> None:
        if samples < 2 or (rows is not None and rows < 2) or batch < 1:
            raise ContractError("samples and rows are at least 2, batch is at least 1")
        check_extractor(extractor, weights, sha256)
        self.samples, self.split, self.rows, self.batch = samples, split, rows, batch
        self.extractor, self.weights, self.sha256, self.layer = extractor, weights, sha256, layer
        self.dataset = dataset

    @abc.abstractmethod
    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        """The numbers, without their protocol's common part."""

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        """See :meth:`Metric.compute`."""
        if self.of != "samples":
            made_of(evaluation, self.of)  # before weights are fetched, or a classifier is trained
        key = ("extractor", self.extractor, self.weights, self.sha256, self.layer, id(self.dataset))
        # Before anything is drawn: absent weights should not cost an hour of chains.
        extractor: Extractor = remembered(
            evaluation,
            key,
            lambda: make_extractor(
                evaluation,
                self.extractor,
                tuple(evaluation.model.data_shape),
                weights=self.weights,
                sha256=self.sha256,
                layer=self.layer,
                dataset=self.dataset,
            ),
        )
        return self.measure(evaluation, extractor, extractor.layer(self.short, self.layer))

    def drawn(self, evaluation: Evaluation) -> FilePixels | TensorPixels:
        """The model's samples, or what :attr:`of` says."""
        if self.of != "samples":
            # Not remembered: another metric of this name may stand further down, with other images.
            return TensorPixels(made_of(evaluation, self.of).made)
        found: FilePixels = remembered(
            evaluation, ("drawn", self.samples), lambda: drawn_pixels(evaluation, self.samples)
        )
        return found

    def data(self, evaluation: Evaluation) -> SplitPixels:
        """The data they are compared with."""
        assert self.split is not None  # the metrics that compare have one
        split, rows = self.split, self.rows
        found: SplitPixels = remembered(evaluation, ("rows", split, rows), lambda: data_pixels(evaluation, split, rows))
        shapes = tuple(evaluation.model.data_shape), found.shape
        if shapes[0] != shapes[1]:
            raise ContractError(f"samples have shape {shapes[0]} and data {shapes[1]}; they can't be compared")
        return found

    def protocol(self, evaluation: Evaluation, extractor: Extractor, layer: str, **more: Any) -> dict[str, Any]:
        """All that would change a number of this kind."""
        train = evaluation.recipe.get("train") or []
        stages = [block.get("use") for block in (train if isinstance(train, list) else [train])]
        facts = {
            **extractor.facts,
            "layer": layer,
            "extract_batch": self.batch,
            "rounding": ROUNDING,
            "grey": "repeated to three channels" if extractor.rgb and evaluation.model.data_shape[0] == 1 else None,
            "batch_norm": "readjusted" if "readjust-batch-norm" in stages else "as trained",
            "torch_fidelity": str(import_torchvision("torch_fidelity").__version__),
            "numpy": np.__version__,
        }
        if self.split is not None:
            facts |= {"split": self.split, "rows": len(self.data(evaluation))}
        if self.of == "samples":
            return evaluation.protocol(samples=self.samples, **(facts | more))
        return evaluation.protocol(of=self.of, **(protocol_of(evaluation, self.of) | facts | more))

    def both(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> tuple[Any, Any]:
        """Features of samples and of data."""
        drawn = extract(evaluation, extractor, self.drawn(evaluation), self.batch, keep=False)
        data = extract(evaluation, extractor, self.data(evaluation), self.batch, keep=True)
        return drawn[layer], data[layer]


class FID(_Fidelity):
    r"""Fréchet distance between samples and data, their features taken as normal:
    :math:`|\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})`.

    Computed by torch-fidelity on samples of genfw's own sampler. It is biased upwards by small counts: only numbers
    of equal counts can be compared. With extractor ``classifier`` the distance is on the scale of that classifier
    and compares with no published number.

    References:
        Heusel et al. 2017 (arXiv 1706.08500); torch-fidelity, https://github.com/toshas/torch-fidelity

    Arguments:
        samples: Images drawn from the model.
        split: Split they are compared with; the papers use the training data.
        rows: Rows of it; all where absent.
        extractor: ``inception`` (the reference), ``classifier`` (trained on labelled data when first needed),
            ``random`` (for smoke runs), or a name registered with torch-fidelity.
        weights: File of the extractor's weights; looked for in the usual places, then downloaded, where absent.
        sha256: SHA-256 of that file, or its first figures; known for ``inception``.
        layer: Layer of the extractor; its own choice for this metric where absent.
        dataset: Labelled data that ``classifier`` is trained on; the recipe's where absent.
        batch: Images extracted at once.
        of: What is compared: ``samples``, or what the metric ``reconstruction`` or ``inversion``, listed before, has
            made of data; the result is then called ``fid-reconstruction`` or ``fid-inversion``.
    """

    smoke: ClassVar[dict[str, Any]] = _SMOKE
    short: ClassVar[str] = "fid"

    def __init__(
        self,
        samples: int = 50_000,
        split: str = "train",
        rows: int | None = None,
        extractor: str = "inception",
        weights: Path | None = None,
        sha256: str | None = None,
        layer: str | None = None,
        dataset: Dataset | None = None,
        batch: int = 64,
        of: Literal["samples", "reconstruction", "inversion"] = "samples",
    ) -> None:
        super().__init__(samples, split, rows, extractor, weights, sha256, layer, dataset, batch)
        self.of = of

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        """See :class:`_Fidelity`."""
        module = import_torchvision("torch_fidelity.metric_fid")
        rows, images = self.data(evaluation), self.drawn(evaluation)
        data = statistics(evaluation, extractor, rows, layer, self.batch, keep=True)
        drawn = statistics(evaluation, extractor, images, layer, self.batch, keep=False)
        value = module.fid_statistics_to_metric(drawn, data, verbose=False)[module.KEY_METRIC_FID]
        size, least = len(drawn["mu"]), min(len(images), len(rows))
        note = f"{least} images can't fill the covariance of {size} features." if least <= size else ""
        protocol = self.protocol(evaluation, extractor, layer)
        name = "fid" if self.of == "samples" else f"fid-{self.of}"
        return [Result(name, float(value), "", protocol, better="lower", note=note)]


class KID(_Fidelity):
    r"""Squared maximum mean discrepancy between samples and data under the kernel
    :math:`(f \cdot g / F + 1)^3` of their features, averaged over random subsets; unbiased.

    Computed by torch-fidelity on samples of genfw's own sampler. Its spread over subsets is noted; they share images,
    so that no standard error follows from it.

    References:
        Bińkowski et al. 2018 (arXiv 1801.01401)

    Arguments:
        samples: Images drawn from the model.
        split: Split they are compared with.
        rows: Rows of it; all where absent.
        subsets: Count of subsets.
        subset_size: Images in a subset, at most as many as there are.
        extractor: ``inception`` (the reference), ``classifier`` (trained on labelled data when first needed),
            ``random`` (for smoke runs), or a name registered with torch-fidelity.
        weights: File of the extractor's weights; looked for in the usual places, then downloaded, where absent.
        sha256: SHA-256 of that file, or its first figures; known for ``inception``.
        layer: Layer of the extractor; its own choice for this metric where absent.
        dataset: Labelled data that ``classifier`` is trained on; the recipe's where absent.
        batch: Images extracted at once.
    """

    smoke: ClassVar[dict[str, Any]] = _SMOKE | {"subsets": 2, "subset_size": 8}
    short: ClassVar[str] = "kid"

    def __init__(
        self,
        samples: int = 50_000,
        split: str = "train",
        rows: int | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        extractor: str = "inception",
        weights: Path | None = None,
        sha256: str | None = None,
        layer: str | None = None,
        dataset: Dataset | None = None,
        batch: int = 64,
    ) -> None:
        super().__init__(samples, split, rows, extractor, weights, sha256, layer, dataset, batch)
        if subsets < 1 or subset_size < 2 or subset_size > samples:
            raise ContractError(
                f"subsets is at least 1, subset_size lies in [2, samples]; got {subsets}, {subset_size} of {samples}"
            )
        self.subsets, self.subset_size = subsets, subset_size

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        """See :class:`_Fidelity`."""
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


class InceptionScore(_Fidelity):
    r"""How sure the classes of samples are, and how many there are of them:
    :math:`\exp E_x\, \mathrm{KL}(p(y \mid x) \,\|\, p(y))`.

    Computed by torch-fidelity on samples of genfw's own sampler; the mean over ``splits`` parts of them. With
    extractor ``classifier``, :math:`y` are the classes of the data, and the score is at most their count.

    References:
        Salimans et al. 2016 (arXiv 1606.03498)

    Arguments:
        samples: Images drawn from the model.
        splits: Parts that the samples are cut into.
        extractor: ``inception`` (the reference), ``classifier`` (trained on labelled data when first needed),
            ``random`` (for smoke runs), or a name registered with torch-fidelity.
        weights: File of the extractor's weights; looked for in the usual places, then downloaded, where absent.
        sha256: SHA-256 of that file, or its first figures; known for ``inception``.
        layer: Layer of the extractor; its own choice for this metric where absent.
        dataset: Labelled data that ``classifier`` is trained on; the recipe's where absent.
        batch: Images extracted at once.
    """

    smoke: ClassVar[dict[str, Any]] = {key: cap for key, cap in _SMOKE.items() if key != "rows"} | {"splits": 2}
    short: ClassVar[str] = "isc"

    def __init__(
        self,
        samples: int = 50_000,
        splits: int = 10,
        extractor: str = "inception",
        weights: Path | None = None,
        sha256: str | None = None,
        layer: str | None = None,
        dataset: Dataset | None = None,
        batch: int = 64,
    ) -> None:
        super().__init__(samples, None, None, extractor, weights, sha256, layer, dataset, batch)
        if not 1 <= splits <= samples:
            raise ContractError(f"splits lies in [1, samples], got {splits} of {samples}")
        self.splits = splits

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        """See :class:`_Fidelity`."""
        module = import_torchvision("torch_fidelity.metric_isc")
        logits = extract(evaluation, extractor, self.drawn(evaluation), self.batch, keep=False)[layer]
        found = module.isc_features_to_metric(logits, splits=self.splits, shuffle=True, rng_seed=_SEED)
        protocol = self.protocol(evaluation, extractor, layer, splits=self.splits, shuffle=True, rng_seed=_SEED)
        # torch-fidelity divides by the count of parts, where an estimate from so few of them takes one less.
        error = found[module.KEY_METRIC_ISC_STD] / (self.splits - 1) ** 0.5 if self.splits > 1 else None
        return [Result("inception-score", found[module.KEY_METRIC_ISC_MEAN], "", protocol, error, "higher")]


class PrecisionRecall(_Fidelity):
    """Share of samples among the data (precision), and of data among the samples (recall).

    Among: within the distance of another image's ``neighbours``-th nearest neighbour of its own kind, in feature
    space. Computed by torch-fidelity on samples of genfw's own sampler.

    References:
        Kynkäänniemi et al. 2019 (arXiv 1904.06991)

    Arguments:
        samples: Images drawn from the model.
        split: Split they are compared with.
        rows: Rows of it, as many as samples where that is wanted; all where absent.
        neighbours: Which nearest neighbour's distance counts.
        extractor: ``inception``, ``classifier`` (trained on labelled data when first needed), ``random`` (for smoke
            runs), or a name registered with torch-fidelity (``vgg16`` is the reference).
        weights: File of the extractor's weights; looked for in the usual places, then downloaded, where absent.
        sha256: SHA-256 of that file, or its first figures; known for ``inception``.
        layer: Layer of the extractor; its own choice for this metric where absent.
        dataset: Labelled data that ``classifier`` is trained on; the recipe's where absent.
        batch: Images extracted at once.
    """

    smoke: ClassVar[dict[str, Any]] = _SMOKE
    short: ClassVar[str] = "prc"

    def __init__(
        self,
        samples: int = 10_000,
        split: str = "train",
        rows: int | None = 10_000,
        neighbours: int = 3,
        extractor: str = "inception",
        weights: Path | None = None,
        sha256: str | None = None,
        layer: str | None = None,
        dataset: Dataset | None = None,
        batch: int = 64,
    ) -> None:
        super().__init__(samples, split, rows, extractor, weights, sha256, layer, dataset, batch)
        if neighbours < 1 or neighbours >= samples:
            raise ContractError(f"neighbours is at least 1 and below samples, got {neighbours} of {samples}")
        self.neighbours = neighbours

    def measure(self, evaluation: Evaluation, extractor: Extractor, layer: str) -> list[Result]:
        """See :class:`_Fidelity`."""
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
