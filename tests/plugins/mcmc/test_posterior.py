"""Each item's own posterior, where it is known: a linear Gaussian model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genfw.interfaces import Decoder
from genfw.interfaces.likelihood import Gaussian
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.targets import PosteriorTarget
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.isir import ISIR
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mcmc.tempered import TemperedLangevin

SIGMA = 0.6
WEIGHT = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.3]])


class Linear(Decoder):
    noise_shape = (3,)

    def forward(self, latent) -> Gaussian:
        return Gaussian(latent.flat() @ WEIGHT.T, SIGMA)


@pytest.fixture
def x() -> Tensor:
    # Items far apart: a candidate scored against another item's x would be far off.
    return torch.tensor([[1.5, 1.0, 0.5], [-1.5, 0.5, 0.0], [0.5, -2.0, 0.2]])


@pytest.mark.parametrize(
    "sampler",
    [
        MALA(steps=80),
        HMC(steps=25),
        ISIR(candidates=8, steps=50),
        ISIR(candidates=5, steps=70, chunk=2),
        Ex2(candidates=4, steps=30),
        TemperedLangevin(steps=60),
    ],
    ids=["mala", "hmc", "isir", "isir-chunked", "ex2", "tempered"],
)
def test_every_item_gets_its_own_posterior(sampler, x) -> None:
    rounds, rng = 700, torch.Generator().manual_seed(0)
    model = Model(prior=StandardNormal(2), decoder=Linear())
    chain = Chain(sampler, NoiseStart()).run(PosteriorTarget(model, x), rounds * len(x), generator=rng, x=x)
    position = chain.position.view(rounds, len(x), 2)

    covariance = torch.linalg.inv(torch.eye(2) + WEIGHT.T @ WEIGHT / SIGMA**2)
    mean = x @ WEIGHT @ covariance / SIGMA**2
    error = (covariance.diagonal() / rounds).sqrt()
    assert ((position.mean(0) - mean).abs() < 4.5 * error).all()
    for item in range(len(x)):
        product = (position[:, item] - mean[item])[:, :, None] * (position[:, item] - mean[item])[:, None]
        assert ((product.mean(0) - covariance).abs() < 4.5 * product.std(0) / rounds**0.5).all()
    assert position.dtype == torch.float32
