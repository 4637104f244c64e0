"""NVAE's prior: groups of latents over several scales, each normal given those before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genfw import ContractError, Latent, Prior, Size
from genfw.nn.precision import ChainPrecision
from genfw.plugins.validators import at_least, within
from genfw_plugins.nvae.laws import DiagonalNormal
from genfw_plugins.nvae.network import Combine, Conv, InvertedCell, WeightPenalty, channels_innermost, convolved_in

#: Given the group's number, the features so far and the prior's law of the group, its value.
Choose = Callable[[int, Tensor, DiagonalNormal], Tensor]


def spread_groups(scales: int, groups: int, ada_groups: bool, min_groups: int) -> tuple[int, ...]:
    """Groups at each scale, coarsest first: ``groups`` everywhere, or halved from each scale to the next coarser."""
    counts = [groups]
    for _ in range(scales - 1):
        counts.append(max(counts[-1] // 2, min_groups) if ada_groups else groups)
    return tuple(reversed(counts))


class NVAEPrior(Prior):
    r"""Top-down tower :math:`p(z) = \prod_g N(z_g; \mu_g(z_{<g}), \sigma_g^2(z_{<g}))`.

    The tower starts from a learned feature map at the coarsest scale; each group is drawn from what the tower has
    computed so far and merged into it. :meth:`walk` is the only way through: generation, chains, densities and the
    posterior differ in how they choose the value of a group. The first group has mean 0 and scale 1.01.

    References: Vahdat & Kautz 2020, "NVAE: A Deep Hierarchical Variational Autoencoder" (arXiv 2007.03898).

    Arguments:
        data_shape: Shape of one image; sides that the scales do not divide are padded by encoder and decoder.
        channels: Channels at the size of the image; doubled at every halving of the sides.
        scales: Sizes of latent maps, each half of the next.
        groups: Latent groups at the finest scale.
        ada_groups: Halve the groups from each scale to the next coarser; the same at every scale otherwise.
        min_groups: Fewest groups at a scale, with ``ada_groups``.
        latent_channels: Channels of one group.
        cells: Residual cells before each group.
        blocks: Halvings between the image and the finest scale.
        gate: Squeeze-and-excitation in the cells.
        chain_precision: What convolutions are computed in inside chains, depthwise ones left out; features between
            them, latents and densities stay in the model's. ``bf16`` pays where the processor multiplies in it, and
            bends gradients by 1 to 3 %.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"channels": 4, "scales": 2, "groups": 2, "cells": 1, "latent_channels": 4}

    def __init__(
        self,
        data_shape: Size,
        channels: int = 32,
        scales: int = 2,
        groups: int = 10,
        ada_groups: bool = False,
        min_groups: int = 1,
        latent_channels: int = 20,
        cells: int = 2,
        blocks: int = 1,
        gate: bool = True,
        chain_precision: ChainPrecision = "model",
    ) -> None:
        super().__init__()
        if len(data_shape) != 3:
            raise ContractError(f"an NVAE is for images of shape (C, H, W); the data have shape {tuple(data_shape)}")
        at_least(1).check(channels=channels, groups=groups, min_groups=min_groups)
        at_least(1).check(latent_channels=latent_channels, cells=cells)
        # Each halves the image once more: of 16 and 16 a pixel of 2^31 is left.
        within(1, 16).check(scales=scales)
        within(0, 16).check(blocks=blocks)
        self.data_shape, self.blocks, self.scales = tuple(data_shape), blocks, scales
        self.groups_per_scale = spread_groups(scales, groups, ada_groups, min_groups)
        factor = 2 ** (blocks + scales - 1)
        #: Sides of the image after padding.
        self.padded: tuple[int, int] = (-(-data_shape[1] // factor) * factor, -(-data_shape[2] // factor) * factor)
        sides = tuple(side // factor for side in self.padded)
        width = channels * factor
        self.first = nn.Parameter(torch.randn(width, *sides))
        shapes: list[Size] = []
        tower: list[nn.Module] = []
        heads: list[Conv] = []
        #: Features at each group, as channels: what a posterior merges.
        self.widths: list[int] = []
        for scale, count in enumerate(self.groups_per_scale):
            if scale:
                tower.append(InvertedCell(width, width // 2, 6, gate))
                width, sides = width // 2, tuple(2 * side for side in sides)
            for _ in range(count):
                if shapes:
                    tower += [InvertedCell(width, width, 6, gate) for _ in range(cells)]
                    heads.append(Conv(width, 2 * latent_channels))
                shapes.append((latent_channels, *sides))
                self.widths.append(width)
                tower.append(Combine(width, latent_channels, concatenate=True))
        self.tower, self.heads = nn.ModuleList(tower), nn.ModuleList(heads)
        self._shapes: tuple[Size, ...] = tuple(shapes)
        #: Shape of the features that go on to the decoder.
        self.context_shape: Size = (width, *sides)
        self.weight_penalty = WeightPenalty(self.tower, self.heads)
        self.chain_precision: ChainPrecision = chain_precision

    @property
    def noise_shapes(self) -> tuple[Size, ...]:
        """See :attr:`Prior.noise_shapes`."""
        return self._shapes

    def walk(self, count: int, choose: Choose) -> Latent:
        """Go down the tower, the value of each group being chosen on the way.

        Arguments:
            count: Items.
            choose: Told once for each group, in order.

        Returns:
            The chosen groups, and the tower's last features.
        """
        features = channels_innermost(self.first.expand(count, *self.first.shape))
        groups: list[Tensor] = []
        for part in self.tower:
            if isinstance(part, Combine):
                number = len(groups)
                groups.append(choose(number, features, self._law(number, features)))
                features = part(features, groups[-1])
            else:
                features = part(features)
        return Latent(tuple(groups), features)

    def _law(self, number: int, features: Tensor) -> DiagonalNormal:
        if number == 0:
            zero = features.new_zeros(len(features), *self._shapes[0])
            return DiagonalNormal(zero, zero)
        return DiagonalNormal.of(self.heads[number - 1](nn.functional.elu(features)))

    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        return self.walk(len(noise[0]), lambda number, _, law: law.transform(noise[number], temperature))

    def log_prob(self, latent: Latent) -> Tensor:
        terms: list[Tensor] = []

        def score(number: int, _: Tensor, law: DiagonalNormal) -> Tensor:
            terms.append(law.log_prob(latent.groups[number]))
            return latent.groups[number]

        self.walk(len(latent), score)
        return torch.stack(terms).sum(0)

    def for_chain(self) -> AbstractContextManager[None]:
        return convolved_in(self.chain_precision, self)

    def penalty(self) -> Tensor:
        total: Tensor = self.weight_penalty()
        return total


def nvae_prior(prior: Prior, who: str) -> NVAEPrior:
    """The prior as NVAE's; refuses any other, whose tower there would be nothing to go on from.

    Raises:
        ContractError: It is another prior.
    """
    if not isinstance(prior, NVAEPrior):
        raise ContractError(f"{who} 'nvae' continues the tower of prior 'nvae'; the prior is a {type(prior).__name__}")
    return prior
