"""The starts that need a model or data, and the alternating stage, under the laws of their interfaces."""

import torch

from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.targets import DataTarget, NoiseTarget, PosteriorTarget
from genfw.testing import StageSuite, StartSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyEnergy, TinyPrior
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.data import DataStart
from genfw_plugins.mcmc.starts.encoder import EncoderStart
from genfw_plugins.mcmc.starts.generator import GeneratorStart
from genfw_plugins.mcmc.starts.mixture import MixtureStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mcmc.starts.replay import ReplayStart
from genfw_plugins.mcmc.starts.warm import WarmStart
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.training.alternating import Alternating
from genfw_plugins.training.optimizers import Adam


def model():
    """The same weights at every call, whatever the caller's randomness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = TinyPrior()
        return Model(prior, TinyDecoder(), TinyEncoder(prior), TinyEnergy())


class WithData(StartSuite):
    def data(self, count):
        return torch.randn(count, 2, generator=torch.Generator().manual_seed(count))


class TestWarmStart(WithData):
    def make(self):
        return WarmStart()

    def target(self):
        return PosteriorTarget(model(), self.data(6))


class TestDataStart(WithData):
    def make(self):
        return DataStart(noise=0.1)

    def target(self):
        return DataTarget(model())


class TestEncoderStart(WithData):
    def make(self):
        return EncoderStart(encoder=model().encoder)

    def target(self):
        return NoiseTarget(model())


class TestGeneratorStart(StartSuite):
    def make(self):
        return GeneratorStart(model=model())

    def target(self):
        return DataTarget(model())


class TestMixtureStart(StartSuite):
    def make(self):
        return MixtureStart(starts=[NoiseStart(), ReplayStart(size=20)], weights=[1.0, 2.0])


class TestAlternating(StageSuite):
    def make_model(self):
        prior = TinyPrior()
        layout = Model(prior).latent_layout
        return Model(prior, TinyDecoder(), energy=MLPEnergy(latent_layout=layout, on="latent", hidden=(4,)))

    def make_stage(self, model):
        def chain(*starts):
            return Chain(Langevin(step_size=0.05, steps=2), list(starts))

        return Alternating(
            model=model,
            steps=4,
            batch=8,
            posterior=chain(WarmStart()),
            prior=chain(NoiseStart(), ReplayStart(size=16)),
            share_start=True,
            optimizer=Adam(),
            energy_optimizer=Adam(),
            average=0.9,
        )
