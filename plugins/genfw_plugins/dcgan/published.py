"""Generators of the published LEBM and DAMC checkpoints, in our words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from genfw.weights.importing import Conversion, sequential


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published generator's or encoder's weights.

    Arguments:
        tensors: ``gen.0.weight``, ... of a generator, or ``net.0.weight``, ... of an encoder.

    Returns:
        The state of a :class:`~genfw_plugins.dcgan.decoder.DCGANDecoder`, or of a
        :class:`~genfw_plugins.dcgan.encoder.DCGANEncoder` with ``embedding``, of the same sizes.
    """
    return {f"net.{name[4:]}" if name.startswith("gen.") else name: value for name, value in tensors.items()}


def read(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Conversion:
    """The generator in a published checkpoint, and the recipe's block it fits.

    The pixels' sigma is not in such a file; the block leaves it at its default.

    Arguments:
        tensors: Every tensor of the file by its path (DAMC's ``G_state_dict.gen.0.weight``; LEBM's
            ``netG.gen.0.weight``).
        arguments: The file's argument record, which is not needed.

    Raises:
        DataError: There are several generators in the file.
    """
    own, layers = sequential(tensors, "gen", "generator")
    if not layers:
        return Conversion({}, {})
    widths = [int(weight.shape[1]) for weight in layers[:-1]]
    width = math.gcd(*widths)
    block = {
        "use": "dcgan",
        "start": int(layers[0].shape[2]),
        "factors": [each // width for each in widths],
        "last": "same" if layers[-1].shape[2] == 3 else "up",
        "width": width,
    }
    return Conversion({f"decoder.{name}": value for name, value in convert(own).items()}, {"decoder": block})
