"""Fully connected encoder."""

from __future__ import annotations

import math

from torch import Tensor

from genfw import NormalEncoder, Prior, Size
from genfw.nn.layers import Activation, mlp


class MLPEncoder(NormalEncoder):
    r"""Gaussian posterior in noise space: :math:`q(\epsilon_z \mid x) = N(\mu(x), \sigma^2(x))`.

    For the standard-normal prior this is the usual Gaussian encoder; for any other it stays exact, see
    :class:`~genfw.NormalEncoder`.

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
        super().__init__(prior if embedding is None else None)
        outputs = 2 * self.noise_layout.size if embedding is None else embedding
        self.net = mlp(math.prod(data_shape), hidden, outputs, activation)

    def read(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))  # type: ignore[no-any-return]
