"""Densities fitted to latents in a second step (mixture, latent VAE), and the autoencoder that leaves them lawless."""

import pytest
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.interfaces import Decoder, TensorSplit
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.values import NoiseLayout
from genfw.models.model import Model
from genfw.testing import AmortizerSuite, StageSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyPrior
from genfw.training.loader import Loader
from genfw.training.stage import StageRun
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.latent_vae import LatentVAE
from genfw_plugins.basics.mixture import GaussianMixture
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.starts.encoder import EncoderStart
from genfw_plugins.training.autoencoder import Autoencoder
from genfw_plugins.training.distill import Amortize, Distill
from genfw_plugins.training.optimizers import Adam
from stage_parts import Fabric


def layout(size):
    return NoiseLayout.of(**{"z.0": (size,)})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def train(stage, x):
    stage.run = StageRun(Fabric(), torch.device("cpu"), seeded(), len(x))
    stage.setup()
    rows = [stage.step(batch, step) for step, batch in Loader(TensorSplit(x), stage.batch, 0).batches(0, stage.steps)]
    stage.finish()
    return rows


def fit(amortizer, position, steps, lr, batch=500):
    optimizer = torch.optim.Adam(amortizer.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = seeded(1)
    for step in range(steps):
        first = (step * batch) % (len(position) - batch + 1)
        loss = amortizer.loss(position[first : first + batch], None, generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


class TestGaussianMixture(AmortizerSuite):
    size, shape = 3, (1, 4, 4)

    def make(self):
        return GaussianMixture(layout(3), components=4)


class TestLatentVAE(AmortizerSuite):
    size, shape = 3, (1, 4, 4)

    def make(self):
        return LatentVAE(layout(3), dim=2, hidden=(8,))


def random_mixture(components=3, size=2):
    torch.manual_seed(0)
    mixture = GaussianMixture(layout(size), components, spread=2.0, scale=0.7)
    with torch.no_grad():
        mixture.logits.copy_(torch.randn(components))
        mixture.factor.add_(0.3 * torch.randn_like(mixture.factor))
    return mixture


def as_distribution(mixture):
    """The same law in torch's words, from precision and mean."""
    lower, _ = mixture._factors()
    precision = lower.mT @ lower
    mean = torch.linalg.solve(precision, (lower.mT @ mixture.offset[:, :, None]))[:, :, 0]
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.logits),
        torch.distributions.MultivariateNormal(mean, precision_matrix=precision),
    )


def test_a_mixture_begins_where_its_arguments_say():
    torch.manual_seed(0)
    mixture = GaussianMixture(layout(2), components=2000, spread=3.0, scale=0.5)
    parts = as_distribution(mixture).component_distribution
    assert abs(float(parts.mean.detach().std()) - 3.0) < 0.15
    torch.testing.assert_close(parts.covariance_matrix[7].detach(), 0.25 * torch.eye(2))


def test_the_mixture_s_loss_is_its_exact_likelihood():
    mixture = random_mixture(components=4, size=3)
    position = 2.0 * torch.randn(50, 3)
    exact = -as_distribution(mixture).log_prob(position)
    torch.testing.assert_close(mixture.loss(position, None, generator=seeded()), exact, atol=1e-4, rtol=1e-4)


def test_draws_of_the_mixture_have_its_moments():
    mixture = random_mixture()
    law = as_distribution(mixture)
    draws = mixture.sample(40_000, generator=seeded(3))
    torch.testing.assert_close(draws.mean(0), law.mean.detach(), atol=0.06, rtol=0)
    torch.testing.assert_close(draws.var(0), law.variance.detach(), atol=0.0, rtol=0.05)
    # Not only the moments: the entropy of the draws is that of the law, which a normal law of these moments exceeds.
    entropy = -law.log_prob(draws).mean().detach()
    fresh = -law.log_prob(law.sample((40_000,))).mean().detach()
    normal = torch.distributions.MultivariateNormal(draws.mean(0), draws.T.cov()).entropy()
    assert abs(float(entropy - fresh)) < 0.03
    assert float(normal - entropy) > 0.1


def test_descent_recovers_a_known_mixture():
    truth = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.3, 0.7])),
        torch.distributions.MultivariateNormal(
            torch.tensor([[-2.0, 0.5], [1.0, 0.0]]),
            torch.tensor([[[0.3, 0.2], [0.2, 0.4]], [[0.5, -0.3], [-0.3, 0.3]]]),
        ),
    )
    torch.manual_seed(2)
    position, fresh = truth.sample((4000,)), truth.sample((20_000,))
    left = {}
    for components in (1, 2):
        mixture = GaussianMixture(layout(2), components)
        fit(mixture, position, 300, 0.1, 400)
        with torch.no_grad():
            left[components] = float((truth.log_prob(fresh) - mixture.log_prob(fresh)).mean())
    assert left[2] < 0.02
    assert left[1] > 0.2  # one normal law will not do
    heavy = int(mixture.logits.argmax())
    found = as_distribution(mixture)
    assert abs(float(found.mixture_distribution.probs[heavy].detach()) - 0.7) < 0.03
    torch.testing.assert_close(
        found.component_distribution.mean[heavy].detach(), torch.tensor([1.0, 0.0]), atol=0.08, rtol=0
    )


def test_the_latent_vae_learns_the_moments_of_its_positions():
    torch.manual_seed(0)
    mix = torch.tensor([[0.9, 0.4, 0.0], [0.0, 0.5, -0.3], [0.0, 0.0, 0.2]])
    mean = torch.tensor([0.5, -1.0, 0.2])
    position = mean + torch.randn(6000, 3) @ mix
    vae = LatentVAE(layout(3), hidden=(32,))
    untrained = vae.sample(4000, generator=seeded(4))
    fit(vae, position, 400, 5e-3, 300)
    draws = vae.sample(20_000, generator=seeded(4))
    torch.testing.assert_close(draws.mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(draws.T.cov(), mix.T @ mix, atol=0.12, rtol=0)
    assert float((untrained.T.cov() - mix.T @ mix).abs().max()) > 0.3
    # The bound never exceeds the likelihood of the law itself.
    exact = torch.distributions.MultivariateNormal(mean, mix.T @ mix).log_prob(position).mean()
    bound = -vae.loss(position, None, generator=seeded(5)).mean().detach()
    assert exact - 0.6 < float(bound) < exact + 0.02


def test_the_learned_scale_follows_positions_onto_a_line():
    # Positions that do not fill their space: the scale falls, as it must for a density on a line.
    torch.manual_seed(0)
    line = torch.randn(2000, 1) * torch.tensor([1.0, -0.5])
    vae = LatentVAE(layout(2), dim=1, hidden=(16,))
    before = float(vae.scale.detach())
    fit(vae, line, 200, 2e-2, 200)
    assert before == pytest.approx(1.0)
    assert float(vae.scale.detach()) < 0.35


def test_distilling_the_encoder_fits_the_aggregated_posterior():
    torch.manual_seed(0)
    prior = StandardNormal(2)
    encoder = MLPEncoder(prior, (2,), hidden=())
    with torch.no_grad():
        linear = encoder.net[0]
        linear.weight.zero_()
        linear.weight[:2].copy_(torch.eye(2))
        linear.bias.zero_()  # scale 1
    mixture = GaussianMixture(layout(2), components=1)
    model = Model(prior, encoder=encoder, amortizer=mixture, data_shape=(2,))
    amortize = Amortize(optimizer=Adam(lr=0.05, decay="linear"), updates=1)
    x = torch.tensor([1.0, 0.0]) + torch.randn(4000, 2) * torch.tensor([2.0, 0.5])
    train(
        Distill(
            model=model, steps=150, batch=400, start=EncoderStart(encoder=encoder), amortize=amortize, space="prior"
        ),
        x,
    )
    parts = as_distribution(mixture).component_distribution
    torch.testing.assert_close(parts.mean[0].detach(), torch.tensor([1.0, 0.0]), atol=0.2, rtol=0)
    torch.testing.assert_close(
        parts.covariance_matrix[0].detach(), torch.diag(torch.tensor([5.0, 1.25])), atol=0.4, rtol=0
    )


class TestAutoencoder(StageSuite):
    def make_model(self):
        prior = TinyPrior()
        return Model(prior, TinyDecoder(), TinyEncoder(prior))

    def make_stage(self, model):
        return Autoencoder(model=model, steps=4, batch=8, optimizer=Adam(), average=0.9)


class LinearDecoder(Decoder):
    def __init__(self, size, latent):
        super().__init__()
        self.size = size
        self.map = nn.Linear(latent, size)

    @property
    def noise_shape(self):
        return (self.size,)

    def forward(self, latent):
        return Gaussian(self.map(latent.flat()), 0.1)


def linear_autoencoder(size, latent):
    prior = StandardNormal(latent)
    return Model(prior, LinearDecoder(size, latent), MLPEncoder(prior, (size,), hidden=()))


def test_a_linear_autoencoder_loses_what_principal_components_lose():
    torch.manual_seed(0)
    scales = torch.tensor([2.0, 1.0, 0.5, 0.3])
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    x = (torch.randn(4000, 4) * scales) @ rotation
    model = linear_autoencoder(4, 2)
    train(Autoencoder(model=model, steps=200, batch=200, optimizer=Adam(lr=0.03, decay="cosine")), x)
    with torch.no_grad():
        centre = model.encoder(x, generator=seeded(), temperature=0.0)
        error = (model.likelihood(centre.latent).mean - x).square().sum(1).mean()
    least = torch.linalg.eigvalsh(x.T.cov())[:2].sum()
    assert float(least) - 1e-3 < float(error) < 1.03 * float(least)


def test_its_loss_is_the_formula_and_each_penalty_shrinks_what_it_weighs():
    x = torch.randn(64, 4, generator=seeded(1))

    def run(steps, **weights):
        torch.manual_seed(0)
        model = linear_autoencoder(4, 2)
        return model, train(Autoencoder(model=model, steps=steps, batch=64, optimizer=Adam(lr=0.02), **weights), x)

    model, rows = run(1, latent_l2=0.5, decoder_l2=0.25)
    torch.manual_seed(0)
    model = linear_autoencoder(4, 2)
    with torch.no_grad():
        noise = model.encoder(x, generator=seeded(), temperature=0.0).noise
        error = (model.decoder.map(noise) - x).square().sum(1).mean()
        weights = model.decoder.map.weight.square().sum() + model.decoder.map.bias.square().sum()
        expected = error + 0.25 * noise.square().sum(1).mean() + 0.25 * weights
    torch.testing.assert_close(rows[0]["loss"], expected)

    plain = run(100, latent_l2=0.0, decoder_l2=0.0)
    held = run(100, latent_l2=2.0, decoder_l2=0.0)
    light = run(100, latent_l2=0.0, decoder_l2=2.0)
    assert float(held[1][-1]["latent/square"]) < 0.5 * float(plain[1][-1]["latent/square"])
    norms = [model.decoder.map.weight.detach().norm() for model, _ in (light, plain)]
    assert float(norms[0]) < 0.7 * float(norms[1])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: GaussianMixture(layout(2), components=0), "components must be at least 1, got 0"),
        (lambda: GaussianMixture(layout(2), scale=0.0), "scale must be above 0"),
        (lambda: LatentVAE(layout(2), dim=0), "at least 1"),
        (lambda: LatentVAE(layout(2), scale=1e-4), "exceed scale_min"),
        (
            lambda: Autoencoder(
                model=Model(StandardNormal(2), LinearDecoder(4, 2)), steps=1, batch=1, optimizer=Adam()
            ),
            "with encoder",
        ),
        (
            lambda: Autoencoder(model=linear_autoencoder(4, 2), steps=1, batch=1, optimizer=Adam(), latent_l2=-1.0),
            "latent_l2 must be at least 0",
        ),
        (lambda: Autoencoder(model=linear_autoencoder(4, 2), steps=0, batch=1, optimizer=Adam()), "at least 1"),
    ],
)
def test_a_bad_argument_is_refused(act, message):
    with pytest.raises(ContractError, match=message):
        act()
