"""The network that a StyleGAN plays against."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from genfw.nn.precision import apply_in_full, full
from genfw_plugins.stylegan.layers import SLOPE, ScaledLinear, channels_at, sides_up_to


class _Convolution(nn.Module):
    """A convolution with equalised learning rate, its activation included where it has a bias."""

    def __init__(self, inputs: int, outputs: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.padding = 1.0 / math.sqrt(self.weight[0].numel()), size // 2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)
        if self.bias is not None:
            y = functional.leaky_relu(y, SLOPE) * math.sqrt(2.0)
        return y


class _Block(nn.Module):
    """Maps of half the side: two convolutions and an average, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _Convolution(inputs, inputs, 3), _Convolution(inputs, outputs, 3)
        self.shortcut = _Convolution(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.avg_pool2d(self.second(self.first(x)), 2)
        result: Tensor = (y + self.shortcut(functional.avg_pool2d(x, 2))) * math.sqrt(0.5)
        return result


class Critic(nn.Module):
    r"""Residual discriminator, :math:`(B, C, H, H) \to (B,)`, high for data.

    Before the last layers it sees how much the images of its group of at most four differ, as one more map.

    References: StyleGAN2 (arXiv 1912.04958) section 4.1; Karras et al. 2018 (arXiv 1710.10196) section 3.

    Arguments:
        side: :math:`H`, a power of two.
        channels: :math:`C`.
        base: Channels of the maps of a side are ``base / side``,
        most: but at most this.
    """

    def __init__(self, side: int, channels: int, base: int, most: int) -> None:
        super().__init__()
        widths = [channels_at(each, base, most) for each in reversed(sides_up_to(side))]
        self.first = _Convolution(channels, widths[0], 1)
        self.blocks = nn.ModuleList(_Block(before, after) for before, after in pairwise(widths))
        self.last = _Convolution(widths[-1] + 1, widths[-1], 3)
        self.hidden = ScaledLinear(16 * widths[-1], widths[-1], gain=math.sqrt(2.0))
        self.score = ScaledLinear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        group = next(size for size in (4, 3, 2, 1) if len(x) % size == 0)
        spread = full(x).unflatten(0, (group, -1)).var(0, correction=0).add(1e-8).sqrt().mean((1, 2, 3))
        plane = spread.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        x = self.last(torch.cat([x, plane], dim=1)).flatten(1)
        return apply_in_full(self.score, functional.leaky_relu(self.hidden(x), SLOPE)).squeeze(1)
