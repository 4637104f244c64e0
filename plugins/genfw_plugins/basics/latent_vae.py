"""A variational autoencoder over noise positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genfw import Amortizer, ContractError, NoiseLayout
from genfw.nn.layers import Activation, mlp
from genfw.nn.precision import full
from genfw.plugins.validators import at_least, positive


class LatentVAE(Amortizer):
    r"""VAE of positions: :math:`u \sim N(0, I)`, :math:`\epsilon \sim N(g(u), \gamma^2 I)`; it is blind to x.

    Its loss is the negative evidence lower bound, :math:`-\log p(\epsilon \mid u) + KL[q(u \mid \epsilon) \| p(u)]`,
    with one :math:`u` from a normal :math:`q`. Fitted to an encoder's draws it is the second stage of a two-stage
    VAE: where the latents fill their space, it learns their law even though the first prior did not hold.

    References:
        Diagnosing and enhancing VAE models (Dai and Wipf, 2019), https://arxiv.org/abs/1903.05789

    Arguments:
        latent_layout: The groups of a position.
        dim: Length of :math:`u`; that of a position where absent.
        hidden: Width of each hidden layer, of the encoder and of the decoder.
        activation: Between the layers.
        scale: First value of :math:`\gamma`, which is learned.
        scale_min: Floor of :math:`\gamma`.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"dim": 8, "hidden": (16,)}

    def __init__(
        self,
        latent_layout: NoiseLayout,
        dim: int | None = None,
        hidden: tuple[int, ...] = (1024, 1024, 1024),
        activation: Activation = "relu",
        scale: float = 1.0,
        scale_min: float = 1e-3,
    ) -> None:
        super().__init__()
        self.size = latent_layout.size
        self.dim = self.size if dim is None else dim
        at_least(1).check(dim=self.dim)
        positive.check(scale=scale, scale_min=scale_min)
        if not scale_min < scale:
            raise ContractError(f"scale must exceed scale_min, got {scale} and {scale_min}")
        self.encoder = mlp(self.size, hidden, 2 * self.dim, activation)
        self.decoder = mlp(self.dim, hidden, self.size, activation)
        self.scale_min = scale_min
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale - scale_min)))

    @property
    def scale(self) -> Tensor:
        r""":math:`\gamma`."""
        return self.log_scale.exp() + self.scale_min

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            mean = self.decoder(self._noise(count, self.dim, generator))
            drawn: Tensor = mean + self.scale * self._noise(count, self.size, generator)
            return drawn

    def sample_given(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`Amortizer.sample_given`: the same law for every x."""
        return self.sample(len(x), generator=generator)

    def loss(
        self, position: Tensor, x: Tensor | None, *, generator: torch.Generator, hidden: Tensor | None = None
    ) -> Tensor:
        mean, log_scale = full(self.encoder(position)).chunk(2, dim=1)
        code = mean + log_scale.exp() * self._noise(len(position), self.dim, generator)
        kl = (0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale).sum(1)
        gamma = self.scale
        error = (position - self.decoder(code)).square().sum(1) / (2 * gamma.square())
        total: Tensor = error + self.size * (gamma.log() + 0.5 * math.log(2 * math.pi)) + kl
        return total

    def _noise(self, count: int, width: int, generator: torch.Generator) -> Tensor:
        like = self.log_scale
        return torch.randn(count, width, generator=generator, device=like.device, dtype=like.dtype)
