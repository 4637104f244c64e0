"""A likelihood scores exactly the law that it draws from."""

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces.likelihood import Deterministic, Gaussian


def test_gaussian_log_prob_equals_torch():
    mean, scale = torch.randn(4, 2, 3, dtype=torch.float64), torch.rand(4, 2, 3, dtype=torch.float64) + 0.1
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, scale).log_prob(x).sum((1, 2))
    torch.testing.assert_close(Gaussian(mean, scale).log_prob(x), expected)


def test_gaussian_transform_has_the_scored_law():
    # Change of variables: log p(x) = log N(eps) - log |det dx/deps|.
    mean, scale = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64) + 0.1
    eps = torch.randn(3, 4, dtype=torch.float64)
    likelihood = Gaussian(mean, scale)
    x = likelihood.transform(eps)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x), base - scale.log().sum(1))


def test_scalar_scale_broadcasts_and_sample_follows_the_generator():
    likelihood = Gaussian(torch.zeros(50_000, 2), 0.5)
    draw = likelihood.sample(generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw, likelihood.sample(generator=torch.Generator().manual_seed(0)))
    assert abs(draw.std().item() - 0.5) < 0.01


def test_a_point_mass_has_no_density():
    value = torch.randn(2, 3)
    likelihood = Deterministic(value)
    assert likelihood.noise_shape is None
    assert torch.equal(likelihood.sample(), value)
    with pytest.raises(ContractError, match="no density"):
        likelihood.log_prob(value)
