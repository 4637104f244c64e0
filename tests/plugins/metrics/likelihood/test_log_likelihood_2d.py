"""The exact 2-D log-likelihood, on models whose density is known in closed form."""

import json
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces import Dataset, Decoder, Encoder, Energy, Posterior, Split
from genfw.interfaces.likelihood import Deterministic, Gaussian
from genfw.interfaces.values import Latent
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.metrics.likelihood.density import Grid, draw_mixture, importance_log_prob
from genfw_plugins.metrics.likelihood.log_likelihood_2d import LogLikelihood2D

MATRIX = torch.tensor([[0.8, 0.3, 0.0], [-0.2, 0.5, 0.4]])
SHIFT = torch.tensor([0.3, -0.5])
SIGMA = 0.4
PRECISION = torch.tensor([[1.5, 0.4], [0.4, 0.7]])
COVARIANCE = MATRIX @ MATRIX.T + SIGMA**2 * torch.eye(2)


class Linear(Decoder):
    """x = A z + b + sigma eps: the marginal is N(b, A A' + sigma^2 I)."""

    noise_shape = (2,)

    def forward(self, latent):
        return Gaussian(latent.flat() @ MATRIX.T + SHIFT, SIGMA)


class Point(Linear):
    noise_shape = None

    def forward(self, latent):
        return Deterministic(latent.flat() @ MATRIX.T)


class Wide(Encoder):
    """A proposal that is wrong on purpose: importance weights must put it right."""

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        law = MultivariateNormal(torch.zeros(3), torch.eye(3) * 1.3)
        z = 1.3**0.5 * torch.randn(len(x), 3, generator=generator)
        zero = torch.zeros(len(x))
        return Posterior(Latent((z,)), z, law.log_prob(z), StandardNormal(3).log_prob(Latent((z,))), zero[:, None])


class Quadratic(Energy):
    """x' P x / 2: a Gaussian times e^{-E} is a Gaussian again."""

    def forward(self, v):
        return 0.5 * (v @ PRECISION * v).sum(1)


class LatentQuadratic(Energy):
    """Turns the prior N(0, I) into N(0, I / 3)."""

    on = "latent"

    def forward(self, v):
        return v.square().sum(1)


class Points(Dataset, Split):
    data_shape = (2,)
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(5))

    def split(self, name):
        return self

    def __len__(self):
        return len(self.x)

    def get(self, index, *, generator=None):
        return self.x[index], None

    def log_prob(self, x):
        return MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(x)


def tilted(mean, covariance):
    """log of the integral of N(x; mean, covariance) e^{-x' P x / 2}, and the normalised law."""
    precision = torch.linalg.inv(covariance)
    joint = precision + PRECISION
    centre = torch.linalg.solve(joint, precision @ mean)
    log_z = 0.5 * (torch.logdet(precision) - torch.logdet(joint) - mean @ precision @ mean + centre @ joint @ centre)
    return float(log_z), MultivariateNormal(centre, torch.linalg.inv(joint))


def measured(tmp_path, model, **settings):
    evaluation = Evaluation(model, Points(), SampleSettings(batch=500), tmp_path, seed=3)
    options = {"draws": 40_000, "grid": 201, "samples": 300, "importance": 400} | settings
    return {result.name: result for result in LogLikelihood2D(**options).compute(evaluation)}


def test_grid_integrates_a_density_to_one():
    grid = Grid((-5.0, 6.0, -4.0, 7.0), 301)
    law = MultivariateNormal(torch.tensor([0.5, 1.0]), COVARIANCE)
    assert grid.log_integral(law.log_prob(grid.points())) == pytest.approx(0.0, abs=1e-6)


def test_mixture_on_the_grid_equals_the_mixture_at_points():
    mixture = draw_mixture(
        Model(StandardNormal(3), Linear(), energy=LatentQuadratic()), 700, torch.Generator().manual_seed(0)
    )
    grid = Grid((-2.0, 2.0, -1.0, 3.0), 9)
    for weighted in (False, True):
        on_grid = mixture.log_prob_on(grid, weighted=weighted, chunk=200)
        torch.testing.assert_close(on_grid, mixture.log_prob(grid.points(), weighted=weighted), atol=2e-5, rtol=1e-5)


def test_points_between_and_beyond_the_grid():
    mixture = draw_mixture(Model(StandardNormal(3), Linear()), 700, torch.Generator().manual_seed(0))
    grid = Grid((-2.0, 2.0, -1.0, 3.0), 161)
    x = torch.tensor([[0.3117, 0.2071], [-1.9, 2.9], [1.234, -0.777], [2.5, 0.0], [0.0, 3.001]])
    values = grid.interpolate(mixture.log_prob_on(grid, weighted=False), x)
    torch.testing.assert_close(values[:3], mixture.log_prob(x, weighted=False)[:3], atol=2e-4, rtol=0)
    assert values[3:].isnan().all()
    quadratic = (grid.points() @ PRECISION * grid.points()).sum(1) + grid.points()[:, 0]
    exact = (x @ PRECISION * x).sum(1) + x[:, 0]
    torch.testing.assert_close(grid.interpolate(quadratic, x)[:3].float(), exact[:3])


def test_linear_gaussian_with_quadratic_energy(tmp_path):
    results = measured(tmp_path, Model(StandardNormal(3), Linear(), Wide(), Quadratic()), density="encoder")
    log_z, law = tilted(SHIFT, COVARIANCE)
    assert results["log-z"].value == pytest.approx(log_z, abs=0.01)
    assert abs(results["log-z-importance"].value - log_z) < 4 * results["log-z-importance"].error
    assert abs(results["log-z-difference"].value) < 0.02
    assert results["log-likelihood"].value == pytest.approx(float(law.log_prob(Points.x).mean()), abs=0.03)
    marginal = MultivariateNormal(SHIFT, COVARIANCE)
    assert results["log-likelihood-generator"].value == pytest.approx(
        float(marginal.log_prob(Points.x).mean()), abs=0.03
    )
    truth = Points().log_prob(Points.x)
    assert results["log-likelihood-truth"].value == pytest.approx(float(truth.mean()), abs=1e-5)
    assert results["log-likelihood"].protocol["density"] == "encoder"
    assert results["log-likelihood"].protocol["grid_mass"] == pytest.approx(1.0, abs=2e-3)


def test_prior_draws_agree_with_the_encoder(tmp_path):
    model = Model(StandardNormal(3), Linear(), Wide(), Quadratic())
    prior = measured(tmp_path, model, density="prior")["log-likelihood"]
    encoder = measured(tmp_path, model, density="encoder")["log-likelihood"]
    assert prior.protocol["density"] == "prior"
    assert prior.value == pytest.approx(encoder.value, abs=0.03)
    assert prior.value != encoder.value


@pytest.mark.parametrize("density", ["prior", "encoder"])
def test_latent_and_data_energies_together(tmp_path, density):
    results = measured(
        tmp_path, Model(StandardNormal(3), Linear(), Wide(), [Quadratic(), LatentQuadratic()]), density=density
    )
    covariance = MATRIX @ MATRIX.T / 3 + SIGMA**2 * torch.eye(2)
    log_z, law = tilted(SHIFT, covariance)
    assert results["log-z"].value == pytest.approx(log_z - 1.5 * math.log(3), abs=0.02)
    assert abs(results["log-z-difference"].value) < 0.03
    assert results["log-likelihood"].value == pytest.approx(float(law.log_prob(Points.x).mean()), abs=0.1)
    generator = MultivariateNormal(SHIFT, COVARIANCE).log_prob(Points.x)
    assert results["log-likelihood-generator"].value == pytest.approx(float(generator.mean()), abs=0.03)


def test_energy_on_data_alone_needs_no_generator(tmp_path):
    model = Model(energy=Quadratic(), data_shape=(2,))
    results = measured(tmp_path, model, window=[-8, 8, -8, 8], samples=0)
    law = MultivariateNormal(torch.zeros(2), PRECISION)
    expected = MultivariateNormal(torch.zeros(2), torch.linalg.inv(PRECISION)).log_prob(Points.x)
    assert law.event_shape == (2,)
    assert results["log-likelihood"].value == pytest.approx(float(expected.mean()), abs=1e-3)
    assert "log-z-importance" not in results


def test_importance_sampling_does_not_depend_on_how_it_is_batched():
    model = Model(StandardNormal(3), Linear(), Wide())
    many = importance_log_prob(model, Points.x[:40], 3000, torch.Generator().manual_seed(0), batch=700)[0]
    few = importance_log_prob(model, Points.x[:40], 3000, torch.Generator().manual_seed(1), batch=10**6)[0]
    exact = MultivariateNormal(SHIFT, COVARIANCE).log_prob(Points.x[:40]).double()
    assert (many - exact).mean().abs() < 0.03
    assert (few - exact).mean().abs() < 0.03


def test_figures_are_left_in_the_run_directory(tmp_path):
    results = measured(tmp_path, Model(StandardNormal(3), Linear(), Wide(), Quadratic()))
    figures = results["log-likelihood"].figures
    assert [figure.path for figure in figures] == ["figures/density.png", "figures/samples-2d.png"]
    assert [figure.shows_data for figure in figures] == [False, True]
    for figure in figures:
        assert (tmp_path / figure.path).read_bytes().startswith(b"\x89PNG")
    json.dumps(dict(results["log-likelihood"].protocol))


def test_a_decoder_without_density_is_refused(tmp_path):
    with pytest.raises(ContractError, match="Gaussian likelihood, this one gives Deterministic"):
        measured(tmp_path, Model(StandardNormal(3), Point()))


def test_a_window_has_an_inside():
    with pytest.raises(ContractError, match=r"\[left, right, bottom, top\]"):
        LogLikelihood2D(window=[1.0, 0.0, 0.0, 1.0])
