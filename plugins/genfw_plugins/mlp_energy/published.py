"""Parameter names of the published LEBM and DAMC checkpoints, in our words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["convert"]


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published latent energy's weights.

    Arguments:
        tensors: ``ebm.0.weight``, ...; the published sign is ours, low where samples should lie.

    Returns:
        The state of a :class:`~genfw_plugins.mlp_energy.energy.MLPEnergy` on the latent, with ``leaky-relu`` between
        two hidden layers.
    """
    return {
        f"net.{name.removeprefix('ebm.')}" if name[:4] == "ebm." else name: value for name, value in tensors.items()
    }
