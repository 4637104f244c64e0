"""Fully connected encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genfw import ContractError, Encoder, Posterior, Prior, Size
from genfw.nn.layers import Activation, mlp, normal_posterior


class MLPEncoder(Encoder):
    r"""Gaussian posterior in noise space: :math:`q(\epsilon_z \mid x) = N(\mu(x), \sigma^2(x))`.

    For the standard-normal prior this is the usual Gaussian encoder. For any other prior it stays exact: where
    :math:`T_z` is a bijection, :math:`KL[q(z|x) \| p(z)] = KL[q(\epsilon_z|x) \| N(0, I)]`, in closed form.

    With ``embedding`` the network makes a description of that length, which :meth:`embed` gives to an amortizer; there
    is no posterior then.

    Arguments:
        prior: The model's prior.
        data_shape: Shape of one item; items are read flat.
        hidden: Width of each hidden layer.
        activation: Between the layers.
        embedding: Length :math:`e` of the description; absent, the encoder is a posterior.
    """

    def __init__(
        self,
        prior: Prior,
        data_shape: Size,
        hidden: tuple[int, ...] = (256, 256, 256, 256),
        activation: Activation = "silu",
        embedding: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        # Kept out of the module's children: the prior's weights belong to the model, not to its encoder.
        object.__setattr__(self, "_prior", prior)
        size = sum(math.prod(shape) for shape in prior.noise_shapes)
        self.net = mlp(math.prod(data_shape), hidden, 2 * size if embedding is None else embedding, activation)

    def forward(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Posterior:
        """See :meth:`Encoder.forward`.

        Raises:
            ContractError: The encoder was made with ``embedding``.
        """
        if self.embedding is not None:
            raise ContractError("this encoder describes x (embedding) and has no posterior; leave embedding out")
        mean, log_scale = self.net(x.flatten(1)).chunk(2, dim=1)
        prior: Prior = self.__dict__["_prior"]
        return normal_posterior(prior, mean, log_scale, noise=noise, generator=generator, temperature=temperature)

    def embed(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.net(x.flatten(1))
        return outputs.chunk(2, dim=1)[0] if self.embedding is None else outputs
