r"""3x3 convolution of stride 1 and padding 1, with up to 4 times fewer multiplications.

Four neighbouring outputs of one axis need twelve products; with

.. math:: m = (G g) \odot (B^T d), \qquad y = A^T m

they need six (Winograd's :math:`F(4, 3)` on the points 0, 1, -1, 2, -2 and infinity), and a tile of 4x4 pixels 36
instead of 144. On both axes at once each transform is one small matrix over whole tiles, and what remains between them
is 36 products of matrices, all at the speed of the BLAS.

References:
    S. Winograd, Arithmetic complexity of computations, 1980; A. Lavin and S. Gray, Fast algorithms for convolutional
    neural networks, 2016 (arXiv 1509.09308).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genfw.nn.manual_grad import Pullback

#: Pixels of a tile's side that come out, and that go in.
_OUT, _IN = 4, 6

_DATA = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_PIXELS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

#: Bytes of transformed tiles that are worked on at once: about what stays in a core's own cache.
_AT_ONCE = 2 << 20


class Winograd:
    r"""Convolution of maps that lie channels last, :math:`(B, H, W, C) \to (B, H, W, O)`.

    Arguments:
        weight: With shape :math:`(O, C, 3, 3)`; as it is now.
        bias: With shape :math:`(O,)`, or ``None``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.channels = weight.shape[:2]
        self.bias = bias
        spread, self.reduce, self.expand = (_on_both_axes(rows).to(weight) for rows in (_KERNEL, _DATA, _PIXELS))
        taps = weight.permute(2, 3, 1, 0).reshape(9, -1)
        self.kernels = torch.mm(spread, taps).view(_IN**2, self.channels, self.outputs)

    @staticmethod
    def saving(height: int, width: int) -> float:
        """How many times fewer multiplications there are than in the plain sum, for maps of this size."""
        return 9 * height * width / (_IN**2 * Winograd.tiles(height, width))

    @staticmethod
    def tiles(height: int, width: int) -> int:
        """Tiles of an image of this size."""
        return _tiles(height) * _tiles(width)

    def __call__(self, x: Tensor) -> tuple[Tensor, Pullback]:
        r"""Convolve maps :math:`(B, H, W, C)`; the pull-back takes :math:`(B, H, W, O)`."""
        height, width = x.shape[1:3]
        made = x.new_empty(*x.shape[:3], self.outputs)
        for part, out in self._parts(x, made):
            out.copy_(self._convolve(part)[:, :height, :width])
        if self.bias is not None:
            made += self.bias
        return made, self._pull

    def _pull(self, gradient: Tensor) -> Tensor:
        """Every step of the way there, transposed, in reverse order."""
        height, width = gradient.shape[1:3]
        made = gradient.new_empty(*gradient.shape[:3], self.channels)
        for part, out in self._parts(gradient, made):
            out.copy_(self._transposed(part)[:, 1 : height + 1, 1 : width + 1])
        return made

    def _parts(self, x: Tensor, made: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A few images at a time, with the places of what is made of them."""
        bytes_each = _IN**2 * _tiles(x.shape[1]) * _tiles(x.shape[2]) * x.element_size()
        images = max(1, _AT_ONCE // (bytes_each * max(self.channels, self.outputs)))
        return list(zip(x.split(images), made.split(images), strict=True))

    def _convolve(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        down, across = _tiles(height), _tiles(width)
        padded = F.pad(x, (0, 0, 1, _OUT * across - width + 1, 1, _OUT * down - height + 1))
        tiles = _overlapping(padded, 0, _IN, 0, _IN, down, across).reshape(_IN**2, -1)
        tiles = torch.mm(self.reduce, tiles).view(_IN**2, -1, self.channels)
        products = torch.bmm(tiles, self.kernels).view(_IN**2, -1)
        pixels = torch.mm(self.expand, products).view(_OUT, _OUT, batch, down, across, self.outputs)
        return pixels.permute(2, 3, 0, 4, 1, 5).reshape(batch, _OUT * down, _OUT * across, self.outputs)

    def _transposed(self, gradient: Tensor) -> Tensor:
        batch, height, width, _ = gradient.shape
        down, across = _tiles(height), _tiles(width)
        padded = F.pad(gradient, (0, 0, 0, _OUT * across - width, 0, _OUT * down - height))
        pixels = padded.view(batch, down, _OUT, across, _OUT, self.outputs).permute(2, 4, 0, 1, 3, 5)
        products = torch.mm(self.expand.t(), pixels.reshape(_OUT**2, -1)).view(_IN**2, -1, self.outputs)
        tiles = torch.bmm(products, self.kernels.transpose(1, 2)).view(_IN**2, -1)
        tiles = torch.mm(self.reduce.t(), tiles).view(_IN, _IN, batch, down, across, self.channels)
        made = gradient.new_zeros(batch, _OUT * down + 2, _OUT * across + 2, self.channels)
        # The last two rows and columns of a tile are the first of the next: added set by set, each of disjoint places.
        for top, bottom in ((0, _OUT), (_OUT, _IN)):
            for left, right in ((0, _OUT), (_OUT, _IN)):
                places = _overlapping(made, top, bottom, left, right, down, across)
                places += tiles[top:bottom, left:right]
        return made


def _on_both_axes(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one)


def _tiles(side: int) -> int:
    return -(-side // _OUT)


def _overlapping(x: Tensor, top: int, bottom: int, left: int, right: int, down: int, across: int) -> Tensor:
    """Rows and columns of every tile, as a view of padded maps: ``(rows, columns, B, down, across, C)``."""
    image, row, column, channel = x.stride()
    return x.as_strided(
        (bottom - top, right - left, len(x), down, across, x.shape[3]),
        (row, column, image, _OUT * row, _OUT * column, channel),
        x.storage_offset() + top * row + left * column,
    )
