"""The papers' networks as sizes: what ``architecture:`` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

Architecture = Literal["svhn", "celeba64", "cifar10", "celeba-hq-256", "mnist"]

#: Last layer of a decoder: a transposed convolution that doubles the side (``up``), or keeps it (``same``).
Last = Literal["up", "same"]


@attrs.frozen
class Preset:
    """Sizes of one decoder and one encoder.

    Arguments:
        start: Side of the decoder's first feature map.
        factors: Channels of the decoder's hidden layers, in multiples of its width.
        last: The decoder's last layer.
        width: Width of the decoder.
        encoder: Channels of the encoder's hidden layers, in multiples of its width.
    """

    start: int
    factors: tuple[int, ...]
    last: Last
    width: int
    encoder: tuple[int, ...]


#: Rows of Tables S2 and S4 of DAMC (arXiv 2310.03218).
PRESETS: Mapping[Architecture, Preset] = {
    "svhn": Preset(4, (8, 4, 2), "up", 64, (1, 2, 4, 8)),
    "celeba64": Preset(4, (8, 4, 2, 1), "up", 128, (1, 2, 4, 8, 8)),
    "cifar10": Preset(8, (8, 4, 2), "same", 128, (1, 2, 4, 8)),
    "celeba-hq-256": Preset(4, (16, 8, 4, 4, 2, 1), "up", 128, (1, 2, 4, 4, 8, 8, 8)),
    "mnist": Preset(7, (8, 4, 2), "same", 128, (1, 2, 4, 8)),
}
