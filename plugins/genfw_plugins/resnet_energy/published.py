"""Weights of VAEBM's published energies, in this plugin's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genfw.errors import DataError
from genfw.weights.importing import Conversion, choose
from genfw_plugins.resnet_energy.energy import PRESETS, read_block

#: Theirs -> ours.
_LAYERS = ((r"^conv1\b", "stem"), (r"^linear\b", "head"), (r"\.skip\.0\b", ".skip"))
_TENSORS = ((r"\.log_weight_norm$", ".parametrizations.weight.original1"),)
_WEIGHT = re.compile(r"\.weight$")


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the published network in the names of :class:`ResNetEnergy`, marked as initialised.

    Arguments:
        tensors: The published names (``conv1.log_weight_norm``, ``blocks.0.skip.0.weight``, ...) and weights.
    """
    converted = {}
    for theirs in tensors:
        ours = theirs
        for pattern, new in (*_LAYERS, *_TENSORS):
            ours = re.sub(pattern, new, ours)
        if f"{theirs.removesuffix('.weight')}.log_weight_norm" in tensors:
            ours = _WEIGHT.sub(".parametrizations.weight.original0", ours)
        converted[ours] = tensors[theirs]
    return {**converted, "initialised": torch.tensor(True)}


def read(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Conversion:
    """The energy in a published checkpoint, and the recipe's block it fits.

    Arguments:
        tensors: Every tensor of the file by its path (``model.conv1.weight``).
        arguments: The file's argument record; VAEBM's checkpoints have none.

    Raises:
        DataError: There is no energy of this kind in the file, or there are several and none is picked.
    """
    marks = [name.removesuffix("conv1.log_weight_norm") for name in tensors if re.search(r"(^|\.)conv1\.log", name)]
    prefix = choose(tensors, [mark for mark in marks if f"{mark}linear.weight" in tensors], "energy")
    if prefix is None:
        raise DataError(
            "a VAEBM energy has tensors conv1.log_weight_norm and linear.weight, side by side; 0 such pairs are in "
            "this file"
        )
    own = {
        name.removeprefix(prefix): tensors[name]
        for name in tensors
        if re.match(re.escape(prefix) + r"(conv1|linear|blocks\.\d+)\.", name)
    }
    block = {"use": "resnet", **_architecture(own)}
    return Conversion({f"energy.{name}": value for name, value in convert(own).items()}, {"energy": block})


def _architecture(own: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = own["conv1.weight"].shape[0]
    numbers = sorted({int(name.split(".")[1]) for name in own if name.startswith("blocks.")})
    widths = [int(own[f"blocks.{number}.conv1.weight"].shape[0]) for number in numbers]
    for preset, (first, blocks) in PRESETS.items():
        width = stem / first
        if [round(read_block(block)[0] * width) for block in blocks] == widths:
            return {"preset": preset, "width": width}
    # The weights do not tell where an unknown network halves its images.
    raise DataError(f"the blocks' channels {widths} after a first convolution of {stem} are no network of Table 7")
