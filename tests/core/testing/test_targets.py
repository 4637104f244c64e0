"""The analytic targets are what they say: density, sampler, moments and gradient agree with one another."""

import pytest
import torch

from genfw.testing.targets import CorrelatedGaussian, Funnel, discrepancy, grid_of_25, relative_error, standard_targets

TARGETS = standard_targets()


def draws(target, count=20_000, seed=0):
    return target.sample(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TARGETS)
def test_draws_have_the_stated_moments_and_weights(name):
    target = TARGETS[name]
    assert max(discrepancy(draws(target), target).values()) < 4.5
    assert relative_error(draws(target), target) < 0.06


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("spoil", [lambda x: x + 0.05, lambda x: 1.05 * x, lambda x: x * float("nan")])
def test_draws_from_another_law_are_told_apart(name, spoil):
    target = TARGETS[name]
    assert max(discrepancy(spoil(draws(target)), target).values()) > 5.0


def test_a_mode_that_is_never_visited_is_noticed():
    target = grid_of_25()
    x = draws(target)
    x = x[target.mode_of(x) != 0]
    assert discrepancy(x, target)["weights"] > 5.0


def test_symmetry_hides_sign_errors_and_skewness_does_not():
    for name, target in TARGETS.items():
        x = draws(target)
        if name == "funnel":
            x = torch.cat([-x[:, :1], x[:, 1:]], dim=1)  # its first coordinate alone is symmetric, the pair is not
            assert discrepancy(x, target)["mean"] < 5.0
            density = target.log_prob(draws(target)).mean() - target.log_prob(x).mean()
            assert float(density) > 0.5
        else:
            assert discrepancy(-x, target)["mean"] > 5.0


@pytest.mark.parametrize("name", TARGETS)
def test_density_is_normalised_and_is_the_potential(name):
    target = TARGETS[name]
    generator = torch.Generator().manual_seed(3)
    wide = 1.7 * torch.randn(300_000, target.layout.size, generator=generator, dtype=torch.float64)
    log_wide = torch.distributions.Normal(0.0, 1.7).log_prob(wide).sum(1)
    weights = (target.log_prob(wide) - log_wide).exp()
    error = float(weights.std()) / len(wide) ** 0.5
    assert abs(float(weights.mean()) - 1.0) < 5 * error < 0.1
    x = draws(target, 10)
    potential, gradient = target.potential_and_grad(x)
    torch.testing.assert_close(potential, -target.log_prob(x))
    x.requires_grad_(True)
    (expected,) = torch.autograd.grad(-target.log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_chains_in_time_are_averaged_per_chain():
    target = CorrelatedGaussian()
    # Fifty copies of the same draws are no more than the draws: the error must not shrink with their number.
    x = draws(target, 500)
    one, many = discrepancy(x, target), discrepancy(x.expand(50, -1, -1), target)
    assert one == pytest.approx(many)


def test_targets_keep_their_precision():
    for target in standard_targets(torch.float32).values():
        generator = torch.Generator().manual_seed(0)
        assert target.sample(3, generator).dtype == target.draw_base(3, generator).dtype == torch.float32
        assert target.potential(target.draw_base(3, generator)).dtype == torch.float32


def test_funnel_varies_in_scale():
    x = draws(Funnel(scale=0.8))
    wide, narrow = x[x[:, 0] > 1.0, 1].std(), x[x[:, 0] < -1.0, 1].std()
    assert float(wide / narrow) > 2.0
