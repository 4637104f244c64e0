"""The diagonal normal that groups of latents follow, and the autoregressive flows of the posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.nn.precision import full
from genfw_plugins.nvae.network import Conv


def soft_clamp(value: Tensor) -> Tensor:
    r"""Bound a value smoothly to (-5, 5): :math:`5 \tanh(v / 5)`."""
    return 5.0 * torch.tanh(value / 5.0)


class DiagonalNormal:
    r"""Diagonal normal: :math:`\mu = c(m)`, :math:`\sigma = e^{c(s)} + 0.01`, :math:`c` the :func:`soft_clamp`.

    Arguments:
        raw_mean: :math:`m`, with shape :math:`(B, *)`.
        raw_log_scale: :math:`s`, with the same shape.
    """

    def __init__(self, raw_mean: Tensor, raw_log_scale: Tensor) -> None:
        self.raw_mean, self.raw_log_scale = full(raw_mean), full(raw_log_scale)
        self.mean = soft_clamp(self.raw_mean)
        self.scale = soft_clamp(self.raw_log_scale).exp() + 1e-2

    @classmethod
    def of(cls, parameters: Tensor) -> DiagonalNormal:
        """From means and log scales side by side in the channels."""
        mean, log_scale = parameters.chunk(2, dim=1)
        return cls(mean, log_scale)

    def residual(self, other: DiagonalNormal) -> DiagonalNormal:
        """The law whose raw parameters are this one's plus another's: a posterior told relative to its prior."""
        return DiagonalNormal(self.raw_mean + other.raw_mean, self.raw_log_scale + other.raw_log_scale)

    def transform(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        r""":math:`\mu + t \sigma \epsilon`."""
        return self.mean + (self.scale if temperature == 1.0 else temperature * self.scale) * noise

    def inverse(self, value: Tensor) -> Tensor:
        """The noise that :meth:`transform` makes ``value`` of."""
        return (value - self.mean) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, with shape ``(B,)``."""
        density = -0.5 * self.inverse(value).square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return density.flatten(1).sum(1)

    def divergence(self, other: DiagonalNormal) -> Tensor:
        """KL of this law from another, in nats, with shape ``(B,)``."""
        ratio = self.scale / other.scale
        shift = (self.mean - other.mean) / other.scale
        return (0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()).flatten(1).sum(1)


def autoregressive_mask(
    inputs: int, outputs: int, kernel: int, *, depthwise: bool, strict: bool, mirror: bool
) -> Tensor:
    r"""What a causal convolution may see: pixels earlier in raster order, and at its own pixel, earlier channels.

    Channels are in as many blocks as the narrower side has channels; block :math:`i` of the outputs sees the blocks up
    to :math:`i` of the inputs, or, where ``strict``, only those before.

    Arguments:
        inputs: Channels in.
        outputs: Channels out; one of the two divides the other.
        kernel: Side of the kernel, odd.
        depthwise: Each channel sees itself alone.
        strict: Leave out the own block at the own pixel.
        mirror: Turn the raster order round; the order of channels stays.

    Returns:
        Zeros and ones with the shape of the kernel.
    """
    middle = kernel // 2
    if depthwise:
        own = torch.zeros(outputs, 1) if strict else torch.ones(outputs, 1)
    else:
        blocks = min(inputs, outputs)
        block_in = torch.arange(inputs) // (inputs // blocks)
        block_out = torch.arange(outputs) // (outputs // blocks)
        before = block_in[None, :] < block_out[:, None] if strict else block_in[None, :] <= block_out[:, None]
        own = before.float()
    mask = torch.zeros(outputs, own.shape[1], kernel, kernel)
    mask[:, :, :middle] = 1.0
    mask[:, :, middle, :middle] = 1.0
    mask[:, :, middle, middle] = own
    return mask.flip(2, 3) if mirror else mask


class Flow(nn.Module):
    r"""Volume-preserving autoregressive shift: :math:`z'_i = z_i - m(z_{<i})`.

    Arguments:
        channels: Channels of :math:`z`.
        mirror: From the last pixel to the first.
        widen: Factor on the channels inside.
    """

    def __init__(self, channels: int, mirror: bool, widen: int = 6) -> None:
        super().__init__()
        hidden = channels * widen

        def mask(inputs: int, outputs: int, kernel: int, depthwise: bool = False, strict: bool = False) -> Tensor:
            return autoregressive_mask(inputs, outputs, kernel, depthwise=depthwise, strict=strict, mirror=mirror)

        self.expand = Conv(channels, hidden, 3, bias=False, mask=mask(channels, hidden, 3, strict=True))
        wide = mask(hidden, hidden, 5, depthwise=True)
        self.depthwise = Conv(hidden, hidden, 5, groups=hidden, bias=False, mask=wide)
        self.shift = Conv(hidden, channels, mask=mask(hidden, channels, 1))
        with torch.no_grad():
            assert self.shift.log_norm is not None  # normalised by default
            self.shift.log_norm.sub_(math.log(10.0))  # begin near the identity

    def forward(self, z: Tensor) -> Tensor:
        """Shift ``(B, C, H, W)``."""
        shift: Tensor = self.shift(F.elu(F.elu(self.depthwise(F.elu(self.expand(z))))))
        return z - shift


class PairedFlow(nn.Module):
    """Two shifts, one in each raster order; the volume stays, so densities carry over unchanged.

    References: Kingma et al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow"; NVAE section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.forth = Flow(channels, mirror=False)
        self.back = Flow(channels, mirror=True)

    def forward(self, z: Tensor) -> Tensor:
        """Shift ``(B, C, H, W)`` both ways."""
        shifted: Tensor = self.back(self.forth(z))
        return shifted
