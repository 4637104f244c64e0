"""Convolutional encoder: a posterior, or a description of an image for an amortizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from genfw import ContractError, Encoder, Posterior, Prior, Size
from genfw.nn.layers import normal_posterior
from genfw_plugins.dcgan.network import inspector
from genfw_plugins.dcgan.presets import PRESETS, Architecture


class DCGANEncoder(Encoder):
    r"""Convolutions down to one vector :math:`f(x)`.

    As the encoder of a model the vector holds mean and log scale of the posterior in noise space,
    :math:`q(\epsilon_z \mid x) = N(\mu(x), \sigma^2(x))`. With ``embedding`` it is a description of that length, which
    :meth:`embed` gives to an amortizer; there is no posterior then.

    References:
        DAMC (arXiv 2310.03218), Table S4.

    Arguments:
        data_shape: Shape of one item, :math:`C, H, W`.
        prior: The model's prior; a posterior needs it.
        architecture: One of the papers' networks.
        width: Factor on the channels of every hidden layer (the papers' nif).
        factors: Channels of the hidden layers, in multiples of ``width``, in place of the architecture's; each layer
            but the first halves the side.
        embedding: Length :math:`e` of the description (the papers' nemb, 1024); absent, the encoder is a posterior.
        normalise: Whether instance normalisation follows each hidden layer.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"width": 4}

    def __init__(
        self,
        data_shape: Size,
        prior: Prior | None = None,
        architecture: Architecture | None = None,
        width: int = 64,
        factors: tuple[int, ...] | None = None,
        embedding: int | None = None,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if factors is None:
            if architecture is None:
                raise ContractError(f"give architecture (one of {', '.join(PRESETS)}), or factors")
            factors = PRESETS[architecture].encoder
        if len(data_shape) != 3:
            raise ContractError(f"encoder 'dcgan' reads images (C, H, W); an item of the data has shape {data_shape}")
        if embedding is not None:
            outputs, prior = embedding, None
        elif prior is not None:
            outputs = 2 * sum(torch.Size(shape).numel() for shape in prior.noise_shapes)
        else:
            raise ContractError("encoder 'dcgan' needs a prior to be a posterior, or embedding to be a description")
        # Kept out of the module's children: the prior's weights belong to the model, not to its encoder.
        object.__setattr__(self, "_prior", prior)
        channels, height, side = data_shape
        self.net = inspector((channels, height, side), width, factors, outputs, normalise)

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
        prior: Prior | None = self.__dict__["_prior"]
        if prior is None:
            raise ContractError("this encoder describes x (embedding) and has no posterior; leave embedding out")
        mean, log_scale = self.net(x).chunk(2, dim=1)
        return normal_posterior(prior, mean, log_scale, noise=noise, generator=generator, temperature=temperature)

    def embed(self, x: Tensor) -> Tensor:
        vector: Tensor = self.net(x)
        return vector if self.__dict__["_prior"] is None else vector.chunk(2, dim=1)[0]
