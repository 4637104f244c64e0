r"""Batch norms with the statistics of all processes' rows: N processes train like one process with the whole batch.

torch's ``SyncBatchNorm`` refuses the CPU, can't be differentiated twice, which a penalty on an energy's slope needs,
and is another class of layer. Here the layers keep their class; only their ``forward`` is replaced during a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from genfw.nn.precision import full


@contextmanager
def synchronised(network: nn.Module) -> Iterator[None]:
    r"""Inside the block, batch norms in training mode take mean and variance over the rows of all processes.

    With :math:`n_r` values of a channel in process :math:`r`, and :math:`n = \sum_r n_r`,

    .. math:: \mu = \sum_r \frac{n_r}{n} \mu_r, \quad
        \sigma^2 = \sum_r \frac{n_r}{n} \left( \sigma_r^2 + (\mu_r - \mu)^2 \right),

    with one message per layer in the forward pass and one in the backward pass. Running statistics are the same in all
    processes. Processes may hold different numbers of rows, at least one each, but must call the layers equally often
    and in the same order: if one leaves out a call, the others wait for ever. Code with a random number of calls
    belongs into :func:`single_process_statistics`.

    Nothing changes with one process, in eval mode, and for layers with a ``forward`` of their own (such as torch's
    ``SyncBatchNorm``).

    Arguments:
        network: Holds the batch norms; those that an outer block has changed are left to it.
    """
    layers = [layer for layer in _batch_norms(network) if "forward" not in vars(layer)]
    try:
        for layer in layers:
            vars(layer)["forward"] = MethodType(_forward, layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@contextmanager
def single_process_statistics(*networks: nn.Module) -> Iterator[None]:
    """Inside the block, batch norms use only the rows of their own process again: for chains and their starts.

    Arguments:
        networks: Networks that the block calls in training mode.
    """
    layers = [layer for network in networks for layer in _batch_norms(network) if "forward" in vars(layer)]
    forwards = {layer: vars(layer).pop("forward") for layer in dict.fromkeys(layers)}
    try:
        yield
    finally:
        for layer, forward in forwards.items():
            vars(layer)["forward"] = forward


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms to change; none with one process."""
    if _world() == 1:
        return []
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    return [layer for layer in layers if type(layer).forward is _BatchNorm.forward]


def _world() -> int:
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def _forward(layer: _BatchNorm, x: Tensor) -> Tensor:
    """Replaces the layer's ``forward``."""
    if not layer.training or _world() == 1:  # a copy of the layer may outlive the block and the processes
        result: Tensor = type(layer).forward(layer, x)
        return result
    layer._check_input_dim(x)
    with torch.no_grad():
        mean, variance, count = _statistics(x)
        _follow(layer, mean, variance, count)
    y: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
        x, layer.weight, layer.bias, mean, variance, count, layer.eps
    )
    return y


def _follow(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics as torch does, the variance without bias."""
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        return
    assert layer.num_batches_tracked is not None  # set with the other two
    layer.num_batches_tracked.add_(1)
    rate = layer.running_mean.new_full((), 0.0 if layer.momentum is None else layer.momentum)
    if layer.momentum is None:  # the plain mean over batches
        rate = layer.num_batches_tracked.to(rate.dtype).reciprocal()
    layer.running_mean.lerp_(mean.to(rate.dtype), rate)
    layer.running_var.lerp_((variance * count / (count - 1.0)).to(rate.dtype), rate)


class _Sum(torch.autograd.Function):
    """Sum over processes. The gradient is the sum over processes too, since every process uses the result."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(own: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]
    return total


def _dims(x: Tensor) -> list[int]:
    """All but the channels."""
    return [0, *range(2, x.ndim)]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *(1 for _ in x.shape[2:]))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count of each channel over all processes, differentiable in ``x`` where it has a graph.

    Every process fills its own row of a table, and the tables are added. Sums of squares would lose the variance of
    values far from 0; and from the same table all processes compute the same bits.
    """
    variance, mean = torch.var_mean(full(x), _dims(x), correction=0)
    own = torch.cat([mean, variance, mean.new_full((1,), x.numel() // x.shape[1])])
    table = own.new_zeros(_world(), len(own))
    table[distributed.get_rank()] = own
    table = _sum(table)
    counts = table[:, -1:]
    means, variances = table[:, :-1].chunk(2, dim=1)  # shape: (processes, channels)
    count = counts.sum()
    share = counts / count
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), count


class _Normalise(torch.autograd.Function):
    r""":math:`y = \gamma \hat x + \beta`, :math:`\hat x = (x - \mu) / \sqrt{\sigma^2 + \varepsilon}`, with the gradient
    through statistics that all processes share:

    .. math:: \partial x = \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}} \left( \partial y
        - \frac{1}{n} \sum \partial y - \frac{\hat x}{n} \sum \hat x\, \partial y \right).

    The sums run over all processes, those of :math:`\partial \gamma` and :math:`\partial \beta` over this one only: the
    updater adds them up. Of all tensors of the size of :math:`x`, only :math:`x` is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative, in which the statistics depend on x too
            mean, variance, count = _statistics(x)
        gradient, scale = full(gradient), (variance + ctx.eps).rsqrt()
        unit = (full(x) - _channels(mean, x)) * _channels(scale, x)
        sums = torch.cat([gradient.sum(_dims(x)), (gradient * unit).sum(_dims(x))])
        to_bias, to_weight = sums.chunk(2)
        to_x = None
        if ctx.needs_input_grad[0]:
            plain, along = (_sum(sums) / count).chunk(2)
            factor = scale if weight is None else scale * weight
            to_x = gradient - _channels(plain, x) - unit * _channels(along, x)
            to_x = (to_x * _channels(factor, x)).to(x.dtype)
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        return to_x, to_weight if needs_weight else None, to_bias if needs_bias else None, None, None, None, None
