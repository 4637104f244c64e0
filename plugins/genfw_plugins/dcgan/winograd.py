r"""Transposed convolution that doubles the side, with 1.8 times fewer multiplications.

With kernel 4, stride 2 and padding 1, the four pixels :math:`y_{2i+a, 2k+c}` (:math:`a, c \in \{0, 1\}`) are four
ordinary 2x2 convolutions of the small map, read at the windows :math:`(x_{j-1}, x_j)`: even pixels take windows
:math:`0 .. H-1`, odd ones :math:`1 .. H`. Three neighbouring windows of one axis need six products; with

.. math:: m = (G g) \odot (B^T d), \qquad y = A^T m

they need four (Winograd's :math:`F(3, 2)` on the points 0, 1, -1 and infinity), and on two axes 16 instead of 36. What
remains between the transforms is 16 matrix products, at the speed of the BLAS.

References:
    S. Winograd, Arithmetic complexity of computations, 1980; A. Lavin and S. Gray, Fast algorithms for convolutional
    neural networks, 2016 (arXiv 1509.09308).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genfw.nn.manual_grad import Pullback

#: Pixels of a batch that are transformed at once: more of them leave the processor's cache.
_AT_ONCE = 2048
#: Kernel elements that each pixel parity takes of a window (x[j-1], x[j]).
TAPS = ((3, 1), (2, 0))


class WinogradDoubling:
    r"""4x4 transposed convolution of stride 2 and padding 1, :math:`(B, H, H, C) \to (B, 2H, 2H, O)`, channels last.

    Arguments:
        weight: Of a :class:`torch.nn.ConvTranspose2d`, with shape :math:`(C, O, 4, 4)`; as it is now.
        bias: With shape :math:`(O,)`.
        side: :math:`H`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int) -> None:
        self.channels, self.outputs = weight.shape[:2]
        self.bias, self.side, self.tiles = bias, side, _tiles(side)
        taps = weight.permute(2, 3, 0, 1).contiguous()
        kernels = weight.new_empty(4, 4, self.channels, 2, 2, self.outputs)
        half = weight.new_empty(4, 2, self.channels, self.outputs)
        for a in (0, 1):
            for c in (0, 1):
                window = taps[list(TAPS[a])][:, list(TAPS[c])]
                _spread(window.unbind(0), half.unbind(0))
                _spread(half.unbind(1), kernels[:, :, :, a, c].unbind(1))
        self.kernels = kernels.view(16, self.channels, 4 * self.outputs)

    @staticmethod
    def saving(side: int) -> float:
        """How many times fewer multiplications there are than in the plain sum, for maps of this side."""
        return 16 * side**2 / (64 * _tiles(side) ** 2)

    def __call__(self, x: Tensor) -> tuple[Tensor, Pullback]:
        r"""Convolve maps :math:`(B, H, H, C)`, contiguous; the pull-back takes :math:`(B, 2H, 2H, O)`."""
        images = max(1, _AT_ONCE // self.side**2)
        if len(x) <= images:
            return self._convolve(x), self._pull
        made = torch.cat([self._convolve(part) for part in x.split(images)])
        return made, lambda g: torch.cat([self._pull(part) for part in g.split(images)])

    def _convolve(self, x: Tensor) -> Tensor:
        batch, side, tiles = len(x), self.side, self.tiles
        across = 3 * tiles + 1
        padding = across - 1 - side
        padded = F.pad(x, (0, 0, 1, padding, 1, padding))
        half = x.new_empty(4, batch, tiles, across, self.channels)
        _reduce(_every_third(padded, 1, tiles), half.unbind(0))
        inputs = x.new_empty(4, 4, batch, tiles, tiles, self.channels)
        _reduce(_every_third(half, 3, tiles), inputs.unbind(1))
        products = torch.bmm(inputs.view(16, -1, self.channels), self.kernels)
        products = products.view(4, 4, batch, tiles, tiles, 4 * self.outputs)
        half = x.new_empty(3, 4, batch, tiles, tiles, 4 * self.outputs)
        _expand(products.unbind(0), half.unbind(0))
        windows = x.new_empty(batch, tiles, 3, tiles, 3, 4 * self.outputs)
        _expand(half.unbind(1), windows.permute(4, 2, 0, 1, 3, 5).unbind(0))
        windows = windows.view(batch, 3 * tiles, 3 * tiles, 2, 2, self.outputs)
        pixels = x.new_empty(batch, side, 2, side, 2, self.outputs)
        for a in (0, 1):
            for c in (0, 1):
                torch.add(windows[:, a : a + side, c : c + side, a, c], self.bias, out=pixels[:, :, a, :, c])
        return pixels.view(batch, 2 * side, 2 * side, self.outputs)

    def _pull(self, gradient: Tensor) -> Tensor:
        """Every step of the way there, transposed, in reverse order."""
        batch, side, tiles = len(gradient), self.side, self.tiles
        pixels = gradient.view(batch, side, 2, side, 2, self.outputs)
        windows = gradient.new_zeros(batch, 3 * tiles, 3 * tiles, 2, 2, self.outputs)
        for a in (0, 1):
            for c in (0, 1):
                windows[:, a : a + side, c : c + side, a, c] = pixels[:, :, a, :, c]
        tiled = windows.view(batch, tiles, 3, tiles, 3, 4 * self.outputs)
        half = gradient.new_empty(3, 4, batch, tiles, tiles, 4 * self.outputs)
        _expand_transposed(tiled.permute(4, 2, 0, 1, 3, 5).unbind(0), half.unbind(1))
        products = gradient.new_empty(4, 4, batch, tiles, tiles, 4 * self.outputs)
        _expand_transposed(half.unbind(0), products.unbind(0))
        inputs = torch.bmm(products.view(16, -1, 4 * self.outputs), self.kernels.transpose(1, 2))
        inputs = inputs.view(4, 4, batch, tiles, tiles, self.channels)
        across = 3 * tiles + 1
        half = gradient.new_zeros(4, batch, tiles, across, self.channels)
        _reduce_transposed(inputs.unbind(1), _every_third(half, 3, tiles))
        padded = gradient.new_zeros(batch, across, across, self.channels)
        _reduce_transposed(half.unbind(0), _every_third(padded, 1, tiles))
        return padded[:, 1 : side + 1, 1 : side + 1]


def _tiles(side: int) -> int:
    return -(-(side + 1) // 3)


def _every_third(x: Tensor, axis: int, tiles: int) -> list[Tensor]:
    """The four elements that each tile reads, as views; the last is also the next tile's first."""
    return [x.narrow(axis, k, 3 * tiles - 2)[(slice(None),) * axis + (slice(None, None, 3),)] for k in range(4)]


def _spread(g: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply by the matrix :math:`G`."""
    out[0].copy_(g[0])
    torch.lerp(g[0], g[1], 0.5, out=out[1])
    torch.sub(out[1], g[1], out=out[2])
    out[3].copy_(g[1])


def _reduce(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply by the matrix :math:`B^T`."""
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[1], d[3], out=out[3])


def _reduce_transposed(v: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Add :math:`B v` to ``out``."""
    out[0].add_(v[0])
    out[1].add_(v[1]).sub_(v[2]).add_(v[3])
    out[2].add_(v[1]).add_(v[2]).sub_(v[0])
    out[3].sub_(v[3])


def _expand(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply by the matrix :math:`A^T`."""
    both = m[1] + m[2]
    torch.add(m[0], both, out=out[0])
    torch.sub(m[1], m[2], out=out[1])
    torch.sub(both, m[3], out=out[2])


def _expand_transposed(y: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply by the matrix :math:`A`."""
    ends = y[0] + y[2]
    out[0].copy_(y[0])
    torch.add(ends, y[1], out=out[1])
    torch.sub(ends, y[1], out=out[2])
    torch.neg(y[2], out=out[3])
