"""The residual energy made ready for a chain: weights laid out once, gradient by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.nn.choices import chosen
from genfw.nn.manual_grad import ByHand, Pullback, by_hand, in_turn
from genfw_plugins.resnet_energy.network import SLOPE, SWISH, Activation, NormedConv, ResBlock
from genfw_plugins.resnet_energy.winograd import Winograd

#: Least saving of multiplications for which Winograd's transforms are worth their passes over memory, least channels on
#: both sides and on the wider one, and least pixels of a side: below them the plain sum is as fast on a processor with
#: AVX2.
SAVING, CHANNELS, WIDER, SIDE = 2.0, 64, 128, 7
#: Least images of a batch for them, and least tiles of all its images: their matrices have a row for each tile.
IMAGES, TILES = 2, 16


class StillEnergy:
    r"""What :class:`~genfw_plugins.resnet_energy.energy.ResNetEnergy` makes of its input, on the weights of now.

    Maps lie channels last. What Swish is divided by goes into the weights that follow, a batch norm into those before
    it. A block that halves takes the mean of four pixels within the convolution before it: a 4x4 kernel at every other
    pixel, 2.25 times less work, and a quarter of it in the shortcut. On a CPU, wide convolutions go through
    :class:`~genfw_plugins.resnet_energy.winograd.Winograd`, or what :mod:`genfw.nn.choices` finds faster.

    Arguments:
        stem: The first convolution.
        blocks: The blocks, in eval mode.
        head: Linear map of the features' sums.
        activation: After the stem and in the blocks.
        size: Height and width of the images.
        dtype: What maps and weights are kept in; images, sums over them and energies stay as they are.
    """

    def __init__(
        self,
        stem: NormedConv,
        blocks: Iterable[ResBlock],
        head: nn.Linear,
        activation: Activation,
        size: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        gain = 1.0 / SWISH if activation == "swish" else 1.0
        act = by_hand(nn.SiLU() if activation == "swish" else nn.LeakyReLU(SLOPE), inplace=True)
        layers: list[ByHand] = [_convolution(*_folded(stem, nn.Identity(), 1.0, dtype), size), act]
        for block in blocks:
            layers += [_block(block, act, gain, size, dtype), act]
            size = (size[0] // 2, size[1] // 2) if block.down else size
        self._features = in_turn(layers)
        self.weight, self.bias = gain * head.weight.detach(), head.bias.detach()

    def __call__(self, x: Tensor) -> tuple[Tensor, Pullback]:
        r"""Energies :math:`(B,)` of images :math:`(B, C, H, W)`, and the pull-back from them."""
        h, pull_features = self._features(_last(x).to(self.dtype))
        shape = h.shape
        energy = F.linear(h.sum(dim=(1, 2), dtype=x.dtype), self.weight, self.bias).squeeze(1)

        def pull(gradient: Tensor) -> Tensor:
            slope = (gradient[:, None] * self.weight).to(self.dtype)[:, None, None].expand(shape).contiguous()
            return _first(pull_features(slope)).to(x.dtype)

        return energy, pull


def _block(block: ResBlock, act: ByHand, gain: float, size: tuple[int, int], dtype: torch.dtype) -> ByHand:
    """What comes before the block's last activation; ``gain`` is what its input is still to be multiplied by."""
    first = _convolution(*_folded(block.conv1, block.norm1, gain, dtype), size)
    kernel, bias = _folded(block.conv2, block.norm2, gain, dtype)
    second = _halving(kernel, bias) if block.down else _convolution(kernel, bias, size)
    skip = None
    if block.skip is not None:
        skip = _shortcut((gain * block.skip.weight.detach()[:, :, 0, 0]).to(dtype), block.down)

    def forward(h: Tensor) -> tuple[Tensor, Pullback]:
        branch, pull_first = first(h)
        branch, pull_act = act(branch)
        branch, pull_second = second(branch)
        straight, pull_skip = (h * gain, lambda g: g * gain) if skip is None else skip(h)

        def pull(gradient: Tensor) -> Tensor:
            return pull_first(pull_act(pull_second(gradient))).add_(pull_skip(gradient))

        return branch.add_(straight), pull

    return forward


def _folded(conv: NormedConv, norm: nn.Module, gain: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution of ``gain`` times its input, with the batch norm after it."""
    assert conv.bias is not None  # shortcuts alone have none
    kernel, bias = gain * conv.weight.detach(), conv.bias.detach()
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None  # batch norms of this plugin track them
        assert norm.running_var is not None
        factor = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        kernel, bias = kernel * factor.view(-1, 1, 1, 1), (bias - norm.running_mean) * factor + norm.bias.detach()
    return kernel.to(dtype), bias.to(dtype)


def _convolution(kernel: Tensor, bias: Tensor | None, size: tuple[int, int]) -> ByHand:
    """A convolution that keeps the size."""
    ways: dict[str, Callable[[], ByHand]] = {"plain": lambda: _strided(kernel, bias, 1)}
    if kernel.device.type == "cpu" and kernel.shape[2] == 3 and kernel.dtype in (torch.float32, torch.float64):
        ways["winograd"] = lambda: Winograd(kernel, bias)
    wide = min(kernel.shape[:2]) >= CHANNELS and max(kernel.shape[:2]) >= WIDER
    wide = wide and min(size) >= SIDE and Winograd.saving(*size) >= SAVING
    work = f"convolution of {kernel.shape[1]} to {kernel.shape[0]} channels, {kernel.shape[2]} pixels wide"
    if not wide or "winograd" not in ways:
        return chosen(work, ways, "plain")
    least = max(IMAGES, -(-TILES // Winograd.tiles(*size)))
    return chosen(work, ways, lambda h: "winograd" if len(h) >= least else "plain")


def _halving(kernel: Tensor, bias: Tensor | None) -> ByHand:
    """A 3x3 convolution and the mean over 2x2 pixels after it, as one with a 4x4 kernel."""
    wide = F.pad(kernel, (0, 1, 0, 1)) + F.pad(kernel, (1, 0, 0, 1))
    wide = wide + F.pad(kernel, (0, 1, 1, 0)) + F.pad(kernel, (1, 0, 1, 0))
    return _strided(0.25 * wide, bias, 2)


def _strided(kernel: Tensor, bias: Tensor | None, stride: int) -> ByHand:
    kernel = kernel.contiguous(memory_format=torch.channels_last)

    def forward(h: Tensor) -> tuple[Tensor, Pullback]:
        rest = (h.shape[1] % stride, h.shape[2] % stride)

        def pull(gradient: Tensor) -> Tensor:
            return _last(F.conv_transpose2d(_first(gradient), kernel, None, stride, 1, rest))

        return _last(F.conv2d(_first(h), kernel, bias, stride, 1)), pull

    return forward


def _shortcut(weight: Tensor, down: bool) -> ByHand:
    """A 1x1 convolution, of the means over 2x2 pixels where the block halves."""

    def forward(h: Tensor) -> tuple[Tensor, Pullback]:
        if not down:
            return h @ weight.t(), lambda g: g @ weight
        small = _last(F.avg_pool2d(_first(h), 2))

        def pull(gradient: Tensor) -> Tensor:
            slope = _first(gradient @ weight)
            spread = torch.ops.aten.avg_pool2d_backward(slope, _first(h), [2, 2], [2, 2], [0, 0], False, True, None)
            return _last(spread)

        return small @ weight.t(), pull

    return forward


def _first(h: Tensor) -> Tensor:
    return h.permute(0, 3, 1, 2)


def _last(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1).contiguous()
