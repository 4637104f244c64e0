"""4x4 transposed convolution of stride 2 as one product of matrices for each parity of an output pixel.

An even output row reads the two input rows around it through two of the four taps, an odd one likewise, and so do
columns. So all output pixels of one parity are the product of 2x2 windows of the map, one a row, with one matrix. It
multiplies as often as the plain sum, but at the full speed of the BLAS, in half precision too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genfw.nn.manual_grad import Pullback
from genfw_plugins.dcgan.winograd import TAPS


class Products:
    r"""4x4 transposed convolution of stride 2 and padding 1, :math:`(B, H, H, C) \to (B, 2H, 2H, O)`, channels last.

    Arguments:
        weight: Of a :class:`torch.nn.ConvTranspose2d`, with shape :math:`(C, O, 4, 4)`; as it is now.
        bias: With shape :math:`(O,)`.
        side: :math:`H`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int) -> None:
        self.channels, self.outputs = weight.shape[:2]
        self.bias, self.side = bias, side
        taps = weight.permute(2, 3, 0, 1)
        self._forward = {
            (a, c): torch.cat([taps[i, j] for i in TAPS[a] for j in TAPS[c]]) for a in (0, 1) for c in (0, 1)
        }
        self._back = taps.transpose(2, 3).reshape(16 * self.outputs, self.channels)

    def __call__(self, x: Tensor) -> tuple[Tensor, Pullback]:
        r"""Convolve maps :math:`(B, H, H, C)`; the pull-back takes :math:`(B, 2H, 2H, O)`."""
        batch, side = len(x), self.side
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        image, row, column, _ = padded.stride()
        made = x.new_empty(batch, side, 2, side, 2, self.outputs)
        for (a, c), matrix in self._forward.items():
            windows = padded.as_strided(
                (batch, side, side, 2, 2 * self.channels), (image, row, column, row, 1), a * row + c * column
            )
            pixels = torch.addmm(self.bias, windows.reshape(batch * side * side, -1), matrix)
            made[:, :, a, :, c] = pixels.view(batch, side, side, self.outputs)
        return made.view(batch, 2 * side, 2 * side, self.outputs), self._pull

    def _pull(self, gradient: Tensor) -> Tensor:
        batch, side = len(gradient), self.side
        padded = F.pad(gradient, (0, 0, 1, 1, 1, 1))
        image, row, column, _ = padded.stride()
        windows = padded.as_strided((batch, side, side, 4, 4 * self.outputs), (image, 2 * row, 2 * column, row, 1))
        pixels = windows.reshape(batch * side * side, -1) @ self._back
        return pixels.view(batch, side, side, self.channels)
