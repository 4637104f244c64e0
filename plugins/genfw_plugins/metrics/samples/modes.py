"""How many modes of labelled data a model draws from, and how evenly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import ContractError, DataError, Dataset, Evaluation, Figure, Metric, Result, Split
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import SERIES, Canvas
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.common.classifier import Classifier, TrainedClassifier, check_images
from genfw_plugins.metrics.common.content import read_split
from genfw_plugins.metrics.common.pixels import join_notes
from genfw_plugins.metrics.common.sets import available

#: Images that the classifier reads at once.
_BATCH = 1000


def divergence(counts: Tensor, law: Tensor) -> float:
    r""":math:`KL[\hat q \| p] = \sum_k \hat q_k \log (\hat q_k / p_k)` in nats.

    :math:`\hat q` are relative frequencies. Of :math:`n` draws of :math:`p` itself over :math:`K` modes it is about
    :math:`(K - 1) / 2n`, not 0.

    Arguments:
        counts: Draws in each mode, with shape :math:`(K,)`.
        law: :math:`p`, with shape :math:`(K,)`.

    Returns:
        The divergence; infinite where a mode that :math:`p` lacks was drawn.
    """
    q, p = counts.double() / counts.sum(), law.double() / law.sum()
    seen = q > 0
    return float((q[seen] * (q[seen] / p[seen]).log()).sum())


@attrs.define(kw_only=True, eq=False, slots=False)
class Modes(Metric):
    r"""Modes that samples fall in, and :math:`KL[\hat q \| p]` of their frequencies against the data's.

    A sample's mode is told by a classifier that is trained on the way (its accuracy is reported beside the numbers), or
    by the nearest of the classes' means, for data that are clouds around centres. Three digits stacked as the channels
    of one image are told one by one, ``by: channels``, with ``source`` the set that they were stacked from: the modes
    are then all combinations, their law the product of the source's.

    References:
        PacGAN (Lin et al., 2018), https://arxiv.org/abs/1712.04086. VAEBM (Xiao et al., 2021), Table 5.

    Arguments:
        by: ``classifier`` (one image, one class), ``channels`` (each channel an image of ``source``), or ``nearest``.
        source: Labelled images of one channel, for ``channels``.
        samples: Samples of the model; 26,000 in the literature on Stacked MNIST.
        classifier: How the classifier is trained: ``steps``, ``width``, ``seed``.
    """

    smoke: ClassVar[dict[str, Any]] = {"samples": 16}

    by: Literal["classifier", "channels", "nearest"] = "classifier"
    source: Dataset | None = None
    samples: int = attrs.field(default=26_000, validator=at_least(1))
    classifier: Classifier = attrs.field(default=Classifier())

    def __attrs_post_init__(self) -> None:
        source = self.source
        if (self.by == "channels") != (source is not None):
            raise ContractError(
                "source is the set whose images are stacked as channels: give it with 'by: channels', and only there"
            )
        if source is not None and (len(source.data_shape) != 3 or source.data_shape[0] != 1):
            raise ContractError(f"source has images of one channel; the items of this one are {source.data_shape}")

    def examine(self, evaluation: Evaluation) -> None:
        data = self.source or evaluation.data
        shape = tuple(evaluation.model.data_shape)
        if data is None:
            raise ContractError("modes are those of labelled data, and the recipe has no 'data:' section")
        if self.source is not None and (len(shape) != 3 or shape[1:] != tuple(data.data_shape[1:])):
            raise ContractError(
                f"samples of shape {shape} are no stack of images of shape {tuple(data.data_shape)}; "
                "set the size of 'source'"
            )
        if self.by != "nearest":
            check_images(data.data_shape)

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        data = self._data(evaluation)
        x = evaluation.samples(self.samples).x
        labels = _labels(data.split("train"))
        law = torch.bincount(labels).double()
        facts: dict[str, Any] = {"by": self.by}
        said = ""
        accuracy: list[Result] = []
        if self.by == "nearest":
            modes = _nearest(x, data.split("train"), len(law))
        else:
            classifier = self.classifier.train(evaluation, data)
            said = join_notes(classifier.note, Extent.of(x).of_samples())
            if law.numel() < classifier.classes:  # a class that the test split alone has
                law = torch.cat([law, law.new_zeros(classifier.classes - law.numel())])
            facts |= {"classifier": classifier.digest[:16], "classifier_steps": self.classifier.steps}
            facts["classifier_accuracy"] = round(classifier.accuracy, 6)
            modes = self._classify(classifier, x, evaluation.device)
            if self.by == "channels":
                law = _product(law, x.shape[1])
            note = "Of held-out images that the modes are told by; no number below can be truer than this."
            accuracy = [
                Result(
                    "classifier-accuracy",
                    classifier.accuracy,
                    "",
                    evaluation.protocol(**facts),
                    better="higher",
                    note=note,
                )
            ]
        counts = torch.bincount(modes, minlength=len(law))
        protocol = evaluation.protocol(samples=self.samples, **facts)
        present = int((law > 0).sum())
        covered = int(((counts > 0) & (law > 0)).sum())
        floor = (present - 1) / (2 * len(x))
        say = f"Nats, of frequencies against the data's. Draws of the data's own law would have about {floor:.3g}."
        if (stray := int(counts[law == 0].sum())) > 0:
            say += f" {stray} samples are in modes that the data do not have."
        results = [
            Result(
                "modes",
                covered,
                "",
                protocol,
                better="higher",
                note=f"Of {present:,} modes, in {len(x):,} samples.",
                figures=[self._figure(evaluation, counts, law)],
            ),
            Result("modes-kl", divergence(counts, law), "nats", protocol, better="lower", note=say),
            *accuracy,
        ]
        return [attrs.evolve(result, note=join_notes(said, result.note)) for result in results]

    def _data(self, evaluation: Evaluation) -> Dataset:
        if self.source is not None:
            return available(evaluation, self.source)
        assert evaluation.data is not None  # examine refuses this
        return evaluation.data

    def _classify(self, classifier: TrainedClassifier, x: Tensor, device: torch.device) -> Tensor:
        """Mode of each sample, with shape (N,)."""
        channels = x.shape[1] if self.by == "channels" else 1
        images = x.reshape(-1, *classifier.data_shape)
        with torch.no_grad():
            classes = torch.cat(
                [classifier.network(part.to(device)).argmax(1).cpu() for part in images.split(_BATCH)]
            ).view(-1, channels)
        # As the digits of a number: 100 a + 10 b + c for three channels of ten classes.
        place = classifier.classes ** torch.arange(channels - 1, -1, -1)
        return (classes * place).sum(1)

    @staticmethod
    def _figure(evaluation: Evaluation, counts: Tensor, law: Tensor) -> Figure:
        expected = (law / law.sum() * counts.sum()).numpy()
        order = expected.argsort(kind="stable")[::-1].copy()
        drawn = counts.numpy()[order]

        def draw(canvas: Canvas) -> None:
            axes = canvas.subplots()
            axes.stairs(drawn, fill=True, color=SERIES[0], label="samples")
            middle = [number + 0.5 for number in range(len(drawn))]
            axes.plot(middle, expected[order], color=SERIES[1], linewidth=1.0, label="expected of the data")
            axes.set(xlabel="mode, the data's most frequent first", ylabel="samples")
            axes.legend()

        caption = f"Samples in each of {len(drawn):,} modes, and as many as the data's law would put there."
        return evaluation.figure("modes", "Modes", caption, draw)


def _labels(split: Split) -> Tensor:
    if len(split) == 0 or split.get(torch.arange(1))[1] is None:
        raise DataError("modes are told by labels, and this data set has none")
    return torch.cat([label for _, label in read_split(split) if label is not None]).long()


def _product(law: Tensor, channels: int) -> Tensor:
    """The law of ``channels`` independent draws, the first one's class running slowest."""
    result = law / law.sum()
    for _ in range(channels - 1):
        result = torch.outer(result, law / law.sum()).flatten()
    return result


def _nearest(x: Tensor, split: Split, classes: int) -> Tensor:
    """Class whose mean is nearest to each sample, with shape (N,)."""
    size = math.prod(x.shape[1:])
    total, count = torch.zeros(classes, size, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    for rows, label in read_split(split):
        assert label is not None  # _labels has looked
        total.index_add_(0, label.long(), rows.flatten(1).double())
        count += torch.bincount(label.long(), minlength=classes)
    means = total / count[:, None].clamp_min(1.0)
    distance = torch.cdist(x.flatten(1).double(), means)
    distance[:, count == 0] = math.inf
    return distance.argmin(1)
