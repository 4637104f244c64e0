"""Pixels and features together as a likelihood."""

from __future__ import annotations

import math

from torch import Tensor, nn

from genfw.interfaces.likelihood import Likelihood
from genfw.nn.precision import full


def feature_error(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    r"""Mean squared difference of features, :math:`\overline{(F(x) - F(y))^2}`, with shape :math:`(B,)`.

    Arguments:
        network: :math:`F`.
        x: Images, with shape :math:`(B, C, H, W)`.
        y: Images of the same shape.
    """
    error: Tensor = (full(network(x)) - full(network(y))).square().flatten(1).mean(1)
    return error


class Perceptual(Likelihood):
    r"""A normal law of pixels, tilted by the error of features:

    .. math:: \log p(x \mid z) = \log N(x; \mu, \sigma^2 I)
        - \frac{n \lambda}{2 \sigma^2}\, \overline{(F(x) - F(\mu))^2},

    that is :math:`-\frac{n}{2 \sigma^2} (\mathrm{MSE} + \lambda\, \mathrm{MSE}_F)` and a constant, with :math:`n`
    numbers in an image. Posteriors need no more than this. What normalises it is not known, and there is no map from
    noise to its draws: ``noise_shape`` is ``None``, and ``transform`` and ``sample`` give the mean.

    References: Abdal et al. 2019 (arXiv 1904.03189); Zhu et al. 2020 (arXiv 2004.00049) section 3.

    Arguments:
        mean: :math:`\mu`, with shape :math:`(B, C, H, W)`.
        sigma: :math:`\sigma` of a pixel.
        network: :math:`F`.
        weight: :math:`\lambda`.
    """

    noise_shape = None

    def __init__(self, mean: Tensor, sigma: float, network: nn.Module, weight: float) -> None:
        self._mean, self.sigma, self.network, self.weight = mean, sigma, network, weight

    @property
    def mean(self) -> Tensor:
        """See :attr:`Likelihood.mean`."""
        return self._mean

    def log_prob(self, x: Tensor) -> Tensor:
        """See :meth:`Likelihood.log_prob`; not normalised."""
        numbers = self._mean[0].numel()
        error = (x - self._mean).square().flatten(1).mean(1)
        error = error + self.weight * feature_error(self.network, x, self._mean)
        return -numbers * (error / (2.0 * self.sigma**2) + math.log(self.sigma) + 0.5 * math.log(2.0 * math.pi))

    def transform(self, noise: Tensor) -> Tensor:
        return self._mean
