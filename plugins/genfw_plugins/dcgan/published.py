"""Parameter names of the published LEBM and DAMC checkpoints, in our words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["convert"]


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published generator's or encoder's weights.

    Arguments:
        tensors: ``gen.0.weight``, ... of a generator, or ``net.0.weight``, ... of an encoder.

    Returns:
        The state of a :class:`~genfw_plugins.dcgan.decoder.DCGANDecoder`, or of a
        :class:`~genfw_plugins.dcgan.encoder.DCGANEncoder` with ``embedding``, of the same sizes.
    """
    return {
        f"net.{name.removeprefix('gen.')}" if name[:4] == "gen." else name: value for name, value in tensors.items()
    }
