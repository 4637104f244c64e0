"""Small models whose answers are known, and what the tests of stages lend to a stage in place of the engine."""

import contextlib

import torch
from torch import nn

from genfw.interfaces import Decoder, Energy, TensorSplit
from genfw.interfaces.likelihood import Gaussian
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.training.loader import Loader
from genfw.training.stage import StageRun
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.noise import NoiseStart


class Fabric:
    """One process, full precision."""

    world_size = 1

    def autocast(self):
        return contextlib.nullcontext()


class Tilt(Energy):
    """E(v) = a . v: the tilted standard normal is N(-a, I), so the answer is a = -mean of the data."""

    def __init__(self, size, on):
        super().__init__()
        self.on = on
        self.slope = nn.Parameter(torch.zeros(size))

    def forward(self, v):
        return v.flatten(1) @ self.slope


class LinearDecoder(Decoder):
    r"""x = W z + b + sigma eps: factor analysis, whose marginal is N(b, W W' + sigma^2)."""

    def __init__(self, size, latent, sigma):
        super().__init__()
        self.size, self.sigma = size, sigma
        self.map = nn.Linear(latent, size)

    @property
    def noise_shape(self):
        return (self.size,)

    def forward(self, latent):
        return Gaussian(self.map(latent.flat()), self.sigma)


def train(stage, x, seed=0):
    stage.run = StageRun(Fabric(), torch.device("cpu"), torch.Generator().manual_seed(seed), len(x))
    stage.setup()
    rows = [
        stage.step(batch, step) for step, batch in Loader(TensorSplit(x), stage.batch, seed).batches(0, stage.steps)
    ]
    stage.finish()
    return rows


LATENT, DATA = Tilt(2, "latent"), Tilt(2, "data")
CHAIN = Chain(Langevin(step_size=1e-2, steps=1), NoiseStart())


def tiny(energy=None, encoder=True):
    prior = StandardNormal(2)
    return Model(prior, LinearDecoder(2, 2, 0.5), MLPEncoder(prior, (2,)) if encoder else None, energy=energy)
