"""Full precision where half precision would spoil the outcome, half of it in chains that ask for it, and constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def full(value: Tensor) -> Tensor:
    """The values in float32 at least: bfloat16 has 8 digits, too few for densities and sums."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


#: What a network's layers are computed in inside chains: the model's own precision, or bfloat16.
ChainPrecision = Literal["model", "bf16"]


def chain_dtype(precision: ChainPrecision, network: nn.Module) -> torch.dtype:
    """What maps and weights of ``network`` are kept in while a chain runs; positions and sums keep the model's."""
    return torch.bfloat16 if precision == "bf16" else next(network.parameters()).dtype


def apply_in_full(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """``function`` of :func:`full` values, without autocast: the last layer of an energy, a sum over an image.

    A level of -550 with a gap of 1 between data and negatives is one number in bfloat16, whose steps there are 4 wide.

    Arguments:
        function: A function of a tensor, such as a layer; its weights are in full precision.
        value: Its input.
    """
    if value.device.type == "meta":  # has shapes alone, and no autocast to switch off
        return function(full(value))
    with torch.autocast(value.device.type, enabled=False):
        return function(full(value))


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """A few numbers as a tensor with the device and dtype of ``like``; filled in there, so that the host does not wait.

    Arguments:
        values: The numbers, with shape :math:`(N,)`.
        like: Gives device and dtype.
    """
    return torch.stack([like.new_full((), value) for value in values])
