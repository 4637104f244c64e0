"""Densities over levels are densities, and draws follow them."""

import itertools

import pytest
import torch

from genfw.errors import ContractError
from genfw_plugins.nvae.discrete import Bernoulli, LogisticMixture

DTYPE = torch.float64


def mixture(channels=3, mixtures=4, side=1, levels=16, batch=1, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = LogisticMixture.parameters(channels, mixtures)
    raw = torch.randn(batch, size, side, side, generator=generator, dtype=DTYPE) * spread
    return raw, LogisticMixture.of(raw, channels, levels)


def every_pixel(channels, levels):
    values = torch.linspace(-1.0, 1.0, levels, dtype=DTYPE)
    return torch.tensor(list(itertools.product(values.tolist(), repeat=channels)), dtype=DTYPE)[..., None, None]


@pytest.mark.parametrize("channels", [1, 3])
def test_mixture_adds_up_to_one(channels):
    _, law = mixture(channels)
    total = law.log_prob(every_pixel(channels, 16)).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=DTYPE))


def test_published_edges_do_not_add_up_to_one():
    law = mixture(1, levels=256)[1]
    x = every_pixel(1, 256)
    assert abs(float(law.log_prob(x).exp().sum()) - 1.0) < 1e-9
    law.edges = (-0.999, 0.99)  # the published code's: level 254 of 255 gets the tail as well
    assert float(law.log_prob(x).exp().sum()) > 1.01


def test_mixture_keeps_its_digits_in_the_tails():
    logits, mean = torch.zeros(1, 1, 1, 1, dtype=DTYPE), torch.full((1, 1, 1, 1, 1), -1.0, dtype=DTYPE)
    law = LogisticMixture(logits, mean, mean - 3.0, mean.new_zeros(1, 0, 1, 1, 1))
    x = torch.full((1, 1, 1, 1), 1.0 - 2.0 / 255, dtype=DTYPE)  # a hundred scales away
    scale = torch.tensor(-4.0, dtype=DTYPE).exp()
    # Far in the tail, F(b) - F(a) = exp(-a / s) - exp(-b / s).
    a, b = (x.squeeze() + 1.0 - 1.0 / 255) / scale, (x.squeeze() + 1.0 + 1.0 / 255) / scale
    torch.testing.assert_close(law.log_prob(x)[0], -a + torch.log(-torch.expm1(a - b)))
    single = LogisticMixture(logits.float(), mean.float(), mean.float() - 3.0, mean.new_zeros(1, 0, 1, 1, 1).float())
    torch.testing.assert_close(single.log_prob(x.float()).double(), law.log_prob(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_of_the_mixture_have_its_probabilities(channels):
    levels = {1: 16, 3: 3}[channels]
    raw, law = mixture(channels, levels=levels, seed=3)
    many = LogisticMixture.of(raw.expand(200_000, -1, -1, -1), channels, levels)
    noise = torch.randn(200_000, *law.noise_shape, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    x = many.transform(noise)
    points = every_pixel(channels, levels)
    probability = law.log_prob(points).exp()
    number = ((x.detach().flatten(1) + 1.0) / (2.0 / (levels - 1))).round().long()
    code = sum(number[:, c] * levels ** (channels - 1 - c) for c in range(channels))
    share = torch.bincount(code, minlength=len(points)).to(DTYPE) / len(x)
    error = (share - probability).abs() / (probability * (1 - probability) / len(x) + 1e-12).sqrt()
    assert float(error.max()) < 5.0
    torch.testing.assert_close(number.to(DTYPE) * (2.0 / (levels - 1)) - 1.0, x.flatten(1))  # on its levels


def test_mean_of_the_mixture_is_that_of_its_draws():
    raw, _ = mixture(3, levels=256, spread=0.3)
    raw[:, 4:].unflatten(1, (3, -1))[:, :, 4:8] = -3.0  # narrow, so that the ends of the range do not matter
    law = LogisticMixture.of(raw.expand(100_000, -1, -1, -1), 3)
    noise = torch.randn(100_000, *law.noise_shape, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    torch.testing.assert_close(law.transform(noise).mean(0), law.mean[0], rtol=0.0, atol=5e-3)


def test_gradient_of_a_draw_is_that_before_rounding():
    raw, _ = mixture(1, mixtures=1, levels=256)
    raw = raw.zero_().requires_grad_(True)
    law = LogisticMixture.of(raw, 1)
    x = law.transform(torch.full((1, *law.noise_shape), 0.1, dtype=DTYPE))
    (gradient,) = torch.autograd.grad(x.sum(), raw)
    assert float(gradient[0, 1]) == 1.0
    assert float(gradient[0, 2]) == pytest.approx(float(x.detach()), abs=1.0 / 255)  # d(mean + scale L)/d log scale


def test_bernoulli_is_a_density_and_its_draws_follow_it():
    logits = torch.tensor([[-2.0, 0.3, 1.5]], dtype=DTYPE)
    law = Bernoulli(logits)
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=DTYPE)
    torch.testing.assert_close(law.log_prob(corners).exp().sum(), torch.ones((), dtype=DTYPE))
    noise = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    x = law.transform(noise)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(x.mean(0, keepdim=True), law.mean, rtol=0.0, atol=0.02)
    expected = torch.distributions.Bernoulli(logits=logits).log_prob((x[:5] + 1) / 2).sum(1)
    torch.testing.assert_close(law.log_prob(x[:5]), expected)


def test_a_layout_for_two_channels_is_refused():
    with pytest.raises(ContractError, match="1 or 3 channels, got 2"):
        LogisticMixture.parameters(2, 10)
    part = torch.zeros(1, 3, 2, 1, 1)
    with pytest.raises(ContractError, match="3 channels need 3 mixing coefficients, got 1"):
        LogisticMixture(torch.zeros(1, 2, 1, 1), part, part, part[:, :1])
