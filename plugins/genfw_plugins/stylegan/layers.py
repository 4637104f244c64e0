"""Layers that both generations of StyleGAN share: matrices scaled at run time, the mapping, doubling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from genfw.errors import ContractError

SLOPE = 0.2

#: Learning rate of the mapping's weights, relative to that of the synthesis (StyleGAN App. C).
MAPPING_RATE = 0.01


class ScaledLinear(nn.Module):
    r"""Matrix product with equalised learning rate, :math:`y = \frac{g r}{\sqrt{n}} W x + r b`.

    ``W`` is stored with variance :math:`1/r^2` and scaled at run time, so that Adam moves all layers at the same
    relative speed.

    References: Karras et al. 2018 (arXiv 1710.10196) section 4.1.

    Arguments:
        inputs: :math:`n`.
        outputs: Length of :math:`y`.
        gain: :math:`g`.
        rate: :math:`r`, factor on the learning rate.
        bias: What the bias begins with, after :math:`r`.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate = gain * rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        """Multiply vectors :math:`(B, n)`."""
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)


class Mapping(nn.Module):
    r"""From :math:`z` to the style :math:`w`: :math:`z / \sqrt{\overline{z^2}}`, then layers of one width.

    The generations differ by a factor :math:`\sqrt 2` after each activation, which a leaky ReLU lets through to the
    weights, so one network serves both. The mean of :math:`w` is kept in ``mean`` for the truncation.

    References: StyleGAN (arXiv 1812.04948) section 2.

    Arguments:
        width: Length of z, of w and of what is between.
        layers: Matrix products, each followed by a leaky ReLU.
    """

    mean: Tensor

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(
            ScaledLinear(width, width, gain=math.sqrt(2.0), rate=MAPPING_RATE) for _ in range(layers)
        )
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, z: Tensor) -> Tensor:
        """Styles :math:`(B, d)` of latents :math:`(B, d)`."""
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = functional.leaky_relu(layer(w), SLOPE)
        return w

    @torch.no_grad()
    def statistics(self, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        r"""Mean :math:`(d)` and covariance :math:`(d, d)` of the styles of standard-normal :math:`z`.

        Arguments:
            draws: How many :math:`z` are drawn.
            generator: Their source, on the weights' device.
        """
        z = torch.randn(draws, self.width, generator=generator, device=generator.device, dtype=self.mean.dtype)
        w = self(z).double()
        mean = w.mean(0)
        return mean.to(self.mean), ((w - mean).T @ (w - mean) / draws).to(self.mean)


def doubled(x: Tensor, kernel: Tensor) -> Tensor:
    r"""Maps of twice the side: zeros between pixels, then a depthwise filter of 4 x 4.

    Arguments:
        x: Maps, with shape :math:`(B, C, H, W)`.
        kernel: One axis of the filter, of length 4.
    """
    filters = (4.0 * torch.outer(kernel, kernel) / kernel.sum().square()).expand(x.shape[1], 1, 4, 4)
    return functional.conv_transpose2d(x, filters, stride=2, padding=1, groups=x.shape[1])


def blurred(x: Tensor, kernel: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Maps filtered depthwise, one axis after the other.

    Arguments:
        x: Maps, with shape :math:`(B, C, H, W)`.
        kernel: The filter along one axis; its sum is divided out.
        padding: Zeros on every side.
        gain: Factor on the whole.
    """
    channels = x.shape[1]
    line = (kernel * (math.sqrt(gain) / kernel.sum())).to(x.dtype).expand(channels, 1, 1, -1)
    x = functional.conv2d(x, line, padding=(0, padding), groups=channels)
    return functional.conv2d(x, line.transpose(2, 3), padding=(padding, 0), groups=channels)


def sides_up_to(side: int) -> list[int]:
    """4, 8, ..., ``side``.

    Raises:
        ContractError: ``side`` is no such number.
    """
    if side < 8 or side & (side - 1):
        raise ContractError(f"a StyleGAN makes square images whose side is a power of two from 8 up, not {side}")
    return [2**power for power in range(2, side.bit_length())]


def layer_count(side: int) -> int:
    """How many styles an image of a side takes: two for each of 4, 8, ..., ``side``."""
    return 2 * len(sides_up_to(side))


def channels_at(side: int, base: int, most: int) -> int:
    """Channels of the maps of a side: ``base / side``, at most ``most``."""
    return max(1, min(base // side, most))
