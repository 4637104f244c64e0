"""NVAE's encoder: a bottom-up tower, and posteriors of the groups told on the way down the prior's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw import Encoder, Posterior, Prior
from genfw.plugins.validators import at_least
from genfw_plugins.nvae.laws import DiagonalNormal, PairedFlow
from genfw_plugins.nvae.network import Combine, Conv, PlainCell, WeightPenalty, channels_innermost
from genfw_plugins.nvae.prior import NVAEPrior, nvae_prior


class NVAEEncoder(Encoder):
    r"""Bidirectional encoder :math:`q(z \mid x) = \prod_g q(z_g \mid z_{<g}, x)`.

    A bottom-up tower keeps its features at every group; on the way down the prior's tower each group's posterior is
    made from both. Residual posteriors are told relative to the prior's law, which they shift and stretch. The
    divergence of a group is in closed form without flows, and that of the draw with them.

    References: Vahdat & Kautz 2020 (arXiv 2007.03898) sections 3.1 and 3.2.

    Arguments:
        prior: The model's prior, an ``nvae`` one.
        channels: Channels at the size of the image; doubled at every halving of the sides.
        cells: Residual cells before each group.
        preprocess_cells: Residual cells in each block between the image and the finest scale; the last one halves.
        residual: Residual posteriors.
        flows: Pairs of autoregressive flows on each group.
        gate: Squeeze-and-excitation in the cells.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"channels": 4, "cells": 1, "preprocess_cells": 1}

    def __init__(
        self,
        prior: Prior,
        channels: int = 32,
        cells: int = 2,
        preprocess_cells: int = 2,
        residual: bool = True,
        flows: int = 0,
        gate: bool = True,
    ) -> None:
        super().__init__()
        top_down = nvae_prior(prior, "encoder")
        at_least(1).check(channels=channels, cells=cells, preprocess_cells=preprocess_cells)
        at_least(0).check(flows=flows)
        # Kept out of the module's children: the prior's weights belong to the model, not to its encoder.
        object.__setattr__(self, "_prior", top_down)
        self.residual, self.flows_per_group = residual, flows
        self.stem = Conv(top_down.data_shape[0], channels, 3)
        width, before = channels, []
        for _ in range(top_down.blocks):
            before += [PlainCell(width, width, gate) for _ in range(preprocess_cells - 1)]
            before.append(PlainCell(width, 2 * width, gate))
            width *= 2
        self.before = nn.ModuleList(before)
        tower: list[nn.Module] = []
        widths: list[int] = []
        others = list(reversed(top_down.widths))
        for scale, count in enumerate(reversed(top_down.groups_per_scale)):
            if scale:
                tower.append(PlainCell(width, 2 * width, gate))
                width *= 2
            for _ in range(count):
                tower += [PlainCell(width, width, gate) for _ in range(cells)]
                widths.append(width)
                if len(widths) < len(others):  # the first group of all has nothing before it to merge
                    tower.append(Combine(width, others[len(widths) - 1], concatenate=False))
        self.tower = nn.ModuleList(tower)
        self.top = Conv(width, width)
        latent_channels = top_down.noise_shapes[0][0]
        self.heads = nn.ModuleList(Conv(each, 2 * latent_channels, 3) for each in reversed(widths))
        self.flows = nn.ModuleList(PairedFlow(latent_channels) for _ in range(flows * len(widths)))
        self.weight_penalty = WeightPenalty(self.stem, self.before, self.tower, self.top, self.heads, self.flows)

    def _bottom_up(self, x: Tensor) -> tuple[Tensor, list[tuple[Combine, Tensor]]]:
        """Features of the first group, and for each further one how they merge with the prior's, in order."""
        prior: NVAEPrior = self.__dict__["_prior"]
        missing = [padded - side for padded, side in zip(prior.padded, x.shape[2:], strict=True)]
        edges = [part for m in reversed(missing) for part in (m // 2, m - m // 2)]
        image = F.pad(x, edges, value=-1.0) if any(missing) else x
        features = channels_innermost(self.stem(image))
        for cell in self.before:
            features = cell(features)
        merges: list[tuple[Combine, Tensor]] = []
        for part in self.tower:
            if isinstance(part, Combine):
                merges.append((part, features))
            else:
                features = part(features)
        merges.reverse()
        return F.elu(self.top(F.elu(features))), merges

    def forward(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Posterior:
        prior: NVAEPrior = self.__dict__["_prior"]
        top, merges = self._bottom_up(x)
        shapes = prior.noise_shapes
        sizes = [torch.Size(shape).numel() for shape in shapes]
        if noise is None:
            noise = torch.randn(len(x), sum(sizes), generator=generator, device=x.device, dtype=x.dtype)
        own = [block.unflatten(1, shape) for block, shape in zip(noise.split(sizes, dim=1), shapes, strict=True)]
        log_q: list[Tensor] = []
        log_p: list[Tensor] = []
        kl: list[Tensor] = []
        prior_noise: list[Tensor] = []

        def draw(number: int, features: Tensor, p: DiagonalNormal) -> Tensor:
            if number == 0:
                merged = top
            else:
                combine, kept = merges[number - 1]
                merged = combine(kept, features)
            q = DiagonalNormal.of(self.heads[number](merged))
            if self.residual and number:
                q = q.residual(p)
            z = q.transform(own[number], temperature)
            log_q.append(q.log_prob(z))
            for flow in self.flows[self.flows_per_group * number : self.flows_per_group * (number + 1)]:
                z = flow(z)
            log_p.append(p.log_prob(z))
            kl.append(log_q[-1] - log_p[-1] if self.flows_per_group else q.divergence(p))
            prior_noise.append(p.inverse(z).flatten(1))
            return z

        latent = prior.walk(len(x), draw)
        return Posterior(
            latent=latent,
            noise=torch.cat(prior_noise, dim=1),
            log_q=torch.stack(log_q).sum(0),
            log_p=torch.stack(log_p).sum(0),
            kl=torch.stack(kl, dim=1),
        )

    def penalty(self) -> Tensor:
        total: Tensor = self.weight_penalty()
        return total
