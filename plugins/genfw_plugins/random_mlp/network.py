"""Fully connected layers with normal weights, which decoder and data set make alike from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.nn.layers import Activation, activation_layer
from genfw.plugins.validators import at_least, positive
from genfw.randomness import derive_seed


class RandomMLP(nn.Module):
    r"""Fully connected layers with weights :math:`N(0, w^2)` and biases :math:`N(0, b^2)`, drawn once.

    They are buffers: saved with the model, and out of every optimiser's reach.

    Arguments:
        inputs: Width of the input.
        hidden: Width of each hidden layer.
        outputs: Width of the output.
        activation: Between the layers.
        weight_std: :math:`w`.
        bias_std: :math:`b`.
        seed: Says which network; the same arguments give the same one.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: Activation,
        weight_std: float,
        bias_std: float,
        seed: int,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        at_least(1).check(widths=widths)
        positive.check(weight_std=weight_std)
        at_least(0).check(bias_std=bias_std)
        generator = torch.Generator().manual_seed(derive_seed(seed, "random-mlp"))
        for number, (before, after) in enumerate(pairwise(widths)):
            weight = torch.randn(after, before, generator=generator, dtype=torch.float32)
            bias = torch.randn(after, generator=generator, dtype=torch.float32)
            self.register_buffer(f"weight{number}", weight_std * weight)
            self.register_buffer(f"bias{number}", bias_std * bias)
        self.layers = len(widths) - 1
        self.between = activation_layer(activation)

    def forward(self, z: Tensor) -> Tensor:
        r"""Map :math:`(B, \text{inputs})` to :math:`(B, \text{outputs})`."""
        for number in range(self.layers):
            if number:
                z = self.between(z)
            z = F.linear(z, self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}"))
        return z
