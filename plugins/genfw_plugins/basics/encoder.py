"""Fully connected encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genfw.interfaces.encoder import Encoder, Posterior
from genfw.interfaces.prior import Prior
from genfw.nets import Activation, mlp
from genfw.types import Size

__all__ = ["MLPEncoder"]


class MLPEncoder(Encoder):
    r"""Gaussian posterior in noise space: :math:`q(\epsilon_z \mid x) = N(\mu(x), \sigma^2(x))`.

    For the standard-normal prior this is the usual Gaussian encoder. For any other prior it stays exact: where
    :math:`T_z` is a bijection, :math:`KL[q(z|x) \| p(z)] = KL[q(\epsilon_z|x) \| N(0, I)]`, in closed form.

    Arguments:
        prior: The model's prior.
        data_shape: Shape of one item; items are read flat.
        hidden: Width of each hidden layer.
        activation: Between the layers.
    """

    def __init__(
        self,
        prior: Prior,
        data_shape: Size,
        hidden: tuple[int, ...] = (256, 256, 256, 256),
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        # Kept out of the module's children: the prior's weights belong to the model, not to its encoder.
        object.__setattr__(self, "_prior", prior)
        self._sizes = [math.prod(shape) for shape in prior.noise_shapes]
        self._shapes = prior.noise_shapes
        self.net = mlp(math.prod(data_shape), hidden, 2 * sum(self._sizes), activation)

    def forward(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Posterior:
        """See :meth:`Encoder.forward`."""
        mean, log_scale = self.net(x.flatten(1)).chunk(2, dim=1)
        if noise is None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        noise = temperature * noise
        eps = mean + log_scale.exp() * noise
        prior: Prior = self.__dict__["_prior"]
        blocks = [
            block.unflatten(1, shape) for block, shape in zip(eps.split(self._sizes, 1), self._shapes, strict=True)
        ]
        constant = 0.5 * math.log(2 * math.pi) * eps.shape[1]
        kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
        return Posterior(
            latent=prior.transform(blocks),
            noise=eps,
            log_q=-(0.5 * noise.square() + log_scale).sum(1) - constant,
            log_p=-0.5 * eps.square().sum(1) - constant,
            kl=torch.stack([part.sum(1) for part in kl.split(self._sizes, 1)], dim=1),
        )
