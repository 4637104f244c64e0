"""The layers of NVAE: weight-normalised convolutions, residual cells, squeeze-and-excitation. They know sizes only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from genfw.errors import ContractError
from genfw.nn.precision import ChainPrecision, chain_dtype
from genfw.nn.spectral import SpectralPenalty

#: Factor on the residual branch of every cell.
BRANCH = 0.1


def channels_innermost(x: Tensor) -> Tensor:
    """The same images with channels innermost in memory, the order that these networks run faster in."""
    return x.contiguous(memory_format=torch.channels_last)


class Keeping(nn.Module):
    """A layer that keeps what follows from frozen weights in eval mode until the next change of mode."""

    def __init__(self) -> None:
        super().__init__()
        #: Kernel and bias of one convolution or several.
        self._kept: tuple[Any, ...] | None = None
        #: What the kept weights are rounded to, those of depthwise convolutions left out; nothing where ``None``.
        self._dtype: torch.dtype | None = None

    def forget(self) -> None:
        """Make what is kept anew at the next call."""
        self._kept = None

    def _rounded(self, kernel: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A convolution's kernel and bias as they are to be kept; a depthwise one has few products to save on."""
        if self._dtype is None or kernel.shape[1] == 1:
            return kernel, bias
        return kernel.to(self._dtype), None if bias is None else bias.to(self._dtype)

    def train(self, mode: bool = True) -> Self:
        """Change the mode; what was kept is forgotten."""
        self.forget()
        return super().train(mode)

    def _load_from_state_dict(self, *state: Any) -> None:
        self.forget()  # weights may be exchanged in eval mode too
        super()._load_from_state_dict(*state)


@contextmanager
def convolved_in(precision: ChainPrecision, network: nn.Module) -> Iterator[None]:
    """Inside the block frozen layers of a network convolve in that precision; what lies between them stays as it is."""
    layers = [layer for layer in network.modules() if isinstance(layer, Keeping)]
    dtype = chain_dtype(precision, network)
    before = [layer._dtype for layer in layers]
    try:
        for layer in layers:
            layer.forget()
            layer._dtype = dtype
        yield
    finally:
        for layer, kept_in in zip(layers, before, strict=True):
            layer.forget()
            layer._dtype = kept_in


class Conv(Keeping):
    r"""Convolution that keeps the size at stride 1, its weight normalised: :math:`w = e^g\, v / \lVert v \rVert`.

    In eval mode with a frozen weight, as in a chain, the normalised weight is computed once and kept until the next
    change of mode.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the kernel, odd.
        stride: Step between outputs.
        groups: Groups of channels that do not mix.
        bias: Add a bias.
        normalised: Normalise the weight; off in the cells whose batch norm sets the scale anyway.
        mask: Zeros where the kernel may not look, with the kernel's shape.

    References: Salimans & Kingma 2016, "Weight Normalization".
    """

    mask: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        normalised: bool = True,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.padding = stride, groups, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5.0))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("mask", mask, persistent=False)
        self.log_norm: nn.Parameter | None = None
        if normalised:
            norm = self._masked().detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            self.log_norm = nn.Parameter((norm + 1e-2).log())

    def _masked(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def kernel(self) -> Tensor:
        """The weight that convolves: masked and normalised."""
        weight = self._masked()
        if self.log_norm is None:
            return weight
        norm = weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        return weight * (self.log_norm.exp() / (norm + 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``."""
        x = channels_innermost(x)
        if self.training or self.weight.requires_grad:
            return _convolve(x, self.kernel(), self.bias, self.stride, self.padding, self.groups)
        if self._kept is None:
            self._kept = self._rounded(self.kernel().detach(), self.bias)
        kernel, bias = self._kept
        return _convolve(x, kernel, bias, self.stride, self.padding, self.groups)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    """The convolution: in bfloat16 where the kernel is, and a depthwise one in full precision under a CPU's autocast.

    There its weight gradient takes six times as long in bfloat16 as in float32, and it has few products to save on.
    """
    device = x.device.type
    if kernel.dtype == torch.bfloat16:
        return F.conv2d(x.to(kernel.dtype), kernel, bias, stride, padding, 1, groups).to(x.dtype)
    if groups == 1 or device != "cpu" or not torch.is_autocast_enabled(device):
        return F.conv2d(x, kernel, bias, stride, padding, 1, groups)
    with torch.autocast(device, enabled=False):
        bias = None if bias is None else bias.float()
        return F.conv2d(x.float(), kernel.float(), bias, stride, padding, 1, groups)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with NVAE's slow averages (momentum 0.05)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5, momentum=0.05)

    def _check_input_dim(self, x: Tensor) -> None:
        # Not in `forward`: batch norms over processes have another one, and then the others' rows count too.
        super()._check_input_dim(x)
        alone = not (distributed.is_available() and distributed.is_initialized())
        if self.training and alone and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise ContractError(
                "NVAE can't learn from a batch of 1 row where its maps have 1x1 pixels: one value has no variance; "
                "use a batch of 2 or more, or fewer scales"
            )

    def affine_map(self) -> tuple[Tensor, Tensor]:
        """Factor and shift per channel that it amounts to in eval mode."""
        assert self.running_var is not None  # this class always tracks them
        assert self.running_mean is not None
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        return factor, self.bias - self.running_mean * factor


class Gate(nn.Module):
    """Squeeze-and-excitation: each channel scaled by a function of all channels' means.

    References: Hu, Shen & Sun 2018 (arXiv 1709.01507).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``(B, C, H, W)``."""
        scale: Tensor = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * scale[:, :, None, None]


class Halve(nn.Module):
    """Shortcut of a cell that halves the sides: four 1x1 convolutions, one for each pixel of a 2x2 block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        quarter = outputs // 4
        self.convs = nn.ModuleList(Conv(inputs, width) for width in (quarter, quarter, quarter, outputs - 3 * quarter))

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, C, H, W)`` to ``(B, C', H/2, W/2)``."""
        x = F.silu(x)
        corners = ((0, 0), (1, 1), (0, 1), (1, 0))
        return torch.cat([conv(x[:, :, i::2, j::2]) for conv, (i, j) in zip(self.convs, corners, strict=True)], dim=1)


class Double(nn.Module):
    """Shortcut of a cell that doubles the sides: a 1x1 convolution, then bilinear interpolation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, C, H, W)`` to ``(B, C', 2H, 2W)``."""
        # Interpolation weighs pixels by numbers that sum to one, so it commutes with a 1x1 map, cheaper when done last.
        return F.interpolate(self.conv(x), scale_factor=2.0, mode="bilinear", align_corners=True)


class PlainCell(nn.Module):
    """Residual cell of the bottom-up tower: twice (batch norm, Swish, 3x3 convolution).

    Arguments:
        inputs: Channels in.
        outputs: Channels out; the sides are halved where they differ.
        gate: Squeeze-and-excitation at the end of the branch.
    """

    def __init__(self, inputs: int, outputs: int, gate: bool) -> None:
        super().__init__()
        down = inputs != outputs
        self.norms = nn.ModuleList([BatchNorm(inputs), BatchNorm(outputs)])
        self.convs = nn.ModuleList([Conv(inputs, outputs, 3, stride=2 if down else 1), Conv(outputs, outputs, 3)])
        self.gate = Gate(outputs) if gate else nn.Identity()
        self.skip = Halve(inputs, outputs) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, C, H, W)`` to the same, or to half the sides."""
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.silu(norm(h)))
        return torch.add(self.skip(x), self.gate(h), alpha=BRANCH)


class InvertedCell(Keeping):
    """Residual cell of the top-down tower: widen by a 1x1 convolution, a 5x5 depthwise one, and back.

    In eval mode with frozen weights its four batch norms are folded into its convolutions, once per chain. Whoever
    changes their statistics in eval mode says so by :meth:`forget`.

    Arguments:
        inputs: Channels in.
        outputs: Channels out; the sides are doubled where they differ.
        widen: Factor on the channels inside.
        gate: Squeeze-and-excitation at the end of the branch.

    References: NVAE (arXiv 2007.03898) Fig. 3a; Sandler et al. 2018 (arXiv 1801.04381).
    """

    def __init__(self, inputs: int, outputs: int, widen: int, gate: bool) -> None:
        super().__init__()
        hidden = inputs * widen
        self.up = inputs != outputs
        self.norm_in = BatchNorm(inputs)
        self.expand = Conv(inputs, hidden, bias=False, normalised=False)
        self.norm_expand = BatchNorm(hidden)
        self.depthwise = Conv(hidden, hidden, 5, groups=hidden, bias=False, normalised=False)
        self.norm_depthwise = BatchNorm(hidden)
        self.project = Conv(hidden, outputs, bias=False, normalised=False)
        self.norm_out = BatchNorm(outputs)
        self.gate = Gate(outputs) if gate else nn.Identity()
        self.skip = Double(inputs, outputs) if self.up else nn.Identity()

    def _raise(self, h: Tensor) -> Tensor:
        # Copying pixels commutes with everything per pixel, so it waits until after the widening.
        return F.interpolate(h, scale_factor=2.0, mode="nearest") if self.up else h

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, C, H, W)`` to the same, or to double the sides."""
        # Batch norms in training mode within a cell in eval mode are having their statistics measured.
        if self.training or self.norm_in.training or self.expand.weight.requires_grad:
            h = self._raise(F.silu(self.norm_expand(self.expand(self.norm_in(x)))))
            h = F.silu(self.norm_depthwise(self.depthwise(h)))
            h = self.norm_out(self.project(h))
        else:
            if self._kept is None:
                self._kept = self._fold()
            wide, wide_bias, deep, deep_bias, narrow, narrow_bias = self._kept
            h = self._raise(F.silu(_convolve(x, wide, wide_bias, 1, 0, 1)))
            h = F.silu(_convolve(h, deep, deep_bias, 1, self.depthwise.padding, deep.shape[0]))
            h = _convolve(h, narrow, narrow_bias, 1, 0, 1)
        return torch.add(self.skip(x), self.gate(h), alpha=BRANCH)

    @torch.no_grad()
    def _fold(self) -> tuple[Any, ...]:
        factor_in, shift_in = self.norm_in.affine_map()
        factor, shift = self.norm_expand.affine_map()
        wide = self.expand.weight * factor.view(-1, 1, 1, 1)
        shift = shift + wide.flatten(1) @ shift_in
        wide = wide * factor_in.view(1, -1, 1, 1)
        folded = [*self._rounded(wide, shift)]
        for conv, norm in ((self.depthwise, self.norm_depthwise), (self.project, self.norm_out)):
            factor, shift = norm.affine_map()
            folded += self._rounded(conv.weight * factor.view(-1, 1, 1, 1), shift)
        return tuple(folded)


class Combine(nn.Module):
    """Merge a latent group (or the other tower's features) into a tower's features by a 1x1 convolution.

    Arguments:
        features: Channels of the tower that goes on.
        others: Channels of what is merged.
        concatenate: Convolve both together; otherwise the convolved other is added.
    """

    def __init__(self, features: int, others: int, concatenate: bool) -> None:
        super().__init__()
        self.concatenate = concatenate
        self.conv = Conv(features + others if concatenate else others, features)

    def forward(self, features: Tensor, other: Tensor) -> Tensor:
        """Both with shape ``(B, *, H, W)``."""
        if self.concatenate:
            joined: Tensor = self.conv(torch.cat([features, other], dim=1))
            return joined
        added: Tensor = features + self.conv(other)
        return added


def parts_of(module: nn.Module, kind: type[nn.Module]) -> Iterator[nn.Module]:
    """The layers of one kind in a network, in order."""
    return (part for part in module.modules() if isinstance(part, kind))


def _kernel_of(layer: nn.Module) -> Tensor:
    assert isinstance(layer, Conv)
    return layer.kernel()


class WeightPenalty(nn.Module):
    r"""NVAE's penalty on a network: largest singular values of its convolutions, and largest batch-norm factors.

    .. math:: \sum_l \sigma_{\max}(W_l) + \sum_b \max_c |\gamma_{b,c}|

    References: NVAE (arXiv 2007.03898) sections 3.1 and 3.2.

    Arguments:
        network: Its layers; it stays its own module's.
    """

    def __init__(self, *network: nn.Module) -> None:
        super().__init__()
        layers = [layer for part in network for layer in parts_of(part, Conv)]
        self.spectral = SpectralPenalty(layers, weight_of=_kernel_of)
        norms = [layer for part in network for layer in parts_of(part, BatchNorm)]
        self._norms: tuple[nn.Module, ...] = tuple(norms)

    def batch_norm(self) -> Tensor:
        """The second sum alone, 0-dim."""
        factors = [norm.weight.abs().max() for norm in self._norms if isinstance(norm, BatchNorm)]
        return torch.stack(factors).sum() if factors else torch.zeros(())

    def forward(self) -> Tensor:
        """Both sums, 0-dim."""
        total: Tensor = self.spectral() + self.batch_norm()
        return total
