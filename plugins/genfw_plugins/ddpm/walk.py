"""The noise predictor made ready for one walk: all that depends on time and context alone, before the steps need it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genfw_plugins.ddpm.network import Block, MLPUNet

#: Rows (steps times items) that gates and shifts are computed for at once: enough for the matrix products to be
#: efficient, few enough for a processor's cache.
ROWS = 1024


class _Still:
    """One block's weights as a walk wants them, and its gates and shifts for the steps of now."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        def own(weight: Tensor) -> Tensor:
            return weight.detach().to(dtype)

        self.value, self.skip = (part.t() for part in own(block.inner.weight).chunk(2))
        # The bias of the skip is one more shift.
        self.value_bias, self.skip_bias = own(block.inner.bias).chunk(2)
        self.gate_map, self.shift_map = (part.t() for part in own(block.steer.weight).chunk(2))
        self.gate_bias = own(block.gate)
        self.gates = self.shifts = self.skip_bias.new_empty(0)

    def prepare(self, c: Tensor, steps: int) -> None:
        """Gates and shifts of ``steps`` steps, whose conditions lie one after the other in ``c``."""
        self.gates = torch.addmm(self.gate_bias, c, self.gate_map).sigmoid_().unflatten(0, (steps, -1))
        self.shifts = torch.addmm(self.skip_bias, c, self.shift_map).unflatten(0, (steps, -1))

    def __call__(self, h: Tensor, step: int) -> Tensor:
        value = torch.addmm(self.value_bias, h, self.value)
        return torch.addmm(self.shifts[step].expand_as(value), h, self.skip).addcmul_(value, self.gates[step])


class Walk:
    r"""Predictor of the noise at the ratios of one walk, what :class:`MLPUNet` predicts, made and asked without graph.

    Half of a block's work reads time and context, not the position: it is done for many steps at a time.

    Arguments:
        network: The predictor, with its weights of now.
        time: :meth:`MLPUNet.of_time` of the walk's ratios, with shape :math:`(S, *)`.
        context: Contexts :math:`(B, e)`, or one row for all.
        dtype: What matrix products are computed in, the network's own where absent; the input's phases stay in that.
    """

    def __init__(self, network: MLPUNet, time: Tensor, context: Tensor, dtype: torch.dtype | None = None) -> None:
        dtype = time.dtype if dtype is None else dtype
        self._time, self._given = time, network.of_context(context)
        self._frequencies = 2.0 * math.pi * network.frequencies.detach()
        blocks = [*network.down, network.middle, *network.up]
        self._blocks = [_Still(block, dtype) for block in blocks if isinstance(block, Block)]
        self._outputs: Sequence[int] = network.outputs
        self._down, self._dtype = len(network.down), dtype
        self._ahead = max(1, ROWS // len(self._given))
        self._ready = range(0)

    def __call__(self, z: Tensor, step: int) -> Tensor:
        r""":math:`\hat\xi` at :math:`z` (B, D), for the ratio of that number."""
        with torch.autocast(z.device.type, enabled=False):
            if step not in self._ready:
                self._prepare(step)
            return self._predict(z, step - self._ready.start)

    def _prepare(self, first: int) -> None:
        self._ready = range(first, min(first + self._ahead, len(self._time)))
        condition = F.silu(self._time[self._ready.start : self._ready.stop, None] + self._given).flatten(0, 1)
        for block, part in zip(self._blocks, condition.to(self._dtype).split(self._outputs, dim=1), strict=True):
            block.prepare(part, len(self._ready))

    def _predict(self, z: Tensor, step: int) -> Tensor:
        phase = z @ self._frequencies
        h = torch.cat([phase.sin(), phase.cos_(), z], dim=1).to(self._dtype)
        kept = []
        for block in self._blocks[: self._down]:
            h = F.leaky_relu_(block(h, step))
            kept.append(h)
        h = F.leaky_relu_(self._blocks[self._down](h, step))
        last = self._blocks[-1]
        for block in self._blocks[self._down + 1 :]:
            h = block(torch.cat([h, kept.pop()], dim=1), step)
            if block is not last:
                F.leaky_relu_(h)
        return z + h.to(z.dtype)
