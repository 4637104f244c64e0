"""The light network that predicts noise: a U-Net of fully connected blocks, steered by time and context."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.errors import ContractError


class TimeEmbedding(nn.Module):
    r"""Sines and cosines of diffusion time, and two linear layers.

    Time is read off the log signal-to-noise ratio, :math:`\tau = \tfrac{2000}{\pi} \arctan e^{-\lambda/2}` in
    [0, 1000]; the frequencies fall geometrically from 1 to 1/10,000.

    Arguments:
        features: Length of the embedding; even, at least 4.
    """

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ContractError(f"time_features is even and at least 4, got {features}")
        half = features // 2
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.net = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, log_snr: Tensor) -> Tensor:
        r"""Embed ratios :math:`(N,)` as :math:`(N, t)`."""
        time = torch.atan(torch.exp(-0.5 * log_snr)) * (2000.0 / math.pi)
        angle = time[:, None] * self.frequencies
        embedding: Tensor = self.net(torch.cat([angle.sin(), angle.cos()], dim=1))
        return embedding


class Block(nn.Module):
    r"""Concat-squash block: :math:`(A h + a) \odot s(G c + g) + S c + (K h + k)`, with the logistic function :math:`s`.

    The two maps of :math:`h` are one matrix, and so are the two of :math:`c`.

    Arguments:
        inputs: Length of :math:`h`.
        outputs: Length of :math:`c` and of the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, 2 * outputs)
        self.steer = nn.Linear(outputs, 2 * outputs, bias=False)
        self.gate = nn.Parameter(torch.empty(outputs).uniform_(-1.0, 1.0) / math.sqrt(outputs))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        r"""Map :math:`h` (B, in) under the condition :math:`c`, (B, out) or one row for all."""
        value, skip = self.inner(h).chunk(2, dim=1)
        gate, shift = self.steer(c).chunk(2, dim=1)
        result: Tensor = value * torch.sigmoid(gate + self.gate) + (shift + skip)
        return result


class MLPUNet(nn.Module):
    r"""Predictor of noise, :math:`\hat\xi = z_\lambda + f(z_\lambda, \lambda, c)` (DAMC Table S3).

    :math:`z` enters as itself beside sines and cosines of learned projections. What the blocks take of time and context
    is linear in each apart, so that :meth:`of_time` and :meth:`of_context` can be computed once for a whole walk.

    Arguments:
        size: Length :math:`D` of a position.
        context: Length :math:`e` of the context.
        widths: Outputs of the blocks on the way down; the way up mirrors them.
        time_features: Length of the time embedding.
    """

    def __init__(
        self, size: int, context: int, widths: Sequence[int] = (128, 256, 256), time_features: int = 128
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ContractError(f"widths are the outputs of the blocks, at least one; got {list(widths)}")
        frequencies = max(size // 2, 1)
        self.frequencies = nn.Parameter(torch.randn(size, frequencies))
        self.time = TimeEmbedding(time_features)
        down = [size + 2 * frequencies, *widths]
        up = [size, *widths]
        self.down = nn.ModuleList(Block(before, after) for before, after in zip(down, widths, strict=False))
        self.middle = Block(widths[-1], widths[-1])
        self.up = nn.ModuleList(Block(2 * up[i + 1], up[i]) for i in reversed(range(len(widths))))
        self.outputs = [*widths, widths[-1], *(up[i] for i in reversed(range(len(widths))))]
        # The blocks' first look at time and context, all in one matrix: columns for time, then for context.
        self.condition = nn.Linear(time_features + context, sum(self.outputs))

    def of_time(self, log_snr: Tensor) -> Tensor:
        r"""What the blocks take of ratios :math:`(N,)`, one row each."""
        embedding = F.silu(self.time(log_snr))
        return F.linear(embedding, self.condition.weight[:, : embedding.shape[1]], self.condition.bias)

    def of_context(self, context: Tensor) -> Tensor:
        r"""What the blocks take of contexts :math:`(N, e)`, one row each."""
        return F.linear(F.silu(context), self.condition.weight[:, -context.shape[1] :])

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        r"""Predict the noise.

        Arguments:
            z: :math:`z_\lambda`, with shape :math:`(B, D)`.
            condition: Sum of :meth:`of_time` and :meth:`of_context`, :math:`B` rows, or one for all.

        Returns:
            :math:`\hat\xi`, with shape :math:`(B, D)`.
        """
        # A phase of several turns has no accuracy left in bfloat16.
        with torch.autocast(z.device.type, enabled=False):
            phase = 2.0 * math.pi * (z @ self.frequencies)
            h = torch.cat([phase.sin(), phase.cos(), z], dim=1)
        conditions = iter(F.silu(condition).split(self.outputs, dim=1))
        kept = []
        for block in self.down:
            h = F.leaky_relu(block(h, next(conditions)))
            kept.append(h)
        h = F.leaky_relu(self.middle(h, next(conditions)))
        for number, block in enumerate(self.up):
            h = block(torch.cat([h, kept.pop()], dim=1), next(conditions))
            if number < len(self.up) - 1:
                h = F.leaky_relu(h)
        return z + h
