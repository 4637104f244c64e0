"""Kernels and a small model whose chains tests run in several ways."""

import torch

from genfw.models.model import Model
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan.decoder import DCGANDecoder
from genfw_plugins.mcmc.adam import AdamMode
from genfw_plugins.mcmc.annealed import AnnealedLangevin
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.isir import ISIR
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.tempered import TemperedLangevin
from genfw_plugins.mlp_energy.energy import MLPEnergy

KERNELS = {
    "langevin": lambda: Langevin(step_size=0.01, steps=3),
    "mala": lambda: MALA(step_size=0.01, steps=3, jitter=0.5),
    "hmc": lambda: HMC(step_size=0.01, steps=2, leapfrog_steps=2),
    "tempered-langevin": lambda: TemperedLangevin(step_size=0.01, steps=3),
    "isir": lambda: ISIR(candidates=3, steps=3),
    "ex2": lambda: Ex2(candidates=2, steps=2),
    "annealed-langevin": lambda: AnnealedLangevin(step_size=0.01, steps=3),
    "adam": lambda: AdamMode(lr=0.01, steps=3, decay="cosine"),
}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def lebm():
    """DAMC's parts, small: an energy on the latent, and a decoder whose gradient is written by hand."""
    torch.manual_seed(0)
    prior = StandardNormal(5)
    layout = Model(prior).latent_layout
    decoder = DCGANDecoder((3, 8, 8), layout, width=2, start=4, factors=(2,), last="up")
    return Model(
        prior, decoder, energy=MLPEnergy(latent_layout=layout, on="latent", hidden=(8,), activation="leaky-relu")
    )
