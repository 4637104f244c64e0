r"""From noise to data by a predictor of the noise: one stochastic walk and two deterministic ones.

All take :math:`S` ratios :math:`\lambda_0 < \dots < \lambda_{S-1}`, ask the predictor once at each, and end with the
data predicted at the last, :math:`\hat z = (z - \sigma \hat\xi) / \alpha`. Below, :math:`t` is where a step comes
from, and :math:`s` where it goes: :math:`\lambda_t < \lambda_s`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genfw_plugins.ddpm.schedule import alpha_sigma

#: Predicted noise at a position :math:`(B, D)`, for the ratio of that number.
Predictor = Callable[[Tensor, int], Tensor]


def _coefficients(log_snr: Tensor) -> tuple[list[float], list[float], list[float]]:
    # Plain numbers, from float64: a step reads nothing back from the device.
    ratios = log_snr.to("cpu", torch.float64)
    alpha, sigma = alpha_sigma(ratios)
    return ratios.tolist(), alpha.tolist(), sigma.tolist()


def ancestral(
    predict: Predictor, log_snr: Tensor, position: Tensor, generator: torch.Generator, gamma: float = 1.0
) -> Tensor:
    r"""Ancestral sampling (DAMC Eq. 5):

    .. math:: z_s = \frac{\alpha_s}{\alpha_t} (z_t - r \sigma_t \hat\xi)
        + \sqrt r\, \sigma_s^{1-\gamma} \sigma_t^{\gamma}\, \epsilon, \qquad r = 1 - e^{\lambda_t - \lambda_s}.

    Arguments:
        predict: The predictor.
        log_snr: Ratios on the CPU, with shape :math:`(S,)`.
        position: Noise to start from, with shape :math:`(B, D)`.
        generator: Source of :math:`\epsilon`.
        gamma: :math:`\gamma`, from the smallest variance (0) to the largest (1).
    """
    ratio, alpha, sigma = _coefficients(log_snr)
    for t in range(len(ratio) - 1):
        s = t + 1
        r = -math.expm1(ratio[t] - ratio[s])
        scale = math.sqrt(r) * sigma[s] ** (1.0 - gamma) * sigma[t] ** gamma
        mean = (alpha[s] / alpha[t]) * (position - r * sigma[t] * predict(position, t))
        noise = torch.randn(position.shape, generator=generator, device=position.device, dtype=position.dtype)
        position = mean + scale * noise
    return (position - sigma[-1] * predict(position, len(ratio) - 1)) / alpha[-1]


def ddim(predict: Predictor, log_snr: Tensor, position: Tensor) -> Tensor:
    r"""DDIM, first order: :math:`z_s = \alpha_s \hat z + \sigma_s \hat\xi` (Song et al. 2021, arXiv 2010.02502).

    Arguments:
        predict: The predictor.
        log_snr: Ratios on the CPU, with shape :math:`(S,)`.
        position: Noise to start from, with shape :math:`(B, D)`.
    """
    ratio, alpha, sigma = _coefficients(log_snr)
    for t in range(len(ratio) - 1):
        scale = alpha[t + 1] / alpha[t]
        position = scale * position + (sigma[t + 1] - scale * sigma[t]) * predict(position, t)
    return (position - sigma[-1] * predict(position, len(ratio) - 1)) / alpha[-1]


def dpm_solver(predict: Predictor, log_snr: Tensor, position: Tensor) -> Tensor:
    r"""DPM-Solver++ 2M, second order in the predicted data (Lu et al. 2022, arXiv 2211.01095, Algorithm 2):

    .. math:: z_s = \frac{\sigma_s}{\sigma_t} z_t - \alpha_s (e^{-h} - 1)
        \Bigl[(1 + \tfrac{h}{2 h'}) \hat z_t - \tfrac{h}{2 h'} \hat z_{t'}\Bigr],
        \qquad h = \tfrac12 (\lambda_s - \lambda_t),

    with the step before, :math:`h'` from :math:`t'` to :math:`t`; the first step is of first order.

    Arguments:
        predict: The predictor.
        log_snr: Ratios on the CPU, with shape :math:`(S,)`.
        position: Noise to start from, with shape :math:`(B, D)`.
    """
    ratio, alpha, sigma = _coefficients(log_snr)
    before: Tensor | None = None
    for t in range(len(ratio) - 1):
        s, h = t + 1, 0.5 * (ratio[t + 1] - ratio[t])
        data = (position - sigma[t] * predict(position, t)) / alpha[t]
        slope = data
        if before is not None:
            half = h / (ratio[t] - ratio[t - 1])
            slope = (1.0 + half) * data - half * before
        position = (sigma[s] / sigma[t]) * position - alpha[s] * math.expm1(-h) * slope
        before = data
    return (position - sigma[-1] * predict(position, len(ratio) - 1)) / alpha[-1]
