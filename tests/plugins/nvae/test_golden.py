"""NVAE reproduces reference values of the published architecture, from its published weights."""

import json

import pytest
import torch
from safetensors import safe_open

from genfw.models.model import Model
from genfw_plugins.nvae.decoder import NVAEDecoder
from genfw_plugins.nvae.encoder import NVAEEncoder
from genfw_plugins.nvae.network import WeightPenalty
from genfw_plugins.nvae.prior import NVAEPrior
from genfw_plugins.nvae.published import arguments, convert
from places import GOLDEN

FILES = sorted(GOLDEN.glob("nvae-*.safetensors"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request):
    with safe_open(request.param, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        args = json.loads(file.metadata()["args"])
    weights = {k.removeprefix("state_dict."): v for k, v in tensors.items() if k.startswith("state_dict.")}
    settings = arguments(args)
    prior = NVAEPrior((3, 32, 32), **settings["prior"])
    model = Model(prior, NVAEDecoder(prior, **settings["decoder"]), NVAEEncoder(prior, **settings["encoder"]))
    absent, foreign = model.load_state_dict(convert(weights), strict=False)
    assert not foreign
    assert all(".weight_penalty." in name for name in absent)  # vectors of a power iteration
    return model.eval(), tensors


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def stacked(tensors, prefix):
    count = sum(name.startswith(prefix) and name.removeprefix(prefix).isdigit() for name in tensors)
    return [tensors[f"{prefix}{i}"] for i in range(count)]


@torch.no_grad()
def test_the_bound_at_given_posterior_noise(golden):
    model, tensors = golden
    noise = torch.cat([eps.flatten(1) for eps in stacked(tensors, "forward.eps.")], dim=1)
    x = 2.0 * tensors["forward.x"] - 1.0
    posterior = model.encoder(x, noise=noise)
    close(posterior.kl, tensors["forward.kl"])
    close(posterior.log_q, tensors["forward.log_q"])
    close(posterior.log_p, tensors["forward.log_p"])
    close(model.decoder.parameters_of(posterior.latent), tensors["forward.logits"])
    likelihood = model.likelihood(posterior.latent)
    if model.decoder.likelihood == "mixture":
        # The published code counts the second highest level, 254 of 255, as the highest: no probability then.
        likelihood.edges = (-0.999, 0.99)
    close(likelihood.log_prob(x), tensors["forward.log_px"])
    # The prior's own walk makes the same latent of the noise that the encoder gives, and scores it the same.
    again = model.latent(posterior.noise)
    close(again.flat(), posterior.latent.flat())
    close(again.context, posterior.latent.context)
    close(model.prior.log_prob(posterior.latent), posterior.log_p)


@torch.no_grad()
def test_samples_from_given_noise(golden):
    model, tensors = golden
    eps = stacked(tensors, "sample.eps.")
    latent = model.prior.transform(eps)
    for group, expected in zip(latent.groups, stacked(tensors, "sample.z."), strict=True):
        close(group, expected)
    close(model.prior.log_prob(latent), tensors["sample.log_p_total"])
    close(model.decoder.parameters_of(latent), tensors["sample.logits"])
    cold = model.prior.transform(eps, temperature=0.7)
    close(model.decoder.parameters_of(cold), tensors["sample_t0.7.logits"])
    likelihood = model.likelihood(latent)
    if model.decoder.likelihood == "gaussian":
        close(likelihood.mean, tensors["sample.mu"])
        close(likelihood.scale, tensors["sample.sigma"])
        x = likelihood.transform(tensors["sample.eps_x"])
        close(0.5 * x.clamp(-1.0, 1.0) + 0.5, tensors["sample.x"])


@torch.no_grad()
def test_penalties(golden):
    model, tensors = golden
    penalties = [part for part in model.modules() if isinstance(part, WeightPenalty)]
    for penalty in penalties:
        penalty.spectral.warm_up = 600
    spectral = sum(penalty.spectral() for penalty in penalties)
    close(spectral, tensors["spectral.sum_exact"])
    close(sum(penalty.batch_norm() for penalty in penalties), tensors["bn_loss"])
    close(sum(part.penalty() for part in (model.prior, model.decoder, model.encoder)), spectral + tensors["bn_loss"])


@torch.no_grad()
def test_folded_weights_give_the_same_as_unfolded_ones(golden):
    model, tensors = golden
    eps = stacked(tensors, "sample.eps.")
    plain = model.decoder.parameters_of(model.prior.transform(eps))
    model.requires_grad_(False).eval()
    folded = model.decoder.parameters_of(model.prior.transform(eps))
    torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        model.decoder.head.weight.mul_(torch.linspace(0.5, 2.0, 8).view(1, 8, 1, 1))
        model.prior.tower[1].norm_in.bias.add_(1.0)
    changed = model.eval().requires_grad_(True)
    expected = changed.decoder.parameters_of(changed.prior.transform(eps))
    model.requires_grad_(False).eval()
    actual = model.decoder.parameters_of(model.prior.transform(eps))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(actual, folded, atol=1e-3)
