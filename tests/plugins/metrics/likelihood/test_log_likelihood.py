"""Likelihood estimates from below and from above, on a linear model and a quadratic energy whose answers are known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces import Dataset, Decoder, Encoder, Energy, Posterior, Split
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.values import Latent
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.targets import FunctionTarget, PriorTarget
from genfw.testing import MetricSuite
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.metrics.likelihood.annealing import anneal, log_mean, schedule
from genfw_plugins.metrics.likelihood.evidence import Normal as NormalProposal
from genfw_plugins.metrics.likelihood.evidence import bracket
from genfw_plugins.metrics.likelihood.log_likelihood import LogLikelihood

DIMENSION, SIGMA = 3, 0.5
MATRIX = torch.tensor([[0.9, 0.2, -0.3], [0.0, 0.7, 0.4], [0.5, -0.6, 0.8], [0.2, 0.1, -0.9]])
#: E(z) = sum_i (a_i z_i^2 / 2 - b_i z_i): the tilted prior is normal, and log Z is known.
CURVATURE = torch.tensor([3.0, 0.5, 8.0])
SLOPE = torch.tensor([2.0, -1.0, 0.5])
LOG_Z = float((-0.5 * (1 + CURVATURE).log() + 0.5 * SLOPE.square() / (1 + CURVATURE)).sum())


class Linear(Decoder):
    noise_shape = (4,)

    def forward(self, latent):
        return Gaussian(latent.flat() @ MATRIX.T, SIGMA)


class Quadratic(Energy):
    on = "latent"

    def forward(self, v):
        return 0.5 * (CURVATURE * v.square()).sum(1) - v @ SLOPE


class Rough(Encoder):
    """Near the posterior, and wrong: importance weights must put it right."""

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        noise = torch.randn(len(x), DIMENSION, generator=generator) if noise is None else temperature * noise
        scale = torch.tensor([0.5, 0.7, 0.4])
        z = 0.5 * x @ MATRIX + scale * noise
        log_q = -0.5 * noise.square().sum(1) - scale.log().sum() - 1.5 * math.log(2 * math.pi)
        log_p = -0.5 * z.square().sum(1) - 1.5 * math.log(2 * math.pi)
        return Posterior(Latent((z,)), z, log_q, log_p, (log_q - log_p)[:, None])


class Curved(Rough):
    """The same draws, but of a law that is not normal in noise space, so that its density is known at draws alone."""

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        plain = super().forward(x, noise=noise, generator=generator, temperature=temperature)
        # log q of z + c z^3 for each coordinate, by the change of variables.
        z, c = plain.noise, 0.05
        bent = z + c * z**3
        log_q = plain.log_q - (1 + 3 * c * z.square()).log().sum(1)
        log_p = -0.5 * bent.square().sum(1) - 1.5 * math.log(2 * math.pi)
        return Posterior(Latent((bent,)), bent, log_q, log_p, plain.kl)


class Rows(Dataset, Split):
    data_shape = (4,)

    def split(self, name):
        return self

    def __len__(self):
        return 40

    def get(self, index, *, generator=None):
        x = torch.randn(40, DIMENSION, generator=torch.Generator().manual_seed(3)) @ MATRIX.T
        return x[index], None


def exact(energy):
    """log p(x) of every row in closed form."""
    precision = 1 + CURVATURE if energy else torch.ones(DIMENSION)
    mean = SLOPE / precision if energy else torch.zeros(DIMENSION)
    covariance = MATRIX / precision @ MATRIX.T + SIGMA**2 * torch.eye(4)
    return MultivariateNormal(MATRIX @ mean, covariance).log_prob(Rows().get(torch.arange(40))[0])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def take(metric, folder, model):
    evaluation = Evaluation(model, Rows(), directory=folder, seed=1)
    return {result.name: result for result in metric.compute(evaluation)}


def kernel(steps=3):
    return HMC(step_size=0.4, leapfrog_steps=4, steps=steps, adapt=False)


# -- annealing --------------------------------------------------------------------------------------------------------


def test_the_schedule_leads_from_base_to_target():
    beta = schedule(20)
    assert (float(beta[0]), float(beta[-1]), len(beta)) == (0.0, 1.0, 21)
    assert (beta.diff() > 0).all()
    assert beta.diff()[0] < beta.diff()[10]


def test_annealing_holds_log_z_between_its_bounds():
    model = Model(StandardNormal(DIMENSION), Linear(), energy=Quadratic())
    target = PriorTarget(model)
    forward, _ = anneal(target, kernel(1), target.draw_base(400, generator()), 30, generator=generator(1))
    deviation = (1 + CURVATURE).rsqrt()
    drawn = SLOPE / (1 + CURVATURE) + deviation * torch.randn(400, DIMENSION, generator=generator(2))
    backward, _ = anneal(target, kernel(1), drawn, 30, generator=generator(3), reverse=True)
    low, high = log_mean(forward), log_mean(backward)
    assert abs(low.value - LOG_Z) < 4 * low.error < 0.4
    assert abs(-high.value - LOG_Z) < 4 * high.error < 0.4
    # Single walks: Jensen's gap shows which side is which.
    assert float(forward.mean()) < LOG_Z < -float(backward.mean())


def test_too_few_temperatures_leave_the_bracket_wide():
    tilt = lambda z: 0.5 * (CURVATURE * (z - 2.5).square()).sum(1)  # noqa: E731
    target = FunctionTarget(DIMENSION, tilt)
    mean, deviation = CURVATURE * 2.5 / (1 + CURVATURE), (1 + CURVATURE).rsqrt()
    gaps = []
    for temperatures in (2, 80):
        forward, _ = anneal(target, kernel(2), target.draw_base(100, generator()), temperatures, generator=generator(1))
        drawn = mean + deviation * torch.randn(100, DIMENSION, generator=generator(2))
        backward, _ = anneal(target, kernel(2), drawn, temperatures, generator=generator(3), reverse=True)
        truth = float((-0.5 * (1 + CURVATURE).log() - 0.5 * 6.25 * CURVATURE / (1 + CURVATURE)).sum())
        low, high = log_mean(forward), log_mean(backward)
        assert low.value - 4 * low.error < truth < -high.value + 4 * high.error
        gaps.append(-high.value - low.value)
    assert gaps[0] > 1.0
    assert abs(gaps[1]) < 0.3


def test_the_logarithm_of_a_mean_and_its_error():
    weights = torch.rand(1000, generator=generator()) + 0.5
    bound = log_mean(weights.log() + 700.0)
    assert bound.value == pytest.approx(700.0 + math.log(float(weights.mean())), abs=1e-3)
    assert bound.error == pytest.approx(float(weights.std() / weights.mean()) / math.sqrt(1000), rel=1e-2)
    assert math.isnan(log_mean(torch.zeros(1)).error)


# -- importance sampling ----------------------------------------------------------------------------------------------


def test_a_normal_proposal_knows_its_own_density():
    ends = torch.randn(200, 5, DIMENSION, generator=generator()) @ torch.randn(3, 3, generator=generator(1)) + 1.0
    law = NormalProposal.fit(ends, widen=1.0)
    position = law.draw(50, generator(2))
    reference = MultivariateNormal(law.mean, scale_tril=law.factor)
    assert torch.allclose(law.log_prob(position), reference.log_prob(position.double()), atol=1e-4)
    covariance = torch.stack([torch.cov(ends[:, item].T.double()) for item in range(5)])
    assert torch.allclose(law.factor @ law.factor.mT, covariance, atol=0.15 * float(covariance.abs().max()))


def test_an_encoder_is_seen_to_be_normal_or_not():
    x = Rows().get(torch.arange(10))[0]
    law = NormalProposal.of(Rough(), x, generator())
    assert torch.allclose(law.mean.float(), 0.5 * x @ MATRIX)
    assert torch.allclose(law.factor.diagonal(dim1=1, dim2=2), torch.tensor([0.5, 0.7, 0.4]).double(), atol=1e-6)
    assert NormalProposal.of(Curved(), x, generator()) is None


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("by", ["encoder", "chain"])
def test_the_integral_lies_between_lower_and_upper(by, energy):
    model = Model(StandardNormal(DIMENSION), Linear(), Rough(), Quadratic() if energy else None)
    chain = Chain(MALA(step_size=0.1, steps=40, adapt=False), NoiseStart()) if by == "chain" else None
    x = Rows().get(torch.arange(40))[0]
    truth = exact(energy) + (LOG_Z if energy else 0.0)
    arguments = {"chain": chain, "sampler": kernel(), "generator": generator(), "fits": 16, "refine": 5}
    lower, upper = bracket(model, x, 5, **arguments)
    assert float(lower.mean()) < float(truth.mean()) < float(upper.mean())
    many = bracket(model, x, 2000, **arguments)
    for side in many:
        assert float((side - truth).mean()) == pytest.approx(0.0, abs=0.04)
        assert torch.allclose(side, truth.double(), atol=0.5)
    assert float((many[1] - many[0]).mean()) < 0.2 * float((upper - lower).mean())


def test_an_encoder_that_is_not_normal_gives_the_lower_side_alone():
    x = Rows().get(torch.arange(40))[0]
    lower, upper = bracket(
        Model(StandardNormal(DIMENSION), Linear(), Curved()), x, 3000, None, kernel(), generator=generator()
    )
    assert upper is None
    assert torch.allclose(lower, exact(False).double(), atol=0.15)


# -- the metric -------------------------------------------------------------------------------------------------------


def test_the_metric_holds_the_likelihood_of_a_latent_energy_model(tmp_path):
    model = Model(StandardNormal(DIMENSION), Linear(), Rough(), Quadratic())
    metric = LogLikelihood(sampler=kernel(2), draws=200, refine=2, temperatures=40, chains=200, settle=20)
    results = take(metric, tmp_path, model)
    truth = exact(True)
    spread = float(truth.std()) / math.sqrt(40)
    low, high = results["log-likelihood"], results["log-likelihood-upper"]
    # The rows are the same on both sides: what is left of the error is that of log Z.
    assert low.value - 0.1 < float(truth.mean()) < high.value + 0.1
    assert abs(high.value - low.value) < 0.2
    assert low.error == pytest.approx(spread, rel=0.2)
    assert abs(results["log-z-lower"].value - LOG_Z) < 4 * results["log-z-lower"].error
    assert abs(results["log-z-upper"].value - LOG_Z) < 4 * results["log-z-upper"].error
    assert low.protocol["proposal"] == "encoder"
    assert low.better == "higher"


def test_without_energy_and_kernel_there_is_the_lower_bound(tmp_path):
    (result,) = take(LogLikelihood(draws=1000), tmp_path, Model(StandardNormal(DIMENSION), Linear(), Rough())).values()
    assert result.value == pytest.approx(float(exact(False).mean()), abs=0.05)
    assert result.note == "Lower estimate: importance sampling with 1000 draws."


def test_what_it_refuses(tmp_path):
    with pytest.raises(ContractError, match="draws must be at least 1, got 0"):
        LogLikelihood(draws=0)
    with pytest.raises(ContractError, match="leave 'count' out of chain"):
        LogLikelihood(chain=Chain(kernel(), NoiseStart(), count=5))
    with pytest.raises(ContractError, match="needs proposals: an encoder in the recipe, or posterior chains"):
        take(LogLikelihood(), tmp_path, Model(StandardNormal(DIMENSION), Linear()))
    with pytest.raises(ContractError, match="log Z is annealed: name a kernel under 'sampler'"):
        take(LogLikelihood(), tmp_path, Model(StandardNormal(DIMENSION), Linear(), Rough(), Quadratic()))
    outside = Quadratic()
    outside.on = "data"
    with pytest.raises(ContractError, match="knows no normaliser of energies on data"):
        take(LogLikelihood(), tmp_path, Model(StandardNormal(DIMENSION), Linear(), Rough(), outside))
    with pytest.raises(ContractError, match="at least 1 step, got 0"):
        schedule(0)
    with pytest.raises(ContractError, match="at least 2 chains per item, got 1"):
        NormalProposal.fit(torch.zeros(1, 2, 3))


class TestLogLikelihood(MetricSuite):
    def make(self):
        return LogLikelihood(sampler=kernel(1), draws=20, temperatures=5, chains=10, settle=2)

    def evaluation(self, directory):
        return Evaluation(
            Model(StandardNormal(DIMENSION), Linear(), Rough(), Quadratic()), Rows(), directory=directory, seed=1
        )
