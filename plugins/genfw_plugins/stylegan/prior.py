"""A normal law over styles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genfw import ContractError, Latent, Prior, Size
from genfw.plugins.validators import at_least, positive
from genfw.weights.load import load_into
from genfw_plugins.stylegan.layers import layer_count, sides_up_to


class StyleGANPrior(Prior):
    r"""Styles as a normal with the mean and covariance that the mapping network's have:

    .. math:: w_l = \bar w + \psi_l A \epsilon_l, \qquad A A^T = \mathrm{Cov}[w],\ \epsilon_l \sim N(0, I).

    In W+ each of the :math:`L` layers of the generator has a style of its own, independent of the others; in W all
    share one. The true law of :math:`w` is not normal, and its layers are equal; this one covers what W+ is used for,
    finding the style of a given image, and chains walk in coordinates in which it is round.

    Until statistics are loaded or measured, the mean is 0 and the covariance the identity.

    References:
        StyleGAN (arXiv 1812.04948) App. B for :math:`\psi`; Abdal et al. 2019 (arXiv 1904.03189) for W+.

    Arguments:
        data_shape: Shape of one image, :math:`C, H, H`; its side gives the number of layers.
        space: ``w+`` (a latent of shape :math:`L, d`) or ``w`` (of shape :math:`d`).
        width: :math:`d`.
        truncation: :math:`\psi`, factor on the distance from the mean; below 1 for typical images.
        truncation_layers: Layers, from the coarsest on, that it is for, in W+; all where absent.
        noise: Whether the generator's noise is part of the latent, a group for each layer; it is constant where not.
        generation: Generation of the generator, 1 or 2, which has a layer less; only read with ``noise``.
        weights: What ``genfw import stylegan`` has written; absent, statistics are measured in training.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"width": 8, "weights": None}
    mean: Tensor
    factor: Tensor
    psi: Tensor

    def __init__(
        self,
        data_shape: Size,
        space: Literal["w+", "w"] = "w+",
        width: int = 512,
        truncation: float = 1.0,
        truncation_layers: int | None = None,
        noise: bool = False,
        generation: Literal[1, 2] = 1,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if len(data_shape) != 3 or data_shape[1] != data_shape[2]:
            raise ContractError(f"prior 'stylegan' is for square images (C, H, H); the data have {tuple(data_shape)}")
        at_least(1).check(width=width)
        positive.check(truncation=truncation)
        at_least(0).check(truncation_layers=truncation_layers)
        if space == "w" and truncation_layers is not None:
            raise ContractError("in space 'w' all layers share a style; truncation_layers is for space 'w+'")
        side, self.space, self.width = data_shape[1], space, width
        layers = layer_count(side) if space == "w+" else 1
        psi = torch.ones(layers, 1)
        psi[:truncation_layers] = truncation
        self.register_buffer("psi", psi, persistent=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("factor", torch.eye(width))
        planes = [each for each in sides_up_to(side) for _ in range(2)][generation - 1 :] if noise else []
        style = (layers, width) if space == "w+" else (width,)
        self._shapes: tuple[Size, ...] = (style, *((1, each, each) for each in planes))
        if weights is not None:
            load_into(self, weights)

    @property
    def noise_shapes(self) -> tuple[Size, ...]:
        """See :attr:`Prior.noise_shapes`."""
        return self._shapes

    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        eps, *planes = noise
        step = (temperature * self.psi) * (eps.reshape(len(eps), -1, self.width) @ self.factor.T)
        planes = [plane if temperature == 1.0 else temperature * plane for plane in planes]
        return Latent(((self.mean + step).reshape(eps.shape), *planes))

    def inverse(self, styles: Tensor) -> Tensor:
        r"""The flat noise :math:`\epsilon` of styles; 0 for planes of noise.

        Arguments:
            styles: Styles of the prior's space, with shape :math:`(B, L, d)` or :math:`(B, d)`.

        Returns:
            Positions, with shape :math:`(B, D_z)`.
        """
        step = (styles.reshape(len(styles), -1, self.width) - self.mean) / self.psi
        eps = torch.linalg.solve_triangular(self.factor, step.flatten(0, 1).T, upper=False).T
        missing = sum(math.prod(shape) for shape in self._shapes[1:])
        return torch.cat([eps.reshape(len(styles), -1), styles.new_zeros(len(styles), missing)], dim=1)

    def log_prob(self, latent: Latent) -> Tensor:
        styles, *planes = latent.groups
        eps = torch.cat([self.inverse(styles)[:, : styles[0].numel()], *(plane.flatten(1) for plane in planes)], dim=1)
        volume = len(self.psi) * self.factor.diagonal().log().sum() + self.width * self.psi.log().sum()
        return -0.5 * eps.square().sum(1) - 0.5 * math.log(2.0 * math.pi) * eps.shape[1] - volume

    @torch.no_grad()
    def standardise(self, mean: Tensor, covariance: Tensor) -> None:
        """Take over the statistics of a mapping network.

        Arguments:
            mean: Mean of its styles, with shape :math:`(d)`.
            covariance: Their covariance, with shape :math:`(d, d)`.
        """
        self.mean.copy_(mean)
        self.factor.copy_(triangular(covariance))


def triangular(covariance: Tensor) -> Tensor:
    r"""Lower-triangular :math:`A` with :math:`A A^T` the covariance, :math:`(d, d)`.

    A share of 1e-4 of the mean variance is added to every variance: few styles leave directions without any.
    """
    ridge = (1e-4 * covariance.diagonal().mean()).clamp_min(1e-12)
    wide = covariance.double() + ridge.double() * torch.eye(len(covariance), device=covariance.device)
    lower: Tensor = torch.linalg.cholesky(wide)
    return lower.to(covariance)
