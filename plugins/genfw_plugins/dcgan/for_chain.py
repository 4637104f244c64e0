"""The generator made ready for a chain: weights laid out once, gradient by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.nn.choices import chosen
from genfw.nn.manual_grad import ByHand, Pullback, by_hand, in_turn
from genfw_plugins.dcgan.network import Project
from genfw_plugins.dcgan.products import Products
from genfw_plugins.dcgan.winograd import WinogradDoubling

#: Least channels that come out of a doubling layer for which anything but torch's own way is worth its passes over
#: memory; measured with AVX2, as the others are.
CHANNELS = 128
#: Winograd's method wants this saving of multiplications, and as many pixels in the batch.
SAVING, PIXELS = 1.3, 256
#: Greatest side of a map that products of matrices pay for.
SIDE = 8
#: Most channels out, an image's, that are summed from every pixel's share of the result.
FEW = 4


class StillGenerator:
    r"""What :func:`genfw_plugins.dcgan.network.generator` computes, with its pull-back, on the weights of now.

    Maps lie channels last. On a CPU, wide layers that double the side go through
    :class:`~genfw_plugins.dcgan.winograd.WinogradDoubling` in full precision, small maps through
    :class:`~genfw_plugins.dcgan.products.Products`, the image's few channels are summed from every pixel's share, or
    any of them goes through what :mod:`genfw.nn.choices` finds faster.

    Arguments:
        layers: The generator.
        dtype: What maps and weights are kept in; latents and images stay as they are.
    """

    def __init__(self, layers: nn.Sequential, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._layers: list[ByHand] = []
        side = 1
        for layer, following in pairwise([*layers, None]):
            if isinstance(layer, Project):
                side = layer.kernel_size[0]
                self._layers.append(_project(layer, dtype))
            elif isinstance(layer, nn.ConvTranspose2d):
                self._layers.append(_convolve(layer, side, dtype))
                side *= layer.stride[0]
            elif isinstance(layer, nn.LeakyReLU):
                self._layers.append(by_hand(layer, inplace=True))
            elif not isinstance(layer, nn.Tanh) or following is not None:
                raise TypeError(f"no gradient is written for the layer {layer}")

    def __call__(self, z: Tensor) -> tuple[Tensor, Pullback]:
        r"""Images :math:`(B, C, H, W)` of latents :math:`(B, d)`, and the pull-back from them."""
        h, pull_maps = in_turn(self._layers)(z.to(self.dtype))
        image = h.permute(0, 3, 1, 2).to(z.dtype, memory_format=torch.contiguous_format, copy=True).tanh_()

        def pull(gradient: Tensor) -> Tensor:
            gradient = torch.ops.aten.tanh_backward(gradient, image)
            gradient = gradient.permute(0, 2, 3, 1).to(self.dtype, memory_format=torch.contiguous_format)
            return pull_maps(gradient).to(z.dtype)

        return image, pull


def _project(layer: Project, dtype: torch.dtype) -> ByHand:
    assert layer.bias is not None  # never switched off
    inputs, channels, side, _ = layer.weight.shape
    weight = layer.weight.detach().permute(0, 2, 3, 1).reshape(inputs, -1).to(dtype)
    bias = layer.bias.detach().repeat(side * side).to(dtype)

    def forward(z: Tensor) -> tuple[Tensor, Pullback]:
        maps = torch.addmm(bias, z, weight).view(-1, side, side, channels)
        return maps, lambda g: g.reshape(len(g), -1) @ weight.t()

    return forward


def _convolve(layer: nn.ConvTranspose2d, side: int, dtype: torch.dtype) -> ByHand:
    assert layer.bias is not None  # never switched off
    weight, bias = layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)
    stride, padding = int(layer.stride[0]), int(layer.padding[0])
    ways: dict[str, Callable[[], ByHand]] = {"plain": lambda: _plain(weight, bias, stride, padding)}
    inputs, outputs = weight.shape[:2]
    exact = dtype in (torch.float32, torch.float64)
    work = f"doubling of {inputs} to {outputs} channels" if stride == 2 else f"{inputs} to {outputs} channels"
    if weight.device.type != "cpu":
        return chosen(work, ways, "plain")
    if outputs <= FEW and exact:
        ways["shares"] = lambda: _shares(weight, bias, stride, padding)
        return chosen(work, ways, "shares")
    if stride != 2:
        return chosen(work, ways, "plain")
    ways["products"] = lambda: Products(weight, bias, side)
    if exact:
        ways["winograd"] = lambda: WinogradDoubling(weight, bias, side)
    if outputs < CHANNELS:
        return chosen(work, ways, "plain")
    saves = "winograd" in ways and WinogradDoubling.saving(side) >= SAVING

    def rule(h: Tensor) -> str:
        pixels = len(h) * side**2
        if saves and pixels >= PIXELS:
            return "winograd"
        few = pixels <= PIXELS or outputs >= 2 * CHANNELS or dtype == torch.bfloat16
        return "products" if side <= SIDE and few else "plain"

    return chosen(work, ways, rule)


def _plain(weight: Tensor, bias: Tensor, stride: int, padding: int) -> ByHand:
    weight = weight.contiguous(memory_format=torch.channels_last)

    def forward(h: Tensor) -> tuple[Tensor, Pullback]:
        maps = F.conv_transpose2d(_first(h), weight, bias, stride, padding)
        return _last(maps), partial(_gathered, weight=weight, stride=stride, padding=padding)

    return forward


def _shares(weight: Tensor, bias: Tensor, stride: int, padding: int) -> ByHand:
    """For few channels out: what each pixel adds to the image around it, as one product of matrices, then their sum."""
    inputs, _, kernel, _ = weight.shape
    matrix = weight.permute(1, 2, 3, 0).reshape(-1, inputs)
    weight = weight.contiguous(memory_format=torch.channels_last)

    def forward(h: Tensor) -> tuple[Tensor, Pullback]:
        side = h.shape[1]
        shares = matrix @ h.flatten(1, 2).transpose(1, 2)
        maps = F.fold(shares, (side - 1) * stride - 2 * padding + kernel, kernel, 1, padding, stride)
        return _last(maps.add_(bias.view(-1, 1, 1))), partial(_gathered, weight=weight, stride=stride, padding=padding)

    return forward


def _gathered(gradient: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The transpose of a transposed convolution: the convolution with the same weights."""
    return _last(F.conv2d(_first(gradient), weight, None, stride, padding))


def _first(h: Tensor) -> Tensor:
    return h.permute(0, 3, 1, 2)


def _last(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1).contiguous()
