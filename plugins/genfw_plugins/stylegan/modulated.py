"""Synthesis network of StyleGAN2: modulated convolutions; images summed over the sides (skip), or residual maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from genfw.interfaces.values import Size
from genfw_plugins.stylegan.layers import (
    SLOPE,
    ScaledLinear,
    blurred,
    channels_at,
    doubled,
    layer_count,
    sides_up_to,
)


class _Layer(nn.Module):
    r"""A 3 x 3 convolution whose input channels the style scales, its outputs brought back to unit variance.

    :math:`y_o = s_o \sum_i W_{oi} * (m_i x_i)`, :math:`s_o = (\sum_{ik} (m_i W_{oik})^2 + \delta)^{-1/2}`: the maps are
    scaled instead of the weights, so that one convolution serves the whole batch.

    Arguments:
        side: Side of the maps that come out.
        inputs: Channels that come in.
        outputs: Channels that come out.
        width: Length of a style.
        double: Whether the side is doubled.
    """

    noise: Tensor

    def __init__(self, side: int, inputs: int, outputs: int, width: int, double: bool) -> None:
        super().__init__()
        self.up = double
        self.style = ScaledLinear(width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.register_buffer("noise", torch.randn(side, side))
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        #: What :meth:`power` gave, while the weights stand still.
        self.ready: Tensor | None = None

    def power(self) -> Tensor:
        """Sum of squared weights from each input to each output."""
        return self.weight.square().sum((2, 3))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, kernel: Tensor, gain: float) -> Tensor:
        style = self.style(w)
        # The activation's sqrt 2 and the block's gain go through a leaky ReLU, so they cost nothing here.
        gain = gain * math.sqrt(2.0)
        power = self.power() if self.ready is None else self.ready
        scale = gain * (functional.linear(style.square(), power) + 1e-8).rsqrt()
        x = x * style[:, :, None, None]
        if self.up:
            x = functional.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = blurred(x, kernel, 1, gain=4.0)
        else:
            x = functional.conv2d(x, self.weight, padding=1)
        plane = self.noise if noise is None else noise
        offset = gain * (self.strength * plane + self.bias[:, None, None])
        # In place: one map less is kept for the gradient.
        return functional.leaky_relu_(torch.addcmul(offset, x, scale[:, :, None, None]), SLOPE)


class _ToImage(nn.Module):
    """A 1 x 1 modulated convolution to the image's channels, its outputs left as they are."""

    def __init__(self, inputs: int, channels: int, width: int) -> None:
        super().__init__()
        self.style = ScaledLinear(width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w) / math.sqrt(self.weight.shape[1])
        # The weights are few, so here it is they that are scaled: (B, c, C) times (B, C, HW).
        image = torch.bmm(self.weight[None, :, :, 0, 0] * style[:, None], x.flatten(2))
        image = image.unflatten(2, x.shape[2:]) + self.bias[:, None, None]
        assert isinstance(image, Tensor)  # unflatten is not annotated
        return image


class Synthesis2(nn.Module):
    r"""From styles to an image, :math:`(B, L, d) \to (B, C, H, H)`, with :math:`L` styles, two for each side.

    ``skip``: each side makes an image, and they are summed, doubled on the way. ``resnet``: each side's maps are added
    to those before it, and the last make the image. What makes the image of a side takes the style of the next layer.
    NVIDIA's half-precision networks clamp their maps at 256 against overflow; here nothing is clamped.

    References: StyleGAN2 (arXiv 1912.04958) sections 2 and 4.1.

    Arguments:
        side: :math:`H`, a power of two.
        channels: :math:`C` of the image.
        width: :math:`d`.
        base: Channels of the maps are ``base / side``,
        most: but at most this.
        kind: ``skip`` or ``resnet``.
    """

    kernel: Tensor

    def __init__(
        self, side: int, channels: int, width: int, base: int, most: int, kind: Literal["skip", "resnet"]
    ) -> None:
        super().__init__()
        self.layer_count, self.kind = layer_count(side), kind
        sides = sides_up_to(side)
        widths = [channels_at(each, base, most) for each in sides]
        self.const = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = nn.ModuleList([_Layer(4, widths[0], widths[0], width, False)])
        self.images, self.shortcuts = nn.ModuleList(), nn.ParameterList()
        for number, (each, now) in enumerate(zip(sides, widths, strict=True)):
            if number:
                before = widths[number - 1]
                self.layers.append(_Layer(each, before, now, width, True))
                self.layers.append(_Layer(each, now, now, width, False))
                if kind == "resnet":
                    self.shortcuts.append(torch.randn(now, before, 1, 1))
            if kind == "skip" or each == side:
                self.images.append(_ToImage(now, channels, width))
        self.register_buffer("kernel", torch.tensor([1.0, 3.0, 3.0, 1.0]), persistent=False)
        #: Shape of the noise of each layer.
        self.noise_shapes: tuple[Size, ...] = tuple(
            (1, each, each) for number, each in enumerate(sides) for _ in range(2 if number else 1)
        )

    def forward(self, styles: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images of styles.

        Arguments:
            styles: One style per layer, with shape :math:`(B, L, d)`.
            noise: Noise of each layer, with shape :math:`(B, 1, h, h)`; the constants that were drawn at the beginning
                where absent.
        """
        given: Sequence[Tensor | None] = [None] * len(self.layers) if noise is None else noise
        resnet = self.kind == "resnet"
        x = self.const.expand(len(styles), *self.const.shape)
        x = self.layers[0](x, styles[:, 0], given[0], self.kernel, 1.0)
        image = None if resnet else self.images[0](x, styles[:, 1])
        for number in range(1, len(self.layers), 2):
            before = x
            x = self.layers[number](x, styles[:, number], given[number], self.kernel, 1.0)
            gain = math.sqrt(0.5) if resnet else 1.0
            x = self.layers[number + 1](x, styles[:, number + 1], given[number + 1], self.kernel, gain)
            if resnet:
                weight = self.shortcuts[number // 2]
                short = functional.conv2d(before, weight * math.sqrt(0.5 / weight.shape[1]))
                x = x + doubled(short, self.kernel)
            else:
                assert image is not None  # made before the loop
                image = doubled(image, self.kernel) + self.images[number // 2 + 1](x, styles[:, number + 2])
        if image is None:
            image = self.images[0](x, styles[:, -1])
        assert isinstance(image, Tensor)  # a module's result
        return image

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Inside the block the weights stand still, and what is made of them is made once."""
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        before = [layer.ready for layer in layers]
        try:
            for layer in layers:
                layer.ready = layer.power().detach()
            yield
        finally:
            for layer, power in zip(layers, before, strict=True):
                layer.ready = power
