"""Synthesis network of the first StyleGAN: adaptive instance normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from genfw.interfaces.values import Size
from genfw_plugins.stylegan.layers import SLOPE, ScaledLinear, blurred, channels_at, layer_count, sides_up_to


class _Finish(nn.Module):
    r"""What follows each convolution: noise, bias, leaky ReLU, instance normalisation, style.

    Arguments:
        side: Side of the maps.
        channels: :math:`C`.
        width: Length of a style.
    """

    noise: Tensor

    def __init__(self, side: int, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(side, side))
        self.strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = ScaledLinear(width, 2 * channels)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        plane = self.noise if noise is None else noise
        x = x + (self.strength[:, None, None] * plane + self.bias[:, None, None])
        x = functional.leaky_relu_(x, SLOPE)  # in place: one map less is kept for the gradient
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
        scale, shift = self.style(w).chunk(2, dim=1)
        # One multiplication and one addition on the maps: normalisation and style are both affine, channel by channel.
        factor = (1.0 + scale) * (variance + 1e-8).rsqrt()
        return torch.addcmul((shift - mean * factor)[:, :, None, None], x, factor[:, :, None, None])


class Synthesis(nn.Module):
    r"""From styles to an image, :math:`(B, L, d) \to (B, C, H, H)`, with :math:`L` styles, two for each side.

    Every other layer doubles the side: pixels repeated, then a 3 x 3 convolution, then a small blur. Repeating and
    convolving are done as one transposed convolution with 4 x 4 weights; the 3 x 3 weights of those layers are stored
    turned by 180 degrees, as that takes them.

    References: StyleGAN (arXiv 1812.04948) section 2, App. C.

    Arguments:
        side: :math:`H`, a power of two.
        channels: :math:`C` of the image.
        width: :math:`d`.
        base: Channels of the maps are ``base / side``,
        most: but at most this.
        lod: How many of the last sides are left out, the image being made at :math:`H / 2^{lod}` and its pixels
            repeated, as in the middle of progressive growing; their styles have no effect.
    """

    blur: Tensor

    def __init__(self, side: int, channels: int, width: int, base: int, most: int, lod: int = 0) -> None:
        super().__init__()
        self.layer_count, self.repeats = layer_count(side), 2**lod
        sides = sides_up_to(side >> lod)
        widths = [channels_at(each, base, most) for each in sides]
        self.const = nn.Parameter(torch.ones(widths[0], 4, 4))
        self.weights = nn.ParameterList()
        self.finishes = nn.ModuleList([_Finish(4, widths[0], width)])
        for number, (each, now) in enumerate(zip(sides, widths, strict=True)):
            if number:
                self.weights.append(torch.randn(widths[number - 1], now, 3, 3))
                self.finishes.append(_Finish(each, now, width))
            self.weights.append(torch.randn(now, now, 3, 3))
            self.finishes.append(_Finish(each, now, width))
        self.to_image = nn.Parameter(torch.randn(channels, widths[-1], 1, 1))
        self.image_bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("blur", torch.tensor([1.0, 2.0, 1.0]), persistent=False)
        self._ready: list[Tensor] = []
        #: Shape of the noise of each layer.
        self.noise_shapes: tuple[Size, ...] = tuple((1, each, each) for each in sides for _ in range(2))

    def forward(self, styles: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images of styles.

        Arguments:
            styles: One style per layer, with shape :math:`(B, L, d)`.
            noise: Noise of each layer, with shape :math:`(B, 1, h, h)`; the constants that were drawn at the beginning
                where absent.
        """
        kernels = self._ready or self.kernels()
        x = self.const.expand(len(styles), *self.const.shape)
        for number, finish in enumerate(self.finishes):
            if number:
                x = self._convolve(x, number, kernels[number - 1])
            x = finish(x, styles[:, number], None if noise is None else noise[number])
        scale = 1.0 / math.sqrt(self.to_image.shape[1])
        image = functional.conv2d(x, self.to_image * scale, self.image_bias)
        return image if self.repeats == 1 else functional.interpolate(image, scale_factor=self.repeats)

    def kernels(self) -> list[Tensor]:
        """Weights of every convolution as it is carried out: scaled, and 4 x 4 where the side is doubled."""
        ready = []
        for number, weight in enumerate(self.weights, start=1):
            if number % 2:
                ready.append(weight * math.sqrt(2.0 / weight[0].numel()))
                continue
            weight = weight * math.sqrt(2.0 / (9 * weight.shape[0]))
            wide = sum(functional.pad(weight, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1))
            assert isinstance(wide, Tensor)  # a sum of four
            ready.append(wide)
        return ready

    def _convolve(self, x: Tensor, number: int, kernel: Tensor) -> Tensor:
        if number % 2:
            return functional.conv2d(x, kernel, padding=1)
        return blurred(functional.conv_transpose2d(x, kernel, stride=2, padding=1), self.blur, 1)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Inside the block the weights stand still, and what is made of them is made once."""
        before, self._ready = self._ready, [kernel.detach() for kernel in self.kernels()]
        try:
            yield
        finally:
            self._ready = before
