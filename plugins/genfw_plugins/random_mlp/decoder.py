"""A random, fixed network as decoder."""

from __future__ import annotations

import math

from genfw import Decoder, Gaussian, Latent, NoiseLayout, Size
from genfw.nn.layers import Activation
from genfw.plugins.validators import positive
from genfw_plugins.random_mlp.network import RandomMLP


class RandomMLPDecoder(Decoder):
    r"""Neural likelihood :math:`p(x \mid z) = N(g(z), \sigma^2 I)` with a network :math:`g` that is drawn once.

    Nothing here is trained; what is left to learn is the posterior :math:`p(z \mid x)`. The data set of the same name
    makes data from the same network where its ``seed`` and sizes are the same.

    References:
        DAMC (arXiv 2310.03218), App. E.1; sizes and scales of the weights as in its published code.

    Arguments:
        data_shape: Shape of one item.
        latent_layout: The prior's groups; the network reads them flat.
        hidden: Width of each hidden layer.
        activation: Between the layers.
        sigma: :math:`\sigma`.
        weight_std: Standard deviation of the weights.
        bias_std: Standard deviation of the biases.
        seed: Which network.
    """

    def __init__(
        self,
        data_shape: Size,
        latent_layout: NoiseLayout,
        hidden: tuple[int, ...] = (128, 128, 128),
        activation: Activation = "relu",
        sigma: float = 0.25,
        weight_std: float = 0.2,
        bias_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        positive.check(sigma=sigma)
        self.data_shape, self.sigma = tuple(data_shape), sigma
        size = math.prod(self.data_shape)
        self.net = RandomMLP(latent_layout.size, hidden, size, activation, weight_std, bias_std, seed)

    @property
    def noise_shape(self) -> Size | None:
        """See :attr:`Decoder.noise_shape`."""
        return self.data_shape

    def forward(self, latent: Latent) -> Gaussian:
        return Gaussian(self.net(latent.flat()).unflatten(1, self.data_shape), self.sigma)
