"""Stages climb the likelihood they say they climb: on models whose answer is known."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from genfw.errors import ContractError
from genfw.interfaces import Amortizer, TensorSplit
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.targets import NoiseTarget
from genfw.training.loader import Loader
from genfw.training.stage import StageRun
from genfw.training.updater import Clip
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.isir import ISIR
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mcmc.starts.replay import ReplayStart
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.training._common import saturation
from genfw_plugins.training.alternating import Alternating, Amortize
from genfw_plugins.training.contrastive import Contrastive
from genfw_plugins.training.elbo import ELBO
from genfw_plugins.training.optimizers import SGD, Adam
from stage_parts import CHAIN, DATA, LATENT, Fabric, LinearDecoder, Tilt, tiny, train


def isir_chain(size):
    return Chain(ISIR(candidates=16, steps=2), ReplayStart(size=size, probability=1.0))


def test_contrastive_finds_the_tilt_of_the_data():
    torch.manual_seed(0)
    mean = torch.tensor([0.8, -0.5])
    # The generator is exactly N(0, I): z of unit scale times 0.6, plus noise 0.8.
    decoder = LinearDecoder(2, 2, 0.8)
    with torch.no_grad():
        decoder.map.weight.copy_(0.6 * torch.eye(2))
        decoder.map.bias.zero_()
    energy = Tilt(2, "data")
    model = Model(StandardNormal(2), decoder, energy=energy)
    frozen_weights = [p.detach().clone() for p in decoder.parameters()]
    stage = Contrastive(
        model=model,
        steps=300,
        batch=256,
        optimizer=Adam(lr=0.05, decay="linear"),
        negatives=isir_chain(256),
        average=0.95,
    )
    rows = train(stage, torch.randn(20_000, 2) + mean)
    torch.testing.assert_close(energy.slope.detach(), -mean, atol=0.06, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(frozen_weights, decoder.parameters(), strict=True))
    # At the optimum data and negatives have the same energy.
    assert abs(sum(float(row["energy/gap"]) for row in rows[-50:]) / 50) < 0.05


def test_contrastive_gradient_is_equation_seven():
    # One step, one parameter: d loss / d slope = mean of the data - mean of the negatives.
    energy = Tilt(2, "data")
    decoder = LinearDecoder(2, 2, 0.5)
    model = Model(StandardNormal(2), decoder, energy=energy)
    stage = Contrastive(
        model=model,
        steps=1,
        batch=64,
        optimizer=Adam(lr=1e-3),
        negatives=Chain(Langevin(step_size=1e-2, steps=3), NoiseStart()),
    )
    x = torch.randn(64, 2) + 1.0
    train(stage, x)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        energy.slope.zero_()
    negative = stage.negatives.run(NoiseTarget(model), 64, generator=generator).position
    expected = x.mean(0) - model.decode(negative).mean(0).detach()
    torch.testing.assert_close(energy.slope.grad, expected, atol=1e-5, rtol=1e-4)


def test_elbo_never_exceeds_the_exact_likelihood_and_comes_close():
    torch.manual_seed(0)
    truth = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.2, -0.9]])
    x = torch.randn(5000, 2) @ truth.T + 0.5 * torch.randn(5000, 3)
    prior = StandardNormal(2)
    decoder = LinearDecoder(3, 2, 0.5)
    model = Model(prior, decoder, MLPEncoder(prior, (3,), hidden=()))
    rows = train(ELBO(model=model, steps=700, batch=250, optimizer=Adam(lr=0.03, decay="cosine")), x)
    weight, bias = decoder.map.weight.detach(), decoder.map.bias.detach()
    marginal = MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(3))
    exact = marginal.log_prob(x).mean()
    elbo = torch.stack([row["elbo"] for row in rows[-100:]]).mean()
    assert elbo < exact + 0.02
    assert elbo > exact - 0.1
    best = MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x).mean()
    assert exact > best - 0.05


def test_elbo_on_noisy_data_learns_the_law_of_the_noisy_data():
    # Data that are one point: what is left to learn is the noise, and it is scored at the point that was encoded.
    torch.manual_seed(0)
    prior = StandardNormal(1)
    decoder = LinearDecoder(2, 1, 0.5)
    with torch.no_grad():
        decoder.map.weight.zero_()
        decoder.map.bias.fill_(1.0)
    model = Model(prior, decoder, MLPEncoder(prior, (2,)))
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    stage = ELBO(model=model, steps=1, batch=20_000, optimizer=Adam(lr=1e-9), data_noise=0.3)
    (row,) = train(stage, torch.ones(20_000, 2))
    torch.testing.assert_close(seen[0].mean(0), torch.ones(2), atol=0.01, rtol=0)
    torch.testing.assert_close(seen[0].std(0), torch.full((2,), 0.3), atol=0.01, rtol=0)
    exact = MultivariateNormal(torch.ones(2), 0.25 * torch.eye(2)).log_prob(seen[0]).mean()
    torch.testing.assert_close(-row["reconstruction"], exact, atol=1e-4, rtol=1e-4)
    with pytest.raises(ContractError, match="data_noise must be at least 0"):
        ELBO(model=model, steps=1, batch=1, optimizer=Adam(lr=1.0), data_noise=-0.1)


def test_kl_warm_up_rises_linearly():
    prior = StandardNormal(2)
    model = Model(prior, LinearDecoder(3, 2, 0.5), MLPEncoder(prior, (3,)))
    stage = ELBO(model=model, steps=10, batch=4, optimizer=Adam(lr=1e-3), beta=2.0, kl_start=0.5, kl_warmup=100)
    assert [stage.kl_weight(step) for step in (0, 50, 100, 500)] == [0.5, 1.25, 2.0, 2.0]


def test_alternating_without_energy_learns_the_covariance():
    torch.manual_seed(1)
    truth = torch.tensor([[1.2], [0.8]])
    x = torch.randn(4000, 1) @ truth.T + 0.4 * torch.randn(4000, 2)
    decoder = LinearDecoder(2, 1, 0.4)
    chain = Chain(Langevin(step_size=0.03, steps=15), NoiseStart())
    train(
        Alternating(
            model=Model(StandardNormal(1), decoder),
            steps=150,
            batch=200,
            posterior=chain,
            optimizer=Adam(lr=0.05, decay="cosine"),
        ),
        x,
    )
    weight = decoder.map.weight.detach()
    torch.testing.assert_close(weight @ weight.T, truth @ truth.T, atol=0.2, rtol=0)


def test_alternating_learns_the_prior_of_the_data():
    # x = z + noise with z ~ N(1, 1): the energy must move the prior's mean from 0 to 1.
    torch.manual_seed(0)
    x = 1.0 + torch.randn(20_000, 1) + 0.1 * torch.randn(20_000, 1)
    decoder = LinearDecoder(1, 1, 0.1)
    with torch.no_grad():
        decoder.map.weight.fill_(1.0)
        decoder.map.bias.zero_()
    energy = Tilt(1, "latent")
    stage = Alternating(
        model=Model(StandardNormal(1), decoder, energy=energy),
        steps=150,
        batch=200,
        posterior=Chain(Langevin(step_size=4e-3, steps=10), NoiseStart()),
        prior=isir_chain(200),
        energy_optimizer=Adam(lr=0.06, decay="linear"),
    )
    before = decoder.map.weight.detach().clone()
    train(stage, x)
    assert abs(energy.slope.item() + 1.0) < 0.12
    assert torch.equal(decoder.map.weight, before)  # no optimizer: the generator stays as it is


class GaussianAmortizer(Amortizer):
    """q(eps) = N(m, e^{2s}), blind to x: fitted by maximum likelihood."""

    def __init__(self, size):
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))

    def sample(self, count, *, generator):
        with torch.no_grad():
            noise = torch.randn(count, len(self.mean), generator=generator)
            return self.mean + self.log_scale.exp() * noise

    def sample_given(self, x, *, generator):
        return self.sample(len(x), generator=generator)

    def loss(self, position, x, *, generator, hidden=None):
        assert hidden is not None
        assert hidden.shape == (len(position),)
        return -torch.distributions.Normal(self.mean, self.log_scale.exp()).log_prob(position).sum(1)


def test_amortizer_learns_where_posterior_chains_end():
    torch.manual_seed(0)
    x = 1.5 + torch.randn(2000, 1)
    decoder = LinearDecoder(1, 1, 0.5)
    with torch.no_grad():
        decoder.map.weight.fill_(1.0)
        decoder.map.bias.zero_()
    amortizer = GaussianAmortizer(1)
    stage = Alternating(
        model=Model(StandardNormal(1), decoder, amortizer=amortizer),
        steps=60,
        batch=200,
        posterior=Chain(Langevin(step_size=0.03, steps=20), NoiseStart()),
        amortize=Amortize(optimizer=Adam(lr=0.04), updates=4, average=0.9),
    )
    rows = train(stage, x)
    # Posterior mean of z is 0.8 x, averaged over x: 1.2.
    assert abs(amortizer.mean.item() - 1.2) < 0.1
    assert float(rows[-1]["amortizer/loss"]) < float(rows[0]["amortizer/loss"])


@pytest.mark.parametrize("hide", ["update", "step", "both"])
def test_whose_x_is_hidden(hide):
    seen = []

    class Watching(GaussianAmortizer):
        def loss(self, position, x, *, generator, hidden=None):
            seen.append(hidden)
            assert len(x) == len(position)
            return super().loss(position, x, generator=generator, hidden=hidden)

    amortizer = Watching(1)
    stage = Alternating(
        model=Model(StandardNormal(1), LinearDecoder(1, 1, 0.5), amortizer=amortizer),
        steps=2,
        batch=100,
        posterior=CHAIN,
        amortize=Amortize(optimizer=Adam(lr=0.01), updates=3, drop_condition=0.3, hide=hide),
    )
    train(stage, torch.randn(200, 1))
    assert len(seen) == 6
    same = [torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    if hide == "both":
        assert all(len(each) == 200 and int(each.sum()) == 100 for each in seen)
        return
    assert same == {"update": [False] * 5, "step": [True, True, False, True, True]}[hide]
    assert 0.1 < torch.cat(seen).double().mean() < 0.5


def test_energy_and_generator_may_be_clipped_apart():
    def moved(**clips):
        torch.manual_seed(0)
        model = tiny(Tilt(2, "latent"), encoder=False)
        parts = [*model.energies.parameters()], [*model.decoder.parameters()]
        before = [[p.detach().clone() for p in part] for part in parts]
        stage = Alternating(
            model=model,
            steps=1,
            batch=50,
            optimizer=SGD(lr=1.0),
            energy_optimizer=SGD(lr=1.0),
            posterior=CHAIN,
            prior=CHAIN,
            **clips,
        )
        train(stage, 3.0 + torch.randn(50, 2))
        return [
            math.sqrt(sum(float((p.detach() - q).square().sum()) for p, q in zip(part, old, strict=True)))
            for part, old in zip(parts, before, strict=True)
        ]

    assert moved(clip=Clip(norm=1e-3)) == pytest.approx([1e-3, 1e-3], rel=1e-2)
    energy, generator = moved(clip=Clip(norm=2e-3), energy_clip=Clip(norm=1e-3))
    assert (energy, generator) == (pytest.approx(1e-3, rel=1e-2), pytest.approx(2e-3, rel=1e-2))


def test_vi_lebm_learns_the_latent_tilt():
    torch.manual_seed(0)
    x = 1.0 + torch.randn(10_000, 1) + 0.1 * torch.randn(10_000, 1)
    prior = StandardNormal(1)
    decoder, energy = LinearDecoder(1, 1, 0.1), Tilt(1, "latent")
    model = Model(prior, decoder, MLPEncoder(prior, (1,), hidden=(32,)), energy=energy)
    with torch.no_grad():
        decoder.map.weight.fill_(1.0)
        decoder.map.bias.zero_()
    stage = ELBO(
        model=model,
        steps=300,
        batch=200,
        optimizer=Adam(lr=0.01, decay="cosine"),
        energy_optimizer=Adam(lr=0.02, decay="linear"),
        negatives=isir_chain(200),
    )
    train(stage, x)
    # Decoder and energy share the shift; what is identified is the mean of the data under the model.
    shown = decoder.map.weight.item() * -energy.slope.item() + decoder.map.bias.item()
    assert abs(shown - 1.0) < 0.1


def test_an_energy_that_is_left_to_a_later_stage_leaves_the_bound_alone():
    def trained(*energies):
        torch.manual_seed(0)
        prior = StandardNormal(2)
        model = Model(prior, LinearDecoder(3, 2, 0.5), MLPEncoder(prior, (3,)), energy=list(energies))
        return train(ELBO(model=model, steps=3, batch=8, optimizer=Adam(lr=0.01), tilted=False), torch.ones(16, 3))[-1][
            "loss"
        ]

    energy = Tilt(2, "latent")
    with torch.no_grad():
        energy.slope.fill_(1.0)
    assert torch.equal(trained(), trained(energy))
    assert bool((energy.slope == 1.0).all())


def test_stages_restore_bit_for_bit():
    def build():
        torch.manual_seed(0)
        model = Model(
            StandardNormal(2),
            MLPDecoder((2,), Model(StandardNormal(2)).latent_layout, hidden=(8,), scale="per-latent"),
            energy=MLPEnergy((2,), hidden=(8,), spectral_iterations=1),
        )
        chain = Chain(Langevin(step_size=1e-2, steps=2), ReplayStart(size=64, probability=0.9, ramp=5))
        stage = Contrastive(
            model=model, steps=20, batch=16, optimizer=Adam(lr=1e-2), negatives=chain, average=0.9, l2=0.1, penalty=0.1
        )
        stage.run = StageRun(Fabric(), torch.device("cpu"), torch.Generator().manual_seed(0), 100)
        stage.setup()
        return model, stage

    x = torch.randn(100, 2)
    loader = Loader(TensorSplit(x), 16, 0)
    model, stage = build()
    for step in range(10):
        stage.step(loader.batch_at(step), step)
    saved, weights = stage.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    saved = copy.deepcopy(saved)
    generator_state = stage.run.generator.get_state()
    for step in range(10, 20):
        stage.step(loader.batch_at(step), step)
    stage.finish()

    other_model, other = build()
    other_model.load_state_dict(weights)
    other.load_state_dict(saved)
    other.run.generator.set_state(generator_state)
    for step in range(10, 20):
        other.step(loader.batch_at(step), step)
    other.finish()
    for name, value in model.state_dict().items():
        assert torch.equal(value, other_model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: Contrastive(model=tiny(), steps=1, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN),
            "needs a model with energy",
        ),
        (
            lambda: Contrastive(model=tiny(LATENT), steps=1, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN),
            "stage 'alternating' trains those on the latent",
        ),
        (
            lambda: Contrastive(
                model=tiny(DATA), steps=1, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN, space="prior"
            ),
            "can't be drawn in space 'prior'",
        ),
        (
            lambda: Contrastive(
                model=tiny(DATA), steps=1, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN, space="data", mean=True
            ),
            "needs a decoder",
        ),
        (
            lambda: Contrastive(model=tiny(DATA), steps=0, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN),
            "at least 1",
        ),
        (
            lambda: ELBO(model=tiny(encoder=False), steps=1, batch=1, optimizer=Adam(lr=1.0)),
            "needs a model with encoder",
        ),
        (
            lambda: ELBO(model=tiny(LATENT), steps=1, batch=1, optimizer=Adam(lr=1.0)),
            "needs energy_optimizer and negatives",
        ),
        (lambda: ELBO(model=tiny(), steps=1, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN), "the recipe has none"),
        (
            lambda: ELBO(model=tiny(LATENT), steps=1, batch=1, optimizer=Adam(lr=1.0), negatives=CHAIN, tilted=False),
            "or tilted is false",
        ),
        (
            lambda: Alternating(model=tiny(DATA), steps=1, batch=1, posterior=CHAIN),
            "stage 'contrastive' trains those on data",
        ),
        (
            lambda: Alternating(model=tiny(LATENT), steps=1, batch=1, posterior=CHAIN, optimizer=Adam(lr=1.0)),
            "give all three or none",
        ),
        (lambda: Alternating(model=tiny(), steps=1, batch=1, posterior=CHAIN), "would train nothing"),
        (
            lambda: Alternating(
                model=tiny(), steps=1, batch=1, posterior=CHAIN, amortize=Amortize(optimizer=Adam(lr=1.0))
            ),
            "needs an amortizer",
        ),
        (lambda: Amortize(optimizer=Adam(lr=1.0), updates=0), "at least 1"),
        (lambda: Amortize(optimizer=Adam(lr=1.0), drop_condition=1.5), r"in \[0, 1\]"),
    ],
)
def test_a_model_that_does_not_fit_the_stage_is_refused(act, message):
    with pytest.raises(ContractError, match=message):
        act()


def test_saturation_counts_pixels_at_the_ends():
    image = torch.zeros(1, 1, 2, 2)
    image[0, 0, 0, 0] = 1.0
    assert saturation(image).item() == 0.25
    assert saturation(torch.ones(4, 2)).item() == 0.0
    assert math.isclose(saturation(-image).item(), 0.25)
