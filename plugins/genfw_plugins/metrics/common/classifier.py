"""A small classifier of a data set's own images, trained in a minute: features and classes with nothing to download."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from genfw import ContractError, DataError, Dataset, Evaluation, Settings, Size, Split
from genfw.evaluation.extent import Extent
from genfw.models.freezing import frozen
from genfw.plugins.validators import at_least
from genfw.randomness import derive_seed, isolated_rng
from genfw.runs.files import write_atomically
from genfw.runs.tensors import save_tensors
from genfw.training.loader import Loader
from genfw_plugins.metrics.common.content import (
    cache_folder,
    digest_of_settings,
    digest_of_split,
    digest_of_tensors,
    read_split,
)

#: Counts changes of the network or its training that make older files another classifier's.
_VERSION = 1
_BATCH = 128
#: What a message calls the data.
_IMAGES = "the images that a classifier is to be trained on"


class ClassifierNetwork(nn.Module):
    """Convolutions of stride 2 down to at most 7x7, one hidden layer, one output per class.

    Arguments:
        data_shape: Channels, height and width of an image.
        classes: Count of classes.
        width: Channels after the first convolution; each further one doubles them, up to four times this.
        size: Width of the hidden layer, whose outputs are the features.
    """

    def __init__(self, data_shape: Size, classes: int, width: int, size: int) -> None:
        super().__init__()
        channels, height, span = data_shape
        layers: list[nn.Module] = []
        outputs = width
        while not layers or max(height, span) > 7:
            kernel = 5 if not layers else 3
            # Always float32: a run in double precision sets another default type for its length.
            layers += [
                nn.Conv2d(channels, outputs, kernel, 2, kernel // 2, bias=False, dtype=torch.float32),
                nn.BatchNorm2d(outputs, dtype=torch.float32),
                nn.ReLU(inplace=True),
            ]
            channels, outputs = outputs, min(2 * outputs, 4 * width)
            height, span = math.ceil(height / 2), math.ceil(span / 2)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(channels * height * span, size, dtype=torch.float32)
        self.head = nn.Linear(size, classes, dtype=torch.float32)

    def features(self, x: Tensor) -> Tensor:
        r"""Outputs of the hidden layer for images in [-1, 1], with shape :math:`(B, F)`."""
        features: Tensor = functional.relu(self.hidden(self.body(x.to(torch.float32))))
        return features

    def forward(self, x: Tensor) -> Tensor:
        r"""Logits for images in [-1, 1], with shape :math:`(B, K)`."""
        logits: Tensor = self.head(self.features(x))
        return logits


@attrs.frozen(eq=False)
class TrainedClassifier:
    """A classifier that has been trained, in eval mode with frozen parameters.

    Arguments:
        network: From images in [-1, 1] to logits.
        accuracy: Share of the held-out rows that it puts in the right class.
        digest: SHA-256 of its weights.
        classes: Count of classes.
        data_shape: Shape of the images it takes.
        note: What is to be said of the images it was trained on; see :meth:`genfw.evaluation.extent.Extent.of_data`.
    """

    network: ClassifierNetwork
    accuracy: float
    digest: str
    classes: int
    data_shape: Size
    note: str = ""

    def features(self, x: Tensor) -> Tensor:
        r"""Outputs of the last hidden layer for images in [-1, 1], with shape :math:`(B, F)`."""
        return self.network.features(x)


@attrs.frozen(kw_only=True, eq=False)
class Classifier(Settings):
    """How the small classifier of a metric is trained.

    Arguments:
        steps: Batches of 128 images.
        width: Channels of its first convolution.
        seed: Source of its weights and of the order of its rows.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 3, "width": 4}

    steps: int = attrs.field(default=1000, validator=at_least(1))
    width: int = attrs.field(default=16, validator=at_least(1))
    seed: int = 0

    def train(self, evaluation: Evaluation, data: Dataset) -> TrainedClassifier:
        """The classifier of ``data``, on the evaluation's device; found where an earlier metric has kept it."""
        cache = cache_folder(evaluation, "classifiers")
        return trained_classifier(data, device=evaluation.device, cache=cache, **attrs.asdict(self))


def check_images(shape: Size) -> None:
    """Refuse items that a classifier can't take.

    Raises:
        ContractError: They are no images.
    """
    if len(shape) != 3:
        raise ContractError(f"a classifier takes images (channels, height, width), but items are {tuple(shape)}")


def trained_classifier(
    data: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
    steps: int = 1000,
    width: int = 16,
    size: int = 64,
) -> TrainedClassifier:
    """Train a classifier on the ``train`` split, and measure it on ``test``; or find it where it was kept.

    Arguments:
        data: Images with labels 0, 1, ...
        seed: Source of the first weights and of the order of rows.
        device: Where it is trained, and where its weights are.
        cache: Folder where classifiers are kept, by the hash of data and settings; ``None`` trains anew and keeps none.
        steps: Batches of 128 images.
        width: Channels after the first convolution.
        size: Count of features.

    Returns:
        The classifier.

    Raises:
        ContractError: A setting is out of its range, or the data are no images in [-1, 1].
        DataError: The data have no labels.
    """
    at_least(1).check(steps=steps, width=width, size=size)
    check_images(data.data_shape)
    train, test = data.split("train"), data.split("test")
    settings = {"version": _VERSION, "seed": seed, "steps": steps, "width": width, "size": size, "batch": _BATCH}
    kept: Path | None = None
    extent = Extent()
    if cache is not None:
        names = {"train": digest_of_split(train, extent), "test": digest_of_split(test, extent)}
        note = extent.of_data(_IMAGES)
        kept = cache / f"{digest_of_settings(settings | names)[:32]}.safetensors"
        if (found := _load(kept, data.data_shape, width, size, device)) is not None:
            return attrs.evolve(found, note=note)
    extent = Extent()
    classes = 1 + max(int(_labels(split, extent).max()) for split in (train, test))
    note = extent.of_data(_IMAGES)
    with torch.enable_grad(), isolated_rng(device):
        torch.manual_seed(derive_seed(seed, "classifier"))
        network = ClassifierNetwork(data.data_shape, classes, width, size).to(device)
        _train(network, train, steps, derive_seed(seed, "classifier", "rows"))
    accuracy = _accuracy(network, test)
    trained = _finished(network, accuracy, classes, data.data_shape)
    if kept is not None:
        _save(trained, kept, settings)
    return attrs.evolve(trained, note=note)


def _labels(split: Split, extent: Extent) -> Tensor:
    index = torch.arange(len(split))
    if len(split) == 0 or split.get(index[:1])[1] is None:
        raise DataError(
            "a classifier is trained on labelled images, and this data set has none; name one that has labels "
            "('dataset: {use: mnist}'), or another extractor"
        )
    labels = []
    for x, label in read_split(split):
        assert label is not None  # the first row has one
        extent.add(x)
        labels.append(label)
    return torch.cat(labels)


def _train(network: ClassifierNetwork, split: Split, steps: int, seed: int) -> None:
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    # Up over the first quarter and down to nothing: few steps are enough that way.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.25 * steps + 1), (steps - step) / (0.75 * steps + 1))
    )
    network.train()
    for _, batch in Loader(split, _BATCH, seed).batches(0, steps):
        assert batch.label is not None  # _labels has looked
        loss = functional.cross_entropy(network(batch.x.to(device)), batch.label.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _accuracy(network: ClassifierNetwork, split: Split) -> float:
    device = next(network.parameters()).device
    right = 0
    with frozen(network), torch.no_grad():
        for x, label in read_split(split):
            assert label is not None  # _labels has looked
            right += int((network(x.to(device)).argmax(1).cpu() == label).sum())
    return right / len(split)


def _finished(network: ClassifierNetwork, accuracy: float, classes: int, data_shape: Size) -> TrainedClassifier:
    network.eval().requires_grad_(False)
    return TrainedClassifier(network, accuracy, digest_of_tensors(network.state_dict()), classes, tuple(data_shape))


def _save(trained: TrainedClassifier, path: Path, settings: dict[str, int]) -> None:
    """The JSON comes last and names the weights' hash: a pair is whole, or is not there."""
    save_tensors(path, trained.network.state_dict())
    facts = {"accuracy": trained.accuracy, "digest": trained.digest, "classes": trained.classes, "settings": settings}
    write_atomically(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")


def _load(path: Path, data_shape: Size, width: int, size: int, device: torch.device | str) -> TrainedClassifier | None:
    """What lies there, unless it is absent, damaged, or another's."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        state = load_file(path)
        classes, accuracy = int(facts["classes"]), float(facts["accuracy"])
        if digest_of_tensors(state) != facts["digest"]:
            return None
    except Exception:  # safetensors raises an error of its own for a damaged file
        return None
    with isolated_rng(device):
        network = ClassifierNetwork(data_shape, classes, width, size)
    network.load_state_dict(state)
    return _finished(network.to(device), accuracy, classes, data_shape)
