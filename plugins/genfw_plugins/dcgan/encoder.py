"""Convolutional encoder: a posterior, or a description of an image for an amortizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from genfw import ContractError, NormalEncoder, Prior, Size
from genfw_plugins.dcgan.network import inspector
from genfw_plugins.dcgan.presets import PRESETS, Architecture


class DCGANEncoder(NormalEncoder):
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
        if factors is None:
            if architecture is None:
                raise ContractError(f"give architecture (one of {', '.join(PRESETS)}), or factors")
            factors = PRESETS[architecture].encoder
        if len(data_shape) != 3:
            raise ContractError(f"encoder 'dcgan' reads images (C, H, W); an item of the data has shape {data_shape}")
        if prior is None and embedding is None:
            raise ContractError("encoder 'dcgan' needs a prior to be a posterior, or embedding to be a description")
        super().__init__(prior if embedding is None else None)
        outputs = 2 * self.noise_layout.size if embedding is None else embedding
        channels, height, side = data_shape
        self.net = inspector((channels, height, side), width, factors, outputs, normalise)

    def read(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]
