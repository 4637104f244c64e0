"""NVAE's decoder: from the prior's features to a density over images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from genfw import Decoder, Gaussian, Latent, Likelihood, Prior, Size
from genfw.nn.precision import ChainPrecision
from genfw.plugins.validators import at_least
from genfw_plugins.nvae.discrete import Bernoulli, LogisticMixture
from genfw_plugins.nvae.laws import DiagonalNormal
from genfw_plugins.nvae.network import Conv, InvertedCell, WeightPenalty, convolved_in
from genfw_plugins.nvae.prior import NVAEPrior, nvae_prior


class NVAEDecoder(Decoder):
    r"""Post-processing from the finest scale to the image, :math:`p(x \mid z)`.

    References: Vahdat & Kautz 2020 (arXiv 2007.03898); VAEBM (arXiv 2010.00654) App. E for the Gaussian likelihood.

    Arguments:
        prior: The model's prior, an ``nvae`` one, whose features the decoder goes on from.
        likelihood: ``gaussian`` with mean and scale per pixel (VAEBM), ``mixture`` of discretised logistics (NVAE on
            colour images), ``bernoulli`` for black and white.
        mixtures: Components of the mixture.
        levels: Levels of a pixel, for the mixture; the data must be rounded to as many.
        postprocess_cells: Residual cells in each block between the finest scale and the image; the first one doubles.
        gate: Squeeze-and-excitation in the cells.
        chain_precision: See prior ``nvae``; likelihoods stay in the model's precision.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"postprocess_cells": 1, "mixtures": 2}

    def __init__(
        self,
        prior: Prior,
        likelihood: Literal["gaussian", "mixture", "bernoulli"] = "gaussian",
        mixtures: int = 10,
        levels: int = 256,
        postprocess_cells: int = 2,
        gate: bool = True,
        chain_precision: ChainPrecision = "model",
    ) -> None:
        super().__init__()
        top_down = nvae_prior(prior, "decoder")
        at_least(1).check(postprocess_cells=postprocess_cells, mixtures=mixtures)
        at_least(2).check(levels=levels)
        # Kept out of the module's children: the prior's weights belong to the model, not to its decoder.
        object.__setattr__(self, "_prior", top_down)
        self.data_shape, self.padded = top_down.data_shape, top_down.padded
        self.likelihood, self.levels = likelihood, levels
        width, cells = top_down.context_shape[0], []
        for _ in range(top_down.blocks):
            cells.append(InvertedCell(width, width // 2, 3, gate))
            width //= 2
            cells += [InvertedCell(width, width, 3, gate) for _ in range(postprocess_cells - 1)]
        self.cells = nn.ModuleList(cells)
        channels = self.data_shape[0]
        outputs = {
            "gaussian": 2 * channels,
            "bernoulli": channels,
            "mixture": LogisticMixture.parameters(channels, mixtures) if likelihood == "mixture" else 0,
        }[likelihood]
        self.head = Conv(width, outputs, 3)
        self.weight_penalty = WeightPenalty(self.cells, self.head)
        self.chain_precision: ChainPrecision = chain_precision

    @property
    def noise_shape(self) -> Size | None:
        """See :attr:`Decoder.noise_shape`."""
        channels, *sides = self.data_shape
        return (channels + 1, *sides) if self.likelihood == "mixture" else self.data_shape

    def parameters_of(self, latent: Latent) -> Tensor:
        """The raw parameters of the likelihood, with shape ``(B, K, H, W)``.

        Where the latent comes without the prior's features (a chain over z itself), its groups give them.
        """
        features = latent.context
        if features is None:
            prior: NVAEPrior = self.__dict__["_prior"]
            features = prior.walk(len(latent), lambda number, *_: latent.groups[number]).context
        assert features is not None  # NVAE's prior always gives them
        for cell in self.cells:
            features = cell(features)
        raw: Tensor = self.head(F.elu(features))
        _, height, width = self.data_shape
        top, left = (self.padded[0] - height) // 2, (self.padded[1] - width) // 2
        return raw[:, :, top : top + height, left : left + width]

    def forward(self, latent: Latent) -> Likelihood:
        raw = self.parameters_of(latent)
        if self.likelihood == "bernoulli":
            return Bernoulli(raw)
        if self.likelihood == "mixture":
            return LogisticMixture.of(raw, self.data_shape[0], self.levels)
        law = DiagonalNormal.of(raw)
        return Gaussian(law.mean, law.scale)

    def for_chain(self) -> AbstractContextManager[None]:
        return convolved_in(self.chain_precision, self)

    def penalty(self) -> Tensor:
        total: Tensor = self.weight_penalty()
        return total
