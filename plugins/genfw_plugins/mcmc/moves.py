"""Pieces that several kernels are assembled from."""

from __future__ import annotations

import torch
from torch import Tensor


def normal_like(position: Tensor, generator: torch.Generator) -> Tensor:
    """Standard-normal noise shaped like ``position``."""
    return torch.randn(position.shape, generator=generator, device=position.device, dtype=position.dtype)


def jittered(step_size: Tensor, jitter: float, position: Tensor, generator: torch.Generator) -> Tensor:
    r"""Step sizes :math:`h (1 + j u)`, one for each chain, with shape :math:`(B, 1)`; :math:`u` uniform on [-1, 1].

    Arguments:
        step_size: :math:`h`, 0-dim.
        jitter: :math:`j` in [0, 1); at 0 nothing is drawn and ``step_size`` comes back as it is.
        position: Positions of the chains, with shape :math:`(B, D)`.
        generator: Source of :math:`u`.
    """
    if not jitter:
        return step_size
    uniform = torch.rand(position.shape[0], 1, generator=generator, device=position.device, dtype=position.dtype)
    return step_size * (1.0 + jitter * (2.0 * uniform - 1.0))


def metropolis(log_ratio: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Accept with probability :math:`\min(1, e^{\text{log ratio}})`; a ratio that is not a number never.

    Arguments:
        log_ratio: With shape :math:`(B,)`.
        generator: Source of the coin.

    Returns:
        The probability, and the verdict as booleans, each with shape :math:`(B,)`.
    """
    probability = log_ratio.clamp(max=0.0).exp().nan_to_num(nan=0.0)
    coin = torch.rand(probability.shape, generator=generator, device=probability.device, dtype=probability.dtype)
    return probability, coin < probability


def choose(accept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    r"""Rows of ``new`` where ``accept`` :math:`(B,)` says so, of ``old`` elsewhere."""
    return torch.where(accept if new.ndim == 1 else accept[:, None], new, old)
