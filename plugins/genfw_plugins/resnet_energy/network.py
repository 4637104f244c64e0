"""Residual blocks over images; they know channels, never data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

Activation = Literal["swish", "leaky-relu"]
Norm = Literal["weight", "spectral", "none"]

#: What Swish is divided by, so that its slope is at most 1, as spectral bounds of a deep network want it.
SWISH = 1.1

#: Slope of the leaky activation below 0.
SLOPE = 0.2

#: Keeps norms of weights and deviations of outputs away from zero.
_SMALL = 1e-5


def activate(name: Activation) -> Callable[[Tensor], Tensor]:
    r"""The activation of that name: ``swish`` is :math:`x\,\mathrm{sigmoid}(x)/1.1`, ``leaky-relu`` has slope 0.2."""
    match name:
        case "swish":
            return lambda x: F.silu(x) / SWISH
        case "leaky-relu":
            return lambda x: F.leaky_relu(x, SLOPE)


class WeightNorm(nn.Module):
    r"""A weight as direction and length, one length for each output: :math:`w = e^{g}\, v / (|v| + 10^{-5})`.

    Reference: Salimans & Kingma 2016, "Weight normalization"; the logarithm of the length as in NVAE.
    """

    def forward(self, direction: Tensor, log_length: Tensor) -> Tensor:
        """The weight, with the direction's shape."""
        return log_length.exp() * _unit(direction)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Direction and log length of a plain weight."""
        return weight, torch.log(_lengths(weight) + 1e-2)


def _lengths(weight: Tensor) -> Tensor:
    lengths: Tensor = weight.flatten(1).norm(dim=1)
    return lengths.view(-1, *(1 for _ in weight.shape[1:]))


def _unit(direction: Tensor) -> Tensor:
    """Each output's weights scaled to length 1."""
    return direction / (_lengths(direction) + _SMALL)


class NormedConv(nn.Conv2d):
    r"""A convolution that keeps the image's size, its weight normalised.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        size: Side of the kernel, odd.
        norm: How the weight is normalised.
        bias: Whether a bias is added.
    """

    def __init__(self, inputs: int, outputs: int, size: int, norm: Norm, bias: bool = True) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, bias=bias)
        self.norm: Norm = norm
        match norm:
            case "weight":
                parametrize.register_parametrization(self, "weight", WeightNorm())
            case "spectral":
                spectral_norm(self, "weight")
            case "none":
                pass

    @property
    def direction(self) -> nn.Parameter:
        """The direction of a weight that is normalised by its length."""
        return self._normalised(0)

    @property
    def log_length(self) -> nn.Parameter:
        """The log length of a weight that is normalised by its length."""
        return self._normalised(1)

    def _normalised(self, number: int) -> nn.Parameter:
        return self.get_parameter(f"parametrizations.weight.original{number}")

    @torch.no_grad()
    def initialise(self, x: Tensor, scale: float) -> Tensor:
        r"""Choose length and bias so that on ``x`` every output has mean 0 and standard deviation ``scale``.

        Where there is no bias the mean stays. Without weight norm nothing is changed.

        Arguments:
            x: What the layer is given, with shape :math:`(B, C, H, W)`.
            scale: The standard deviation to have.

        Returns:
            What the layer then makes of ``x``.
        """
        if self.norm == "weight":
            raw = F.conv2d(x, _unit(self.direction), padding=self.padding)
            deviation = raw.std(dim=(0, 2, 3)) / scale + _SMALL
            self.log_length.copy_(-deviation.log().view_as(self.log_length))
            if self.bias is not None:
                self.bias.copy_(-raw.mean(dim=(0, 2, 3)) / deviation)
        seen: Tensor = self(x)
        return seen


class ResBlock(nn.Module):
    r"""Two convolutions beside the input, then halved where asked, then activated.

    .. math:: h \leftarrow a(\mathrm{pool}(c_2(a(c_1(h))) + s(h)))

    The shortcut :math:`s` is a 1x1 convolution where the block halves or changes the channels. With ``batch_norm``, a
    batch norm follows :math:`c_1` and :math:`c_2`.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        down: Halve height and width by averaging.
        activation: :math:`a`.
        norm: How weights are normalised.
        batch_norm: Normalise each convolution's output over the batch.
    """

    def __init__(
        self, inputs: int, outputs: int, down: bool, activation: Activation, norm: Norm, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.down = down
        self.act = activate(activation)
        self.conv1 = NormedConv(inputs, outputs, 3, norm)
        self.conv2 = NormedConv(outputs, outputs, 3, norm)
        self.norm1 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.skip = NormedConv(inputs, outputs, 1, norm, bias=False) if down or inputs != outputs else None

    def forward(self, h: Tensor) -> Tensor:
        """From :math:`(B, C, H, W)` to the block's channels and size."""
        branch = self.norm2(self.conv2(self.act(self.norm1(self.conv1(h)))))
        return self._join(branch, h if self.skip is None else self.skip(h))

    def initialise(self, h: Tensor, scale: float) -> Tensor:
        """See :meth:`NormedConv.initialise`, layer by layer."""
        branch = self.conv2.initialise(self.act(self.conv1.initialise(h, scale)), scale)
        return self._join(branch, h if self.skip is None else self.skip.initialise(h, scale))

    def _join(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        h = branch + shortcut
        return self.act(F.avg_pool2d(h, 2) if self.down else h)
