"""A small NVAE for tests."""

import torch

from genfw.models.model import Model
from genfw_plugins.nvae.decoder import NVAEDecoder
from genfw_plugins.nvae.encoder import NVAEEncoder
from genfw_plugins.nvae.network import BatchNorm
from genfw_plugins.nvae.prior import NVAEPrior

DTYPE = torch.float64


def small_prior(shape=(1, 4, 4), **settings):
    defaults = {"channels": 4, "scales": 2, "groups": 1, "latent_channels": 2, "cells": 1, "blocks": 1}
    return NVAEPrior(shape, **{**defaults, **settings})


def small_model(*energies, shape=(1, 4, 4), seed=0, **settings):
    """An NVAE in float64 whose batch norms have seen data and whose laws depend strongly on what they are given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = small_prior(shape, **settings)
        decoder, encoder = NVAEDecoder(prior, postprocess_cells=1), NVAEEncoder(prior, 4, 1, 1)
        model = Model(prior, decoder, encoder, energy=list(energies)).to(DTYPE)
        with torch.no_grad():
            for head in [*prior.heads, decoder.head]:
                head.log_norm += 1.0
            for layer in model.modules():
                if isinstance(layer, BatchNorm):
                    layer.running_mean.normal_(0.0, 0.3)
                    layer.running_var.uniform_(0.5, 2.0)
    return model.eval()
