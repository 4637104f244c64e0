r"""Signal and noise over diffusion time: :math:`z_\lambda = \alpha z + \sigma \xi`, :math:`\alpha^2 + \sigma^2 = 1`.

:math:`\lambda = \log(\alpha^2 / \sigma^2)` is the log signal-to-noise ratio; time :math:`u` runs from 0 (clean) to 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genfw.errors import ContractError


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\alpha = \sqrt{s(\lambda)}`, :math:`\sigma = \sqrt{s(-\lambda)}`, with the logistic :math:`s`."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


class CosineSchedule:
    r"""Cosine schedule cut to a range, :math:`\lambda(u) = -2 \log \tan(a u + b)`.

    :math:`a` and :math:`b` are such that :math:`\lambda(0)` is ``high`` and :math:`\lambda(1)` is ``low``.

    References:
        Kingma et al., Variational diffusion models, 2021; Nichol and Dhariwal, 2021.

    Arguments:
        low: Log signal-to-noise ratio where everything is noise.
        high: The same where nothing is.
    """

    def __init__(self, low: float = -5.1, high: float = 9.8) -> None:
        if not low < high:
            raise ContractError(f"log_snr is a range (low, high) with low < high, got ({low}, {high})")
        self.low, self.high = low, high
        self._offset = math.atan(math.exp(-0.5 * high))
        self._slope = math.atan(math.exp(-0.5 * low)) - self._offset

    def __call__(self, u: Tensor) -> Tensor:
        r""":math:`\lambda(u)` for times in [0, 1], of the same shape."""
        return -2.0 * (self._slope * u + self._offset).tan().log()

    def grid(self, steps: int, even: bool = False) -> Tensor:
        r"""Ratios to visit from noise to data, rising from ``low`` to ``high``, float64, with shape :math:`(S,)`.

        Arguments:
            steps: :math:`S`, both ends among them.
            even: Space them evenly in :math:`\lambda` rather than in time.
        """
        if even:
            return torch.linspace(self.low, self.high, steps, dtype=torch.float64)
        return self(torch.linspace(1.0, 0.0, steps, dtype=torch.float64))
