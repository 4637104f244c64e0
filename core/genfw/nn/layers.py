"""Plain layers that several plugins share, independent of any data set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from genfw.errors import ContractError

Activation = Literal["silu", "relu", "gelu", "leaky-relu", "tanh"]


def activation_layer(name: Activation) -> nn.Module:
    """The activation of that name; ``leaky-relu`` has slope 0.2, as energies and GANs use it."""
    match name:
        case "silu":
            return nn.SiLU()
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU()
        case "leaky-relu":
            return nn.LeakyReLU(0.2)
        case "tanh":
            return nn.Tanh()


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation = "silu") -> nn.Sequential:
    """Fully connected layers: ``inputs -> hidden[0] -> ... -> outputs``, an activation after each but the last.

    Arguments:
        inputs: Width of the input.
        hidden: Width of each hidden layer; empty gives one linear map.
        outputs: Width of the output.
        activation: Between the layers.
    """
    widths = [inputs, *hidden, outputs]
    if min(widths) < 1:
        raise ContractError(f"every layer needs a width of at least 1, got {widths}")
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        if index:
            layers.append(activation_layer(activation))
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)
