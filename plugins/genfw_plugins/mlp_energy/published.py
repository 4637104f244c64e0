"""Latent energies of the published LEBM and DAMC checkpoints, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from genfw.weights.importing import Conversion, sequential


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published latent energy's weights.

    Arguments:
        tensors: ``ebm.0.weight``, ...; the published sign is ours, low where samples should lie.

    Returns:
        The state of a :class:`~genfw_plugins.mlp_energy.energy.MLPEnergy` on the latent, with ``leaky-relu`` between
        layers of the same sizes.
    """
    return {f"net.{name[4:]}" if name.startswith("ebm.") else name: value for name, value in tensors.items()}


def read(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Conversion:
    """The latent energy in a published checkpoint, and the recipe's block it fits.

    Arguments:
        tensors: Every tensor of the file by its path (DAMC's ``E_state_dict.ebm.0.weight``; LEBM's
            ``netE.ebm.0.weight``).
        arguments: The file's argument record, which is not needed.

    Raises:
        DataError: There are several energies in the file.
    """
    own, layers = sequential(tensors, "ebm", "energy")
    if not layers:
        return Conversion({}, {})
    hidden = [int(weight.shape[0]) for weight in layers[:-1]]
    block = {"use": "mlp", "on": "latent", "hidden": hidden, "activation": "leaky-relu"}
    return Conversion({f"energy.{name}": value for name, value in convert(own).items()}, {"energy": block})
