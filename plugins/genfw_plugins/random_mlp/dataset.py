"""Data drawn from a law pushed through a random, fixed network."""

from __future__ import annotations

import math

import attrs
import torch

from genfw import Dataset, Size, Split, TensorSplit
from genfw.nn.layers import Activation
from genfw.plugins.validators import positive
from genfw.randomness import derive_seed
from genfw_plugins.random_mlp.network import RandomMLP


@attrs.define(kw_only=True, eq=False, slots=False)
class RandomMLPData(Dataset):
    r"""Draws of the model that has decoder ``random-mlp``: :math:`x = g(z) + \sigma \epsilon`, :math:`z` from ``law``.

    A row for each row of the law's splits. With the same ``seed``, ``hidden``, ``activation``, ``sigma``,
    ``weight_std`` and ``bias_std`` as the decoder, the posterior that the model has given a row is exact: the row was
    made so.

    References:
        DAMC (arXiv 2310.03218), App. E.1.

    Arguments:
        law: The law of :math:`z`; a data set whose items are vectors.
        size: Numbers in a row.
        hidden: Width of each hidden layer of :math:`g`.
        activation: Between the layers.
        sigma: :math:`\sigma`.
        weight_std: Standard deviation of the weights.
        bias_std: Standard deviation of the biases.
        seed: Which network, and which noise.
    """

    law: Dataset
    size: int = attrs.field(default=2, validator=positive)
    hidden: tuple[int, ...] = (128, 128, 128)
    activation: Activation = "relu"
    sigma: float = attrs.field(default=0.25, validator=positive)
    weight_std: float = 0.2
    bias_std: float = 0.1
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        inputs = math.prod(self.law.data_shape)
        stds = (self.weight_std, self.bias_std)
        self.net = RandomMLP(inputs, self.hidden, self.size, self.activation, *stds, self.seed)

    @property
    def data_shape(self) -> Size:
        """See :attr:`genfw.interfaces.Dataset.data_shape`."""
        return (self.size,)

    def split(self, name: str) -> Split:
        rows = self.law.split(name)
        z, _ = rows.get(torch.arange(len(rows)))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "random-mlp", name))
        with torch.no_grad():
            mean = self.net(z.flatten(1).float())
        return TensorSplit(mean + self.sigma * torch.randn(mean.shape, generator=generator))
