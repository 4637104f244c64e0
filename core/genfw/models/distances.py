r"""Distances between two sets of points as draws of laws: sliced Wasserstein, MMD, kernel Stein discrepancy.

Each is zero between equal sets, but not between independent draws of one law. The value between two such sets is the
*noise floor*; compare every number with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genfw.errors import ContractError


def directions(size: int, count: int, generator: torch.Generator) -> Tensor:
    r"""Unit vectors, uniform on the sphere, with shape (count, D); a single one where :math:`D = 1`.

    Arguments:
        size: :math:`D`.
        count: Count of vectors.
        generator: Source of randomness.
    """
    if size == 1:
        return torch.ones(1, 1, device=generator.device)
    drawn = torch.randn(count, size, generator=generator, device=generator.device)
    unit: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return unit


def sliced_wasserstein(a: Tensor, b: Tensor, along: Tensor, order: int = 2) -> Tensor:
    r"""Sliced Wasserstein distance, exact along each direction:

    .. math:: \Bigl( \operatorname{mean}_\theta \int_0^1 |F_{\theta a}^{-1}(t) - F_{\theta b}^{-1}(t)|^p \, dt
        \Bigr)^{1/p}.

    Laws that differ by a shift :math:`m` are :math:`|m| / \sqrt D` apart for :math:`p = 2`.

    References:
        N. Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.

    Arguments:
        a: Points, with shape :math:`(N, D)`.
        b: Points, with shape :math:`(M, D)`; :math:`M` may differ from :math:`N`.
        along: Directions :math:`\theta`, with shape (count, D); see :func:`directions`.
        order: :math:`p`.

    Returns:
        The distance, 0-dim, in the points' own units.
    """
    _check(a, b)
    if order < 1:
        raise ContractError(f"the order of a Wasserstein distance is at least 1, got {order}")
    theta = along.to(a).T
    # The steps of the two quantile functions.
    first, second = (a @ theta).sort(0).values, (b.to(a) @ theta).sort(0).values
    if len(a) == len(b):
        return (first - second).abs().pow(order).mean().pow(1.0 / order)
    # Between neighbouring levels both functions are constant.
    ends = [torch.arange(1, n + 1, device=a.device, dtype=torch.float64) / n for n in (len(a), len(b))]
    levels = torch.cat(ends).sort().values
    width = levels.diff(prepend=levels.new_zeros(1))
    middle = levels - 0.5 * width
    rows = [(middle * n).long().clamp(max=n - 1) for n in (len(a), len(b))]
    apart = (first[rows[0]] - second[rows[1]]).abs().pow(order).mean(1)
    return (apart * width.to(apart)).sum().pow(1.0 / order)


def median_distance(points: Tensor, most: int = 1000) -> float:
    r"""Median distance between two of the points, a usual bandwidth.

    Arguments:
        points: Points, with shape :math:`(N, D)`; N is at least 2.
        most: Most points to use, evenly spaced in their order.
    """
    if len(points) < 2:
        raise ContractError(f"a median distance needs at least 2 points, got {len(points)}")
    picked = torch.linspace(0, len(points) - 1, min(most, len(points)), device=points.device).round().long()
    return float(torch.pdist(points[picked]).median())


def mmd(a: Tensor, b: Tensor, bandwidths: Sequence[float], chunk: int = 1024) -> Tensor:
    r"""Maximum mean discrepancy :math:`\sqrt{\overline{k(a, a')} + \overline{k(b, b')} - 2\, \overline{k(a, b)}}`.

    The kernel is the mean of :math:`e^{-|u - v|^2 / 2 \ell^2}` over the bandwidths. The means include the pairs of a
    point and itself, so that the root is real; two sets of :math:`N` draws of one law are about
    :math:`\sqrt{2 (1 - \bar k) / N}` apart.

    References:
        A. Gretton et al., A kernel two-sample test, 2012.

    Arguments:
        a: Points, with shape :math:`(N, D)`.
        b: Points, with shape :math:`(M, D)`.
        bandwidths: :math:`\ell`, in the points' own units; see :func:`median_distance`.
        chunk: Rows at once, to bound memory.
    """
    _check(a, b)
    if not bandwidths or min(bandwidths) <= 0:
        raise ContractError(f"bandwidths are at least one, and above 0; got {list(bandwidths)}")

    def similarity(u: Tensor, v: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=u.device)
        for rows in u.split(chunk):
            square = torch.cdist(rows, v).square()
            for bandwidth in bandwidths:
                total += (-0.5 * square / bandwidth**2).exp().sum(dtype=torch.float64)
        return total / (len(bandwidths) * len(u) * len(v))

    b = b.to(a)
    return (similarity(a, a) + similarity(b, b) - 2.0 * similarity(a, b)).clamp(min=0.0).sqrt()


def kernel_stein(points: Tensor, gradient: Tensor, bandwidth: float, chunk: int = 1024) -> Tensor:
    r"""Kernel Stein discrepancy between points and the law :math:`\propto e^{-U}`; it needs no draws of the law.

    The root of the mean Stein kernel over all pairs, with the inverse multi-quadric kernel
    :math:`k(u, v) = (1 + |u - v|^2 / c^2)^{-1/2}`. For draws of the law it is near
    :math:`\sqrt{\overline{\kappa(u, u)} / N}`. It hardly depends on the masses of modes that are far apart, because the
    gradient does not.

    References:
        J. Gorham and L. Mackey, Measuring sample quality with kernels, 2017.

    Arguments:
        points: With shape :math:`(N, D)`.
        gradient: :math:`\nabla U` at the points, with shape :math:`(N, D)`.
        bandwidth: :math:`c`, in the points' own units.
        chunk: Rows at once, to bound memory.
    """
    if points.ndim != 2 or points.shape != gradient.shape:
        raise ContractError(f"points and gradients have shape (N, D), got {_shapes(points, gradient)}")
    if bandwidth <= 0:
        raise ContractError(f"the bandwidth is above 0, got {bandwidth}")
    # In units of c; the score is the gradient of log density.
    points, score = points.double() / bandwidth, -gradient.double() * bandwidth
    size = points.shape[1]
    total = points.new_zeros(())
    for rows, scores in zip(points.split(chunk), score.split(chunk), strict=True):
        apart = rows[:, None] - points[None]  # shape: (n, N, D)
        base = 1.0 + apart.square().sum(2)
        slope = ((scores[:, None] - score[None]) * apart).sum(2)
        stein = (
            (scores @ score.T) * base.pow(-0.5) + (slope + size) * base.pow(-1.5) - 3.0 * (base - 1.0) * base.pow(-2.5)
        )
        total += stein.sum()
    return (total / len(points) ** 2).clamp(min=0.0).sqrt()


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ContractError(f"two sets of points have shapes (N, D) and (M, D), got {_shapes(a, b)}")


def _shapes(a: Tensor, b: Tensor) -> str:
    return f"{tuple(a.shape)} and {tuple(b.shape)}"
