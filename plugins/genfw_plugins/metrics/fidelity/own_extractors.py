"""Extractors of genfw's own in the form that torch-fidelity takes; importing this imports torch-fidelity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genfw import ContractError, Size
from genfw.nn.torchvision import import_torchvision
from genfw_plugins.metrics.common.classifier import TrainedClassifier

FeatureExtractorBase = import_torchvision("torch_fidelity.feature_extractor_base").FeatureExtractorBase

#: Classes of a joint label at most, where a classifier reads each channel by itself.
_JOINT = 10_000


class _OwnExtractor(FeatureExtractorBase):  # type: ignore[misc, valid-type]  # its type is known at run time only
    """Layers ``features`` and ``logits`` of images of any channels, uint8."""

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """See torch-fidelity."""
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """See torch-fidelity."""
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        """See torch-fidelity."""
        return False


class ClassifierExtractor(_OwnExtractor):
    """A classifier trained by genfw; one of grey images reads every channel of a colour image by itself.

    Features of the channels are then joined, and logits are those of the joint label: log-probabilities that add up.

    Arguments:
        classifier: The classifier.
        shape: Shape of the images.
        layers: Layers wanted.

    Raises:
        ContractError: The classifier takes images of another shape.
    """

    def __init__(self, classifier: TrainedClassifier, shape: Size, layers: Sequence[str]) -> None:
        super().__init__("classifier", list(layers))
        grey = (1, *shape[1:])
        if classifier.data_shape not in (shape, grey):
            raise ContractError(
                f"the classifier was trained on images of shape {classifier.data_shape}, and these have {tuple(shape)}"
            )
        self.network, self.apart = classifier.network, classifier.data_shape != shape
        if self.apart and "logits" in layers and classifier.classes ** shape[0] > _JOINT:
            raise ContractError(
                f"{classifier.classes} classes in each of {shape[0]} channels are too many joint classes to count"
            )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See torch-fidelity."""
        x = pixels.to(torch.float32) / 127.5 - 1.0
        channels = x.shape[1] if self.apart else 1
        # shape: (B, C, H, W) -> (B C, 1, H, W)
        features = self.network.features(x.flatten(0, 1).unsqueeze(1) if self.apart else x)
        found = {"features": features.unflatten(0, (-1, channels)).flatten(1)}
        if "logits" in self.features_list:
            logits = self.network.head(features)
            if self.apart:
                first, *others = functional.log_softmax(logits, 1).unflatten(0, (-1, channels)).unbind(1)
                for other in others:
                    first = (first[:, :, None] + other[:, None, :]).flatten(1)
                logits = first
            found["logits"] = logits
        return tuple(found[name] for name in self.features_list)


class RandomExtractor(_OwnExtractor):
    """Three random convolutions, always the same: features that need neither weights nor labels.

    Arguments:
        shape: Shape of the images.
        layers: Layers wanted.
    """

    def __init__(self, shape: Size, layers: Sequence[str]) -> None:
        super().__init__("random", list(layers))
        generator = torch.Generator().manual_seed(0)

        def normal(*sizes: int) -> nn.Parameter:
            fan = torch.Size(sizes[1:]).numel()
            # Always float32: a run in double precision sets another default type for its length.
            drawn = torch.randn(*sizes, generator=generator, dtype=torch.float32)
            return nn.Parameter(drawn * (2.0 / fan) ** 0.5, requires_grad=False)

        self.kernels = nn.ParameterList([normal(16, shape[0], 5, 5), normal(32, 16, 3, 3), normal(32, 32, 3, 3)])
        self.head = normal(10, 32)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See torch-fidelity."""
        x = pixels.to(torch.float32) / 127.5 - 1.0
        for kernel in self.kernels:
            x = functional.relu(functional.conv2d(x, kernel, stride=2, padding=kernel.shape[-1] // 2))
        features = x.mean((2, 3))
        found = {"features": features, "logits": functional.linear(features, self.head)}
        return tuple(found[name] for name in self.features_list)
