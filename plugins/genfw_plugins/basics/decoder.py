"""Fully connected decoder with a Gaussian likelihood."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from genfw import ContractError, Decoder, Gaussian, Latent, NoiseLayout, Size
from genfw.nn.layers import Activation, mlp
from genfw.nn.precision import full
from genfw.plugins.validators import at_least, positive


class MLPDecoder(Decoder):
    r"""Fully connected decoder, :math:`p(x \mid z) = N(x; \mu(z), \sigma^2)`.

    Arguments:
        data_shape: Shape of one item.
        latent_layout: The prior's groups; the decoder reads them flat.
        hidden: Width of each hidden layer.
        activation: Between the layers.
        sigma: Standard deviation; the first value where it is learned. Never below ``sigma_min``.
        scale: ``fixed`` keeps ``sigma``; ``learned`` learns one value per data dimension; ``per-latent`` computes one
            per data dimension from z.
        output: ``tanh`` keeps means of images in [-1, 1]; ``identity`` leaves them free.
        sigma_min: Floor of a learned standard deviation, reached smoothly, so that no gradient is cut.
    """

    def __init__(
        self,
        data_shape: Size,
        latent_layout: NoiseLayout,
        hidden: tuple[int, ...] = (256, 256, 256, 256),
        activation: Activation = "silu",
        sigma: float = 0.1,
        scale: Literal["fixed", "learned", "per-latent"] = "fixed",
        output: Literal["identity", "tanh"] = "identity",
        sigma_min: float = 1e-3,
    ) -> None:
        super().__init__()
        positive.check(sigma=sigma)
        at_least(0).check(sigma_min=sigma_min)
        if not sigma > sigma_min:
            raise ContractError(f"sigma must exceed sigma_min = {sigma_min}, got {sigma}")
        self.data_shape, self.scale, self.output = tuple(data_shape), scale, output
        self.sigma, self.sigma_min = sigma, sigma_min
        size = math.prod(self.data_shape)
        self.net = mlp(latent_layout.size, hidden, 2 * size if scale == "per-latent" else size, activation)
        # softplus(raw) + sigma_min = sigma at the start.
        above = sigma - sigma_min
        raw = math.log(math.expm1(above)) if above < 30 else above  # where exp would leave the doubles
        if scale == "learned":
            self.raw_scale = nn.Parameter(torch.full((size,), raw))
        elif scale == "per-latent":
            last = self.net[-1]
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                last.weight[size:].zero_()
                last.bias[size:].fill_(raw)

    @property
    def noise_shape(self) -> Size | None:
        """See :attr:`Decoder.noise_shape`."""
        return self.data_shape

    def forward(self, latent: Latent) -> Gaussian:
        outputs = full(self.net(latent.flat()))
        if self.scale == "per-latent":
            mean, raw = outputs.chunk(2, dim=1)
        else:
            mean, raw = outputs, None
        if self.output == "tanh":
            mean = mean.tanh()
        mean = mean.unflatten(1, self.data_shape)
        if self.scale == "learned":
            raw = self.raw_scale.expand(len(latent), -1)
        if raw is None:
            return Gaussian(mean, self.sigma)
        return Gaussian(mean, (F.softplus(raw) + self.sigma_min).unflatten(1, self.data_shape))
