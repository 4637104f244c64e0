"""The smallest model with every part, for tests that need any model: 2-D data, linear maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genfw.errors import DataError
from genfw.interfaces import Dataset, Decoder, Energy, Prior, Split, TensorSplit
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.values import Latent, Size
from genfw.models.model import Model
from genfw.nn.normal_encoder import NormalEncoder
from genfw.nn.precision import apply_in_full

if TYPE_CHECKING:
    from genfw.evaluation.evaluation import Evaluation


class TinyPrior(Prior):
    r""":math:`z = \mu + e^s \epsilon` with learned :math:`\mu, s`.

    Arguments:
        dim: Size of the latent.
    """

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.dim = dim
        self.mean, self.log_scale = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    @property
    def noise_shapes(self) -> tuple[Size, ...]:
        """See :attr:`Prior.noise_shapes`."""
        return ((self.dim,),)

    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        return Latent((self.mean + temperature * self.log_scale.exp() * noise[0],))

    def log_prob(self, latent: Latent) -> Tensor:
        white = (latent.flat() - self.mean) * torch.exp(-self.log_scale)
        return (-0.5 * white.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(1)


class TinyDecoder(Decoder):
    r""":math:`p(x \mid z) = N(W z + b, 0.25)`.

    Arguments:
        dim: Size of the latent.
        size: Size of the data.
    """

    def __init__(self, dim: int = 2, size: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, size)

    @property
    def noise_shape(self) -> Size | None:
        """See :attr:`Decoder.noise_shape`."""
        return (self.linear.out_features,)

    def forward(self, latent: Latent) -> Gaussian:
        return Gaussian(self.linear(latent.flat()), 0.5)


class TinyEncoder(NormalEncoder):
    r""":math:`q(\epsilon \mid x) = N(W x + b, e^{2s})`, transformed by a :class:`TinyPrior`.

    Arguments:
        prior: The model's prior.
        size: Size of the data.
    """

    def __init__(self, prior: TinyPrior, size: int = 2) -> None:
        super().__init__(prior)
        self.linear, self.log_scale = nn.Linear(size, prior.dim), nn.Parameter(torch.zeros(prior.dim))

    def read(self, x: Tensor) -> Tensor:
        mean = self.linear(x)
        return torch.cat([mean, self.log_scale.expand_as(mean)], dim=1)


class TinyEnergy(Energy):
    r""":math:`E(v) = w^\top \tanh(W v)`.

    Arguments:
        size: Size of a point.
        on: What it reads.
    """

    def __init__(self, size: int = 2, on: str = "data") -> None:
        super().__init__()
        self.on = "latent" if on == "latent" else "data"
        self.net = nn.Sequential(nn.Linear(size, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, v: Tensor) -> Tensor:
        return apply_in_full(self.net, v.flatten(1)).squeeze(1)


class TinyData(Dataset):
    """Standard-normal pairs.

    Arguments:
        rows: Rows of each split.
    """

    def __init__(self, rows: int = 64) -> None:
        self.rows = rows

    @property
    def data_shape(self) -> Size:
        """See :attr:`Dataset.data_shape`."""
        return (2,)

    def split(self, name: str) -> Split:
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'; there are train and test")
        generator = torch.Generator().manual_seed(0 if name == "train" else 1)
        return TensorSplit(torch.randn(self.rows, 2, generator=generator))

    def log_prob(self, x: Tensor) -> Tensor | None:
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi)


def tiny_model(seed: int = 0) -> Model:
    """Prior, decoder, encoder and energies on data and on the latent; the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = TinyPrior()
        energies = [TinyEnergy(), TinyEnergy(on="latent")]
        return Model(prior, TinyDecoder(), TinyEncoder(prior), energies)


def tiny_evaluation(directory: Path | str) -> Evaluation:
    """A tiny model in eval mode with its data, ready to be measured; figures go to ``directory``."""
    from genfw.evaluation.evaluation import Evaluation

    return Evaluation(tiny_model().eval().requires_grad_(False), TinyData(), directory=directory)
