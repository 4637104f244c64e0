"""Amortizers of the published DAMC checkpoints, in our words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.weights.importing import Conversion, choose

_PLACE = re.compile(r"p\.(in|mid|out)_layers\.(\d+)\._layer\.0\.weight")
_SIDES = {"in": "down", "mid": "middle", "out": "up"}


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, and stack as our blocks hold them, a published amortizer's weights.

    The published constant token (``xemb``) is left out: nothing reads it beside the token made of noise.

    Arguments:
        tensors: ``p.*`` of the diffusion network, ``prior_emb.*`` of the null token, ``encoder.*``.

    Returns:
        The state of a :class:`~genfw_plugins.ddpm.amortizer.DDPM` with ``token: noise``, of the same sizes.

    Raises:
        ContractError: The names are not those of a published amortizer.
    """
    found = [match for name in tensors if (match := _PLACE.fullmatch(name))]
    if not found or "p.B" not in tensors or "prior_emb.0.weight" not in tensors:
        raise ContractError(
            "these are not the weights of a published DAMC amortizer: expected p.B, p.in_layers.*, p.mid_layers.*, "
            f"p.out_layers.*, prior_emb.* and encoder.*, got {', '.join(sorted(tensors)[:5])}, ..."
        )
    state = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    state["network.frequencies"] = tensors["p.B"]
    for theirs, ours in (("1", "0"), ("3", "2")):
        for part in ("weight", "bias"):
            state[f"network.time.net.{ours}.{part}"] = tensors[f"p.time_mlp.{theirs}.{part}"]
    for number in ("0", "2"):
        for part in ("weight", "bias"):
            state[f"null.{number}.{part}"] = tensors[f"prior_emb.{number}.{part}"]
    order = list(_SIDES)
    places = sorted((order.index(match[1]), int(match[2])) for match in found)
    conditions = []
    for place, index in places:
        side = order[place]
        theirs = f"p.{side}_layers.{index}"
        ours = f"network.{_SIDES[side]}" + ("" if side == "mid" else f".{index}")
        for part in ("weight", "bias"):
            pair = [tensors[f"{theirs}._layer.0.{part}"], tensors[f"{theirs}._skip.{part}"]]
            state[f"{ours}.inner.{part}"] = torch.cat(pair)
        pair = [tensors[f"{theirs}._hyper_gate.weight"], tensors[f"{theirs}._hyper_bias.weight"]]
        state[f"{ours}.steer.weight"] = torch.cat(pair)
        state[f"{ours}.gate"] = tensors[f"{theirs}._hyper_gate.bias"]
        conditions.append(f"{theirs}._layer_ctx.1")
    for part in ("weight", "bias"):
        state[f"network.condition.{part}"] = torch.cat([tensors[f"{name}.{part}"] for name in conditions])
    return state


def read(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Conversion:
    """The amortizer in a published checkpoint, and the recipe's block it fits.

    Beside the network under training (``Q``), which is read unless another is picked, a checkpoint has its moving
    average (``Q_dummy``).

    Arguments:
        tensors: Every tensor of the file by its path (``Q_state_dict.p.B``).
        arguments: The file's argument record, which is not needed.

    Raises:
        DataError: There are several amortizers in the file, none of them is ``Q``, and none is picked.
    """
    prefixes = [name.removesuffix("p.B") for name in tensors if f".{name}".endswith(".p.B")]
    prefix = choose(tensors, prefixes, "amortizer", default="Q_state_dict.")
    if prefix is None:
        return Conversion({}, {})
    # The constant token is not read, and so told of as unused.
    kept = [name for name in tensors if name.startswith(prefix) and name != f"{prefix}xemb"]
    own = {name.removeprefix(prefix): tensors[name] for name in kept}
    layers = [own[f"encoder.net.{number}.weight"] for number in _convolutions(own)]
    channels = [int(weight.shape[0]) for weight in layers[:-1]]
    width = math.gcd(*channels)
    down = sum(name.startswith("p.in_layers.") and name.endswith("._layer.0.weight") for name in own)
    block = {
        "use": "ddpm",
        "token": "noise",
        "widths": [int(own[f"p.in_layers.{number}._layer.0.weight"].shape[0]) for number in range(down)],
        "time_features": int(own["p.time_mlp.1.weight"].shape[0]),
        "encoder": {
            "use": "dcgan",
            "width": width,
            "factors": [each // width for each in channels],
            "embedding": int(layers[-1].shape[0]),
        },
    }
    return Conversion({f"amortizer.{name}": value for name, value in convert(own).items()}, {"amortizer": block})


def _convolutions(own: Mapping[str, Tensor]) -> list[int]:
    """Numbers of the encoder's convolutions among its layers."""
    found = (re.fullmatch(r"encoder\.net\.(\d+)\.weight", name) for name in own)
    return sorted(int(match[1]) for match in found if match is not None and own[match[0]].ndim == 4)
