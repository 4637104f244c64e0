"""The quadratic well: the smallest energy that has something to learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genfw import ContractError, Energy, Size

__all__ = ["QuadraticWell"]


class QuadraticWell(Energy):
    r"""Quadratic well, :math:`E(v) = k\,|v - c|^2 / 2` with a learned centre :math:`c`.

    Arguments:
        data_shape: Shape of one item, without batch.
        stiffness: :math:`k`, the curvature, in nats per squared unit of data.
    """

    on = "data"

    def __init__(self, data_shape: Size, stiffness: float = 1.0) -> None:
        super().__init__()
        if stiffness <= 0:
            raise ContractError(f"a well curves upwards: stiffness must be positive, got {stiffness}")
        self.stiffness = stiffness
        self.centre = nn.Parameter(torch.zeros(data_shape))

    def forward(self, v: Tensor) -> Tensor:
        return 0.5 * self.stiffness * (v - self.centre).square().flatten(1).sum(1)
