"""Stage gan and metric inversion: the laws of their kinds, the losses against their formulas, what is left behind."""

import pytest
import torch
from torch.nn import functional

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces.values import Batch, Latent
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.testing import MetricSuite, StageSuite
from genfw.testing.suite import generator_of
from genfw.training.stage import StageRun
from genfw.training.synthetic import Synthetic
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.adam import AdamMode
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.stylegan.critic import Critic
from genfw_plugins.stylegan.decoder import StyleGANDecoder
from genfw_plugins.stylegan.encoder import StyleGANEncoder
from genfw_plugins.stylegan.features import Features
from genfw_plugins.stylegan.gan import GAN
from genfw_plugins.stylegan.inversion import Inversion
from genfw_plugins.stylegan.prior import StyleGANPrior
from genfw_plugins.training.optimizers import Adam

SHAPE = (1, 8, 8)


def inverted(frozen=False, width=4, encoder=False):
    prior = StyleGANPrior(SHAPE, width=width)
    layout = Model(prior).latent_layout
    decoder = StyleGANDecoder(
        SHAPE,
        layout,
        channels_base=32,
        channels_max=4,
        mapping_layers=2,
        sigma=0.1,
        frozen=frozen,
        perceptual=Features(network="random"),
    )
    return Model(prior, decoder, StyleGANEncoder(SHAPE, prior, 2, 4) if encoder else None)


class TestGAN(StageSuite):
    def make_model(self):
        return inverted()

    def make_stage(self, model):
        return GAN(
            model=model,
            steps=4,
            batch=6,
            optimizer=Adam(),
            discriminator_optimizer=Adam(),
            channels_base=32,
            channels_max=4,
            r1_every=2,
            average=0.9,
        )


class TestInversion(MetricSuite):
    def make(self):
        return Inversion(
            count=5, chain=Chain(AdamMode(lr=0.1, steps=2), NoiseStart()), features=Features(network="random"), batch=4
        )

    def evaluation(self, directory):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = inverted().eval().requires_grad_(False)
        return Evaluation(model, Synthetic(SHAPE), directory=directory)


def begun(model, **settings):
    from lightning_fabric import Fabric

    settings = {"channels_base": 32, "channels_max": 4, **settings}
    stage = GAN(
        model=model, steps=20, batch=8, optimizer=Adam(lr=2e-3), discriminator_optimizer=Adam(lr=2e-3), **settings
    )
    stage.run = StageRun(Fabric(accelerator="cpu", devices=1), torch.device("cpu"), generator_of(3), dataset_size=64)
    stage.setup()
    return stage


def test_losses_are_the_formulas(monkeypatch):
    torch.manual_seed(0)
    stage = begun(inverted(), r1=3.0, r1_every=1)
    x, fake = torch.randn(8, *SHAPE), torch.randn(8, *SHAPE)
    monkeypatch.setattr(stage, "_draw", lambda count: fake + 0 * stage.mapping(torch.ones(count, 4)).sum())
    seen = []
    monkeypatch.setattr(stage.critic_updater, "update", lambda loss, step: seen.append(loss.detach()))
    monkeypatch.setattr(stage.updater, "update", lambda loss, step: seen.append(loss.detach()) or torch.zeros(()))
    report = stage.step(Batch(x, torch.arange(8)), 0)
    x.requires_grad_(True)
    data, drawn = stage.critic(x), stage.critic(fake)
    (slope,) = torch.autograd.grad(data.sum(), x)
    penalty = slope.flatten(1).square().sum(1).mean()
    assert float(penalty) > 0
    expected = functional.softplus(drawn).mean() + functional.softplus(-data).mean() + 1.5 * penalty
    torch.testing.assert_close(seen, [expected.detach(), functional.softplus(-drawn).mean().detach()])
    torch.testing.assert_close(report["discriminator/r1"], penalty)


def test_the_penalty_is_taken_now_and_then_and_weighs_more(monkeypatch):
    stage = begun(inverted(), r1_every=3)
    batch = Batch(torch.randn(8, *SHAPE), torch.arange(8))
    assert ["discriminator/r1" in stage.step(batch, step) for step in range(4)] == [True, False, False, True]


def test_styles_are_mixed_at_one_place(monkeypatch):
    stage = begun(inverted(), mixing=1.0)
    taken = []
    monkeypatch.setattr(stage.decoder.synthesis, "forward", lambda styles, noise: taken.append(styles) or styles)
    stage._draw(300)
    changes = (taken[0][:, 1:] != taken[0][:, :-1]).any(2)
    assert bool((changes.sum(1) == 1).all())
    assert changes.float().mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.12)
    stage.mixing = 0.0
    stage._draw(50)
    assert torch.equal(taken[1], taken[1][:, :1].expand(-1, 4, -1))


def test_the_prior_ends_with_the_styles_statistics_and_frozen_weights_are_frozen_again():
    model = inverted(frozen=True)
    before = model.decoder.synthesis.const.clone()
    stage = begun(model)
    for step in range(3):
        stage.step(Batch(torch.randn(8, *SHAPE), torch.arange(8)), step)
    assert not torch.equal(model.decoder.synthesis.const, before)
    assert bool(model.decoder.mapping.mean.any())
    stage.finish()
    assert not any(parameter.requires_grad for parameter in model.decoder.parameters())
    mean, covariance = model.decoder.mapping.statistics(20_000, generator_of(8))
    size = covariance.trace().sqrt()
    assert float((model.prior.mean - mean).norm() / size) < 0.05
    assert float((model.prior.factor @ model.prior.factor.T - covariance).norm() / covariance.norm()) < 0.1


def test_the_generator_climbs_the_critic(monkeypatch):
    """Against a critic that stands still, its draws score higher and higher."""
    torch.manual_seed(0)
    stage = begun(inverted(), average=0.0)
    monkeypatch.setattr(stage.critic_updater, "update", lambda loss, step: None)
    batch = Batch(torch.randn(8, *SHAPE), torch.arange(8))
    scores = [float(stage.step(batch, step)["discriminator/drawn"]) for step in range(1, 25)]
    assert sum(scores[-6:]) / 6 > sum(scores[:6]) / 6 + 0.2


def test_a_critic_sees_how_much_images_differ():
    torch.manual_seed(0)
    critic = Critic(8, 1, 32, 4)
    x = torch.randn(1, *SHAPE)
    same, varied = x.expand(4, -1, -1, -1), torch.cat([x, torch.randn(3, *SHAPE)])
    assert not torch.allclose(critic(same)[0], critic(varied)[0])
    assert critic(torch.randn(5, *SHAPE)).shape == (5,)


def test_gan_refuses():
    prior = StandardNormal(2)
    other = Model(prior, MLPDecoder(data_shape=(2,), latent_layout=Model(prior).latent_layout))
    with pytest.raises(ContractError, match="trains decoder 'stylegan'"):
        GAN(model=other, steps=1, batch=1, optimizer=Adam(), discriminator_optimizer=Adam())
    with pytest.raises(ContractError, match=r"mixing must lie in \[0, 1\], got 2\.0"):
        GAN(model=inverted(), steps=1, batch=1, optimizer=Adam(), discriminator_optimizer=Adam(), mixing=2.0)


# -- inversion --------------------------------------------------------------------------------------------------------


def test_inversion_is_the_error_of_the_encoder_s_centre(tmp_path):
    torch.manual_seed(0)
    model = inverted(encoder=True).eval().requires_grad_(False)
    evaluation = Evaluation(model, Synthetic(SHAPE), directory=tmp_path)
    results = {
        one.name: one for one in Inversion(count=6, features=Features(network="random"), batch=4).compute(evaluation)
    }
    x = evaluation.rows("test", 6).x
    image = model.decoder.image(Latent((model.encoder.styles(x),)))
    network = model.decoder.features
    assert results["mse"].value == pytest.approx(float((x - image).square().mean()))
    assert results["feature-distance"].value == pytest.approx(float((network(x) - network(image)).square().mean()))
    assert results["mse"].protocol["features"] == "random"
    assert [figure.shows_data for figure in results["mse"].figures] == [True]


def test_more_moves_invert_better(tmp_path):
    torch.manual_seed(0)
    evaluation = Evaluation(inverted().eval().requires_grad_(False), Synthetic(SHAPE), directory=tmp_path)
    chains = [Chain(AdamMode(lr=0.1, steps=steps), NoiseStart()) for steps in (1, 50)]
    few, many = (Inversion(count=6, chain=chain, show=0).compute(evaluation)[0].value for chain in chains)
    assert many < 0.9 * few


def test_inversion_refuses(tmp_path):
    with pytest.raises(ContractError, match="needs a posterior chain"):
        Inversion().compute(Evaluation(inverted(), Synthetic(SHAPE), directory=tmp_path))
    with pytest.raises(ContractError, match="batch must be at least 1, got 0"):
        Inversion(batch=0)
