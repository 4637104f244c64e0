"""Bare layers: a transposed-convolution generator, and a convolutional description of an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from genfw.errors import ContractError
from genfw_plugins.dcgan.presets import Last

SLOPE = 0.2


class Project(nn.ConvTranspose2d):
    r"""Transposed convolution of a 1x1 map: a matrix product, :math:`(B, d) \to (B, C, k, k)`.

    Weights and their initialisation are those of :class:`torch.nn.ConvTranspose2d`; the product is faster.

    Arguments:
        inputs: :math:`d`.
        channels: :math:`C`.
        side: :math:`k`.
    """

    def __init__(self, inputs: int, channels: int, side: int) -> None:
        super().__init__(inputs, channels, side)

    def forward(self, z: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Project a batch of vectors to feature maps."""
        assert self.bias is not None  # never switched off
        maps: Tensor = (z.flatten(1) @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        return maps + self.bias[:, None, None]


class Gather(nn.Conv2d):
    r"""Convolution as large as its map: a matrix product, :math:`(B, C, k, k) \to (B, e, 1, 1)`.

    Weights and their initialisation are those of :class:`torch.nn.Conv2d`; the product is faster.

    Arguments:
        channels: :math:`C`.
        outputs: :math:`e`.
        sides: :math:`k`, of both axes.
    """

    def __init__(self, channels: int, outputs: int, sides: tuple[int, int]) -> None:
        super().__init__(channels, outputs, sides)

    def forward(self, maps: Tensor) -> Tensor:
        """Map a batch of feature maps to vectors."""
        return nn.functional.linear(maps.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


def generator_side(start: int, factors: Sequence[int], last: Last) -> int:
    """Side of the images that :func:`generator` makes."""
    return start << (len(factors) - 1 + (last == "up"))


def generator(inputs: int, channels: int, width: int, start: int, factors: Sequence[int], last: Last) -> nn.Sequential:
    r"""Generator of DAMC Table S2: :math:`(B, d) \to (B, C, H, W)` in :math:`[-1, 1]`.

    A projection to a square of side ``start``, 4x4 transposed convolutions that double the side, and a last layer with
    tanh; LeakyReLU of slope 0.2 between them.

    Arguments:
        inputs: :math:`d`.
        channels: :math:`C`.
        width: Factor on the channels of every hidden layer.
        start: Side of the first feature map.
        factors: Channels of the hidden layers, in multiples of ``width``.
        last: Whether the last layer doubles the side (4x4) or keeps it (3x3).
    """
    if not factors or min(*factors, width, start) < 1:
        raise ContractError(f"width, start and every factor are at least 1; got {width}, {start}, {list(factors)}")
    widths = [width * factor for factor in factors]
    layers: list[nn.Module] = [Project(inputs, widths[0], start)]
    for before, after in pairwise(widths):
        layers += [nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(before, after, 4, 2, 1)]
    layers.append(nn.LeakyReLU(SLOPE))
    if last == "up":
        layers.append(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1))
    else:
        layers.append(nn.ConvTranspose2d(widths[-1], channels, 3, 1, 1))
    return nn.Sequential(*layers, nn.Tanh())


def inspector_side(side: int, factors: Sequence[int]) -> int:
    """Side of the last feature map of :func:`inspector`."""
    return side >> (len(factors) - 1)


def inspector(
    size: tuple[int, int, int], width: int, factors: Sequence[int], outputs: int, normalise: bool = True
) -> nn.Sequential:
    r"""Encoder of DAMC Table S4: :math:`(B, C, H, W) \to (B, e)`.

    A 3x3 convolution, 4x4 convolutions that halve the side, and one as large as the map that is left; instance
    normalisation and LeakyReLU of slope 0.2 after each but the last.

    Arguments:
        size: :math:`C, H, W`.
        width: Factor on the channels of every hidden layer.
        factors: Channels of the hidden layers, in multiples of ``width``.
        outputs: :math:`e`.
        normalise: Whether there is any normalisation.
    """
    channels, *sides = size
    if not factors or min(*factors, width, outputs) < 1:
        raise ContractError(f"width, every factor and the output are at least 1; got {width}, {list(factors)}")
    left = [inspector_side(side, factors) for side in sides]
    if min(left) < 2:
        raise ContractError(
            f"{len(factors)} layers are too many for {sides[0]}x{sides[1]} images: each but the first halves the side, "
            "and at least 2x2 must be left"
        )
    widths = [width * factor for factor in factors]
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *widths]):
        layers.append(nn.Conv2d(before, after, 4, 2, 1) if layers else nn.Conv2d(before, after, 3, 1, 1))
        layers.append(nn.InstanceNorm2d(after, affine=True) if normalise else nn.Identity())
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers, Gather(widths[-1], outputs, (left[0], left[1])), nn.Flatten())
