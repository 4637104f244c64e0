"""The encoder network that goes with a StyleGAN: residual blocks with batch norm, down to 4 x 4."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from genfw_plugins.stylegan.layers import SLOPE, sides_up_to


class _Block(nn.Module):
    """Maps of half the side: averaged, then two convolutions beside a shortcut, each way with its own activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = min(inputs, outputs)
        self.first, self.first_norm = nn.Conv2d(inputs, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.second, self.second_norm = nn.Conv2d(hidden, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut_norm = None if inputs == outputs else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(x, 2)
        y = functional.leaky_relu(self.first_norm(self.first(x)), SLOPE)
        y = functional.leaky_relu(self.second_norm(self.second(y)), SLOPE)
        if self.shortcut is None or self.shortcut_norm is None:
            return x + y
        return functional.leaky_relu(self.shortcut_norm(self.shortcut(x)), SLOPE) + y


class Inspector(nn.Module):
    r"""From an image to numbers, :math:`(B, C, H, H) \to (B, e)`.

    A convolution, residual blocks that halve the side down to 4 and double the channels, a matrix, a batch norm.

    References: Zhu et al. 2020 (arXiv 2004.00049) section 3; DAMC (arXiv 2310.03218) Table S4's caption.

    Arguments:
        side: :math:`H`, a power of two.
        channels: :math:`C`.
        base: Channels of the first maps,
        most: and the most there are.
        outputs: :math:`e`.
    """

    def __init__(self, side: int, channels: int, base: int, most: int, outputs: int) -> None:
        super().__init__()
        widths = [min(base << number, most) for number in range(len(sides_up_to(side)))]
        self.first, self.first_norm = (
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
        )
        self.blocks = nn.ModuleList(_Block(before, after) for before, after in pairwise(widths))
        self.last, self.last_norm = nn.Linear(16 * widths[-1], outputs, bias=False), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of images."""
        x = functional.leaky_relu(self.first_norm(self.first(x)), SLOPE)
        for block in self.blocks:
            x = block(x)
        numbers, norm = self.last(x.flatten(1)), self.last_norm
        if len(x) > 1 or not norm.training:
            result: Tensor = norm(numbers)
            return result
        # One image alone has no spread to divide by, in training either.
        return functional.batch_norm(numbers, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
