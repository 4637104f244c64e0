"""Networks whose features images are compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genfw import ContractError, DataError, Settings
from genfw.nn.torchvision import import_torchvision
from genfw.plugins.validators import at_least
from genfw.runs.files import hash_file
from genfw.weights.torch_files import open_published

#: Name -> how the SHA-256 of torchvision's own weights begins; its file names carry the same digits.
_KNOWN = {"vgg16": "397923af"}

#: Mean and standard deviation of colours in [0, 1] that torchvision's networks were trained with.
_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class FeatureNetwork(nn.Module):
    """A frozen network on images in [-1, 1], grey or RGB: colours as torchvision's networks want them, then layers.

    It is in eval mode, whatever the network is in that it is part of.

    Arguments:
        layers: From normalised RGB images to features.
        size: Side that images are brought to before; as they are where absent.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, layers: nn.Module, size: int | None = None) -> None:
        super().__init__()
        self.layers, self.size = layers, size
        for name, value in zip(("mean", "scale"), _COLOURS, strict=True):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images :math:`(B, C, H, W)`."""
        x = x.expand(-1, 3, -1, -1)
        if self.size is not None:
            x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        features: Tensor = self.layers((0.5 * x + 0.5 - self.mean) / self.scale)
        return features


@attrs.define(kw_only=True, eq=False, slots=False)
class Features(Settings):
    r"""A feature network :math:`F`, and how much its error counts beside that of pixels.

    Arguments:
        network: A classifier of torchvision by its name there, or ``random``: a small convolutional network whose
            weights are drawn from a fixed seed, for tests and smoke runs.
        layer: The layer whose output is taken, by its name in the network; 22 is the ReLU after the third convolution
            of VGG16's fourth block.
        weights: torchvision's file of weights (.pth), or a safetensors file.
        sha256: How the file's SHA-256 begins; that of torchvision's file where absent and known.
        weight: :math:`\lambda`, see :class:`~genfw_plugins.stylegan.perceptual.Perceptual`.
        size: Side that images are brought to before; as they are where absent.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"network": "random", "weights": None, "size": 32}

    network: str = "vgg16"
    layer: str = "features.22"
    weights: Path | None = None
    sha256: str | None = None
    weight: float = attrs.field(default=0.1, validator=at_least(0))
    size: int | None = None

    def build(self) -> FeatureNetwork:
        """The network, with its weights.

        Raises:
            ContractError: There is no such network or layer, or no file was given.
            DataError: There is no such file, it is another one, or it does not fit.
        """
        return FeatureNetwork(_random() if self.network == "random" else self._published(), self.size)

    def digest(self) -> str:
        """What the protocol of a metric says about the network."""
        name = self.network if self.network == "random" else f"{self.network}, {self.layer}"
        return name if self.weights is None else f"{name}, {hash_file(self.weights)[:16]}"

    def _published(self) -> nn.Module:
        models = import_torchvision("torchvision.models")
        extraction = import_torchvision("torchvision.models.feature_extraction")
        if self.network not in models.list_models(module=models):
            raise ContractError(f"torchvision has no classifier '{self.network}'; 'vgg16' is the usual one")
        if self.weights is None:
            raise ContractError(
                f"features of '{self.network}' need its weights: fetch torchvision's file "
                f"({models.get_model_weights(self.network).DEFAULT.url}) and name it by weights"
            )
        tensors = self._read(self.weights)
        # On the meta device: of a classifier's many weights only those up to the layer are ever made.
        with torch.device("meta"):
            whole = models.get_model(self.network, weights=None).eval()
        try:
            body: nn.Module = extraction.create_feature_extractor(whole, {self.layer: "features"})
        except ValueError as error:
            raise ContractError(f"'{self.network}' has no layer '{self.layer}': {error}") from error
        wanted = body.state_dict()
        wrong = [name for name, value in wanted.items() if name not in tensors or tensors[name].shape != value.shape]
        if wrong:
            raise DataError(f"{self.weights} does not fit '{self.network}': it lacks {', '.join(wrong[:3])}")
        body.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
        return _Only(body)

    def _read(self, file: Path) -> Mapping[str, Tensor]:
        if not file.is_file():
            raise DataError(f"there is no file {file} with the weights of '{self.network}'")
        expected = self.sha256 or _KNOWN.get(self.network, "")
        found = hash_file(file)
        if not found.startswith(expected.lower()):
            raise DataError(
                f"{file} is not the file that was meant: its SHA-256 is {found}, and should begin with {expected}; "
                "give its own by sha256 if it is the right one"
            )
        if file.suffix == ".safetensors":
            return load_file(file)
        with open_published(file) as published:
            return {name: published.tensors[name] for name in published.tensors}


class _Only(nn.Module):
    """The one output of torchvision's extractor."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)["features"]
        return features


def _random() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 16)):
        convolution = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, 2, 1, bias=False)
        with torch.no_grad():
            convolution.weight.normal_(0.0, math.sqrt(2.0 / (9 * inputs)), generator=generator)
        layers += [convolution, nn.SiLU()]
    return nn.Sequential(*layers)
