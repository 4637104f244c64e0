r"""Targets with closed forms, with which tests compare a sampler's draws.

Each has its mean, covariance, density and an exact sampler, so that a test can start chains *in* the law: an exact
kernel keeps them there, a biased one does not. None is symmetric, because symmetry hides sign errors.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genfw.interfaces.target import Target
from genfw.interfaces.values import NoiseLayout


class AnalyticTarget(Target):
    r"""A target whose law is known: :math:`U = -\log p`, normalised.

    A subclass guarantees that ``sample`` draws exactly from the law that ``log_prob`` scores, and that ``mean`` and
    ``covariance`` are that law's.

    Arguments:
        mean: :math:`E[\epsilon]`, with shape :math:`(D,)`; its dtype is the target's.
        covariance: :math:`Cov[\epsilon]`, with shape :math:`(D, D)`.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance
        self.layout = NoiseLayout.of(x=(mean.shape[0],))

    @abc.abstractmethod
    def log_prob(self, position: Tensor) -> Tensor:
        r"""Log density in nats, with shape :math:`(B,)`."""

    @abc.abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        r"""Independent draws, with shape :math:`(B, D)`."""

    def tilt(self, position: Tensor) -> Tensor:
        return -self.log_prob(position) - self.base(position)

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Target.draw_base`; in the target's own dtype."""
        return self.layout.draw(count, generator=generator, dtype=self.mean.dtype)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """The position itself."""
        return position

    def _normal(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, size, generator=generator, dtype=self.mean.dtype, device=generator.device)


class CorrelatedGaussian(AnalyticTarget):
    r"""A normal with unequal scales and correlation :math:`\rho^{|i-j|}`, off centre.

    Arguments:
        size: :math:`D`.
        correlation: :math:`\rho` in :math:`(-1, 1)`.
        dtype: Of positions.
    """

    def __init__(self, size: int = 3, correlation: float = 0.8, dtype: torch.dtype = torch.float64) -> None:
        scales = torch.linspace(1.0, 0.5, size, dtype=dtype)
        index = torch.arange(size, dtype=dtype)
        matrix = torch.pow(correlation, (index[:, None] - index).abs())
        super().__init__(torch.linspace(0.5, -0.5, size, dtype=dtype), scales[:, None] * matrix * scales)
        self._factor: Tensor = torch.linalg.cholesky(self.covariance)
        self._log_normaliser = float(self._factor.diagonal().log().sum()) + 0.5 * size * math.log(2 * math.pi)

    def log_prob(self, position: Tensor) -> Tensor:
        white: Tensor = torch.linalg.solve_triangular(self._factor, (position - self.mean).T, upper=False)
        return -0.5 * white.square().sum(0) - self._log_normaliser

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.mean + self._normal(count, self.mean.shape[0], generator) @ self._factor.T


class Funnel(AnalyticTarget):
    r"""Neal's funnel, :math:`v \sim N(0, s^2)`, :math:`x_i \mid v \sim N(0, e^{v})`: its scale varies in space.

    Arguments:
        size: :math:`D`; the first coordinate is :math:`v`.
        scale: :math:`s`; with Neal's 3 no sampler can estimate the second moments of :math:`x`.
        dtype: Of positions.
    """

    def __init__(self, size: int = 2, scale: float = 0.8, dtype: torch.dtype = torch.float64) -> None:
        variance = torch.full((size,), math.exp(0.5 * scale**2), dtype=dtype)
        variance[0] = scale**2
        super().__init__(torch.zeros(size, dtype=dtype), torch.diag(variance))
        self.scale = scale

    def log_prob(self, position: Tensor) -> Tensor:
        v, x = position[:, 0], position[:, 1:]
        log_v = -0.5 * (v / self.scale).square() - math.log(self.scale)
        log_x = -0.5 * x.square().sum(1) * torch.exp(-v) - 0.5 * x.shape[1] * v
        return log_v + log_x - 0.5 * position.shape[1] * math.log(2 * math.pi)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        noise = self._normal(count, self.mean.shape[0], generator)
        v = self.scale * noise[:, :1]
        return torch.cat([v, torch.exp(0.5 * v) * noise[:, 1:]], dim=1)


class SkewedNormal(AnalyticTarget):
    r"""Azzalini's skew normal: a wrong sign moves its mean.

    .. math:: p(\epsilon) = 2\, N(\epsilon; 0, I)\, \Phi(\alpha^\top \epsilon)

    Reference: Azzalini and Dalla Valle, "The multivariate skew-normal distribution", Biometrika 83, 1996.

    Arguments:
        alpha: :math:`\alpha`, one number per dimension.
        dtype: Of positions.
    """

    def __init__(self, alpha: Sequence[float] = (4.0, -2.0), dtype: torch.dtype = torch.float64) -> None:
        self.alpha = torch.tensor(alpha, dtype=dtype)
        mean = math.sqrt(2.0 / math.pi) * self.alpha / torch.sqrt(1.0 + self.alpha.square().sum())
        super().__init__(mean, torch.eye(len(alpha), dtype=dtype) - torch.outer(mean, mean))

    def log_prob(self, position: Tensor) -> Tensor:
        log_normal = -0.5 * position.square().sum(1) - 0.5 * position.shape[1] * math.log(2 * math.pi)
        log_side: Tensor = torch.special.log_ndtr(position @ self.alpha)
        return math.log(2.0) + log_normal + log_side

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        noise = self._normal(count, self.mean.shape[0] + 1, generator)
        # Mirroring draws on the wrong side of a random half space gives this law.
        keep = noise[:, 1:] @ self.alpha > noise[:, 0]
        return torch.where(keep[:, None], noise[:, 1:], -noise[:, 1:])


class GaussianMixture(AnalyticTarget):
    r""":math:`p = \sum_k w_k N(m_k, \sigma^2 I)`: separate modes, whose weights a local kernel can't correct.

    Arguments:
        modes: :math:`m_k`, with shape :math:`(K, D)`.
        weights: :math:`w_k`, with shape :math:`(K,)`, summing to 1.
        scale: :math:`\sigma`, the same in every mode and direction.
    """

    def __init__(self, modes: Tensor, weights: Tensor, scale: float) -> None:
        mean = weights @ modes
        spread = (modes - mean).T @ (weights[:, None] * (modes - mean))
        super().__init__(mean, spread + scale**2 * torch.eye(modes.shape[1], dtype=modes.dtype))
        self.modes, self.weights, self.scale = modes, weights, scale

    def log_prob(self, position: Tensor) -> Tensor:
        # shape: (B, K)
        square = (position[:, None] - self.modes).square().sum(2)
        size = self.modes.shape[1]
        log_component = -0.5 * square / self.scale**2 - size * math.log(self.scale * math.sqrt(2 * math.pi))
        return torch.logsumexp(self.weights.log() + log_component, dim=1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.modes[mode] + self.scale * self._normal(count, self.modes.shape[1], generator)

    def mode_of(self, position: Tensor) -> Tensor:
        r"""Index of the nearest mode of each position, with shape :math:`(B,)`."""
        return torch.cdist(position, self.modes).argmin(1)


def grid_of_25(spacing: float = 0.8, scale: float = 0.1, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    r"""25 modes on the grid :math:`\text{spacing} \cdot \{-2..2\}^2`, heavier to the right and to the top.

    Arguments:
        spacing: Distance between neighbours; at 0.8 and above the modes do not touch.
        scale: :math:`\sigma` of each mode.
        dtype: Of positions.
    """
    line = torch.arange(-2, 3, dtype=dtype)
    grid = torch.cartesian_prod(line, line)
    weights = torch.softmax(0.3 * grid[:, 0] + 0.1 * grid[:, 1], dim=0)
    return GaussianMixture(spacing * grid, weights, scale)


def standard_targets(dtype: torch.dtype = torch.float64) -> dict[str, AnalyticTarget]:
    """The four targets for every sampler, by name: ``correlated``, ``funnel``, ``skewed``, ``modes``."""
    return {
        "correlated": CorrelatedGaussian(dtype=dtype),
        "funnel": Funnel(dtype=dtype),
        "skewed": SkewedNormal(dtype=dtype),
        "modes": grid_of_25(dtype=dtype),
    }


def discrepancy(position: Tensor, target: AnalyticTarget) -> dict[str, float]:
    r"""How far draws are from the law, in standard errors; sampling noise alone stays below about 4.

    The standard errors come from the draws: rows (chains) are independent, so the spread between them gives the error
    of their average, whatever the correlation within a chain.

    Arguments:
        position: Independent draws :math:`(B, D)`, or :math:`B` independent chains at :math:`K` times :math:`(K, B, D)`
        target: The law.

    Returns:
        ``mean``, ``covariance`` and, for a mixture, ``weights``: the largest of each kind; ``inf`` where a value is not
        finite.
    """
    trace = position if position.ndim == 3 else position[None]
    centred = trace - target.mean
    products = centred[..., :, None] * centred[..., None, :] - target.covariance
    found = {"mean": _largest(centred.mean(0)), "covariance": _largest(products.mean(0).flatten(1))}
    if isinstance(target, GaussianMixture):
        visits = torch.stack([target.mode_of(at) for at in trace])
        hits = torch.nn.functional.one_hot(visits, len(target.modes)).to(trace.dtype).mean(0)
        # An unvisited mode has no spread; the law's spread is the lower limit.
        floor = (target.weights * (1 - target.weights) / visits.numel()).sqrt()
        found["weights"] = _largest(hits - target.weights, floor)
    return found


def relative_error(position: Tensor, target: AnalyticTarget) -> float:
    r"""Largest error of the mean, in standard deviations of the law, and of the covariance, relative to the variances.

    For kernels that are biased by design, whose bias must be small. It includes the sampling noise.

    Arguments:
        position: As for :func:`discrepancy`.
        target: The law.
    """
    centred = (position if position.ndim == 3 else position[None]) - target.mean
    scale = target.covariance.diagonal().sqrt()
    mean = (centred.mean((0, 1)) / scale).abs().max()
    covariance = (centred[..., :, None] * centred[..., None, :]).mean((0, 1)) - target.covariance
    worst = float(torch.maximum(mean, (covariance / torch.outer(scale, scale)).abs().max()))
    return worst if math.isfinite(worst) else math.inf


def _largest(errors: Tensor, floor: Tensor | float = 0.0) -> float:
    """Largest ``|mean| / standard error`` over the columns of :math:`(B, S)`."""
    error = errors.std(0) / math.sqrt(errors.shape[0])
    ratio = (errors.mean(0).abs() / (error + 1e-300).clamp(min=torch.as_tensor(floor, dtype=errors.dtype))).max()
    return float(ratio) if math.isfinite(float(ratio)) else math.inf
