"""NVAE under the conformance kit, and as the generator of a VAEBM: its noise space is exact, group by group."""

import copy
import math

import pytest
import torch

from genfw.errors import ContractError, DataError
from genfw.interfaces import Energy
from genfw.interfaces.values import Batch, Latent
from genfw.models.freezing import frozen, frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import JointTarget, NoiseTarget
from genfw.testing import DecoderSuite, EncoderSuite, PriorSuite, StageSuite
from genfw.testing.tiny import TinyPrior
from genfw.training.stage import StageRun
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.nvae.decoder import NVAEDecoder
from genfw_plugins.nvae.encoder import NVAEEncoder
from genfw_plugins.nvae.laws import PairedFlow
from genfw_plugins.nvae.network import Conv
from genfw_plugins.nvae.prior import NVAEPrior, spread_groups
from genfw_plugins.nvae.published import arguments, convert
from genfw_plugins.nvae.statistics import ReadjustBatchNorm, batch_norms, readjust_batch_norm
from genfw_plugins.training.elbo import ELBO, balance_weights
from genfw_plugins.training.optimizers import Adamax
from nvae_parts import DTYPE, small_model, small_prior


class TestPrior(PriorSuite):
    def make(self):
        return small_prior()

    def apply(self, module, v):
        # With the features that go on to the decoder: they are all that the last merge feeds.
        context = self.transform(module, v).context
        return torch.cat([super().apply(module, v), context.flatten(1)], dim=1)


class TestPriorOfManyGroups(TestPrior):
    def make(self):
        return small_prior((1, 6, 8), groups=4, ada_groups=True, gate=False)


class TestDecoder(DecoderSuite):
    likelihood = "gaussian"
    latent_shapes = ((8, 2, 2),)
    borrowed = ("_prior",)

    def make(self):
        return NVAEDecoder(small_prior(), self.likelihood, mixtures=2, postprocess_cells=2)

    def latent(self, module, flat):
        context = flat.unflatten(1, self.latent_shapes[0])
        return Latent((flat,), context)


class TestEncoder(EncoderSuite):
    shape = (1, 8, 8)
    borrowed = ("_prior",)
    flows = 0

    def make(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the prior is the model's: of a loaded encoder too it is another's business
            prior = small_prior((1, 8, 8))
        return NVAEEncoder(prior, channels=4, cells=1, preprocess_cells=1, flows=self.flows)

    def prior(self, encoder):
        return encoder._prior

    def _moved(self, module, where):
        module._prior.eval()
        return super()._moved(module, where)


class TestEncoderWithFlows(TestEncoder):
    flows = 1


class TestBalancedELBO(StageSuite):
    def make_model(self):
        prior = small_prior((1, 8, 8))
        return Model(prior, NVAEDecoder(prior, postprocess_cells=1), NVAEEncoder(prior, 4, 1, 1))

    def make_stage(self, model):
        return ELBO(model=model, steps=4, batch=8, optimizer=Adamax(), kl_warmup=3, balance=True, penalty=1e-2)


class TestReadjustBatchNorm(StageSuite):
    def make_model(self):
        prior = small_prior((1, 8, 8))
        return Model(prior, NVAEDecoder(prior, postprocess_cells=1))

    def make_stage(self, model):
        return ReadjustBatchNorm(model=model, temperature=0.7, steps=4, batch=8)


class Pull(Energy):
    """A simple energy on images: E(x) = w sum (x - 0.2)^2 + v sum x^3."""

    on = "data"

    def forward(self, v):
        return (0.7 * (v - 0.2).square() + 0.1 * v**3).flatten(1).sum(1)


# -- noise space ------------------------------------------------------------------------------------------------------


def noise_target():
    model = small_model(Pull(), groups=2)
    target = NoiseTarget(model)
    position = torch.randn(3, target.layout.size, dtype=DTYPE, generator=torch.Generator().manual_seed(5))
    return model, target, position


def test_the_noise_potential_is_its_closed_form():
    model, target, eps = noise_target()
    assert target.layout.names == ("z.0", "z.1", "z.2", "z.3", "x")
    blocks = target.layout.split(eps)
    features = model.prior.first.expand(3, *model.prior.first.shape)
    number = 0
    for part in model.prior.tower:  # the walk, spelled out
        if type(part).__name__ == "Combine":
            eps_z = blocks[f"z.{number}"]
            if number == 0:
                z = 1.01 * eps_z
            else:
                raw = model.prior.heads[number - 1](torch.nn.functional.elu(features))
                mean, log_scale = (5 * torch.tanh(half / 5) for half in raw.chunk(2, dim=1))
                z = mean + (log_scale.exp() + 0.01) * eps_z
            features, number = part(features, z), number + 1
        else:
            features = part(features)
    raw = model.decoder.parameters_of(Latent((z,), features))
    mean, log_scale = (5 * torch.tanh(half / 5) for half in raw.chunk(2, dim=1))
    x = mean + (log_scale.exp() + 0.01) * blocks["x"]
    expected = Pull()(x) + 0.5 * eps.square().sum(1)
    torch.testing.assert_close(target.potential(eps), expected)


@pytest.mark.parametrize("group", ["z.0", "z.1", "z.2", "z.3", "x"])
def test_its_gradient_is_right_group_by_group(group):
    model, target, eps = noise_target()
    with frozen_for_chain(*target.modules()):  # as a chain runs: eval mode, frozen, weights folded
        _, gradient = target.potential_and_grad(eps)
    where = {g.name: s for g, s in target.layout.slices()}[group]
    own = eps.clone().requires_grad_(True)
    energy = model.data_energy(model.decode(own)).sum() + 0.5 * own.square().sum()
    (autograd,) = torch.autograd.grad(energy, own)
    torch.testing.assert_close(gradient[:, where], autograd[:, where])
    assert float((gradient - eps)[:, where].abs().max()) > 1e-3  # the energy reaches the group
    step = 1e-6
    for column in range(where.start, where.stop):
        shift = torch.zeros_like(eps)
        shift[:, column] = step
        slope = (target.potential(eps + shift) - target.potential(eps - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, column], slope.detach(), rtol=1e-5, atol=1e-6)


def test_noise_and_joint_space_hold_the_same_law_and_the_published_potential_another():
    model = small_model(Pull())
    noise, joint = NoiseTarget(model), JointTarget(model)
    eps = torch.randn(6, noise.layout.size, dtype=DTYPE, generator=torch.Generator().manual_seed(5))
    width = model.latent_layout.size

    def walk(row):
        latent = model.latent(row[None, :width])
        x = model.likelihood(latent).transform(row[None, width:].unflatten(1, (1, 4, 4)))
        return torch.cat([latent.flat(), x.flatten(1)], dim=1)[0]

    with torch.no_grad():
        zx = torch.stack([walk(row) for row in eps])
    volume = torch.linalg.slogdet(torch.stack([torch.autograd.functional.jacobian(walk, row) for row in eps])).logabsdet
    # U_noise(eps) = U_joint(z, x) - log |det J| + const.
    difference = noise.potential(eps) - (joint.potential(zx) - volume)
    expected = torch.full_like(difference, -0.5 * eps.shape[1] * math.log(2 * math.pi))
    torch.testing.assert_close(difference, expected)
    # The published chain's E(x) - log p(z) - log p(x|z), moved in eps, differs from it by log |det J|, no constant.
    published = noise.potential(eps) - joint.potential(zx)
    torch.testing.assert_close(published, expected - volume)
    assert float(published.detach().std()) > 0.1


# -- the parts --------------------------------------------------------------------------------------------------------


def test_groups_are_halved_from_fine_to_coarse():
    assert spread_groups(2, 10, True, 1) == (5, 10)  # NVAE Table 6, MNIST
    assert spread_groups(5, 16, True, 4) == (4, 4, 4, 8, 16)  # NVAE Table 6, CelebA-HQ 256
    assert spread_groups(3, 7, False, 1) == (7, 7, 7)


def test_sides_that_the_scales_do_not_divide_are_padded_and_cut():
    prior = small_prior((1, 6, 10), scales=3)
    decoder, encoder = NVAEDecoder(prior), NVAEEncoder(prior, 4, 1, 1)
    assert prior.padded == (8, 16)
    posterior = encoder(torch.zeros(2, 1, 6, 10), noise=torch.zeros(2, sum(math.prod(s) for s in prior.noise_shapes)))
    assert decoder(posterior.latent).mean.shape == (2, 1, 6, 10)


@pytest.mark.parametrize(
    ("likelihood", "shape"), [("bernoulli", (1, 4, 4)), ("mixture", (3, 4, 4)), ("mixture", (1, 4, 4))]
)
def test_likelihoods_over_levels_agree_with_the_decoder(likelihood, shape):
    prior = small_prior(shape)
    model = Model(prior, NVAEDecoder(prior, likelihood, mixtures=3, postprocess_cells=1)).eval()
    law = model.likelihood(model.latent(torch.zeros(2, model.latent_layout.size)))
    assert law.noise_shape == model.decoder.noise_shape
    x = law.sample(generator=torch.Generator().manual_seed(0))
    assert x.shape == law.mean.shape == (2, *shape)
    assert law.log_prob(x).shape == (2,)
    assert model.decode(model.noise_layout.draw(2)).shape == (2, *shape)


def test_flows_keep_the_volume_and_see_only_what_came_before():
    torch.manual_seed(0)
    flow = PairedFlow(2).to(DTYPE)
    z = torch.randn(1, 2, 3, 3, dtype=DTYPE)
    with torch.no_grad():
        for shift in (flow.forth.shift, flow.back.shift):
            shift.log_norm += 3.0
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.view_as(z)).flatten(), z.flatten())
    assert abs(float(torch.linalg.slogdet(jacobian).logabsdet)) < 1e-10
    assert float((jacobian - torch.eye(18, dtype=DTYPE)).abs().max()) > 0.05, "a flow that does nothing proves nothing"
    for part, order in ((flow.forth, 1), (flow.back, -1)):
        jacobian = torch.autograd.functional.jacobian(lambda v, part=part: part(v.view_as(z)).flatten(), z.flatten())
        by_pixel = jacobian.view(2, 9, 2, 9)
        for channel in range(2):
            for other in range(2):
                block = by_pixel[channel, :, other]
                later = torch.ones(9, 9).triu(1) if order == 1 else torch.ones(9, 9).tril(-1)
                assert not bool(block[later.bool()].any())
                if channel == other:
                    torch.testing.assert_close(block.diagonal(), torch.ones(9, dtype=DTYPE))
                elif other > channel:
                    assert not bool(block.diagonal().any())


def test_parts_of_another_family_are_refused():
    with pytest.raises(ContractError, match="continues the tower of prior 'nvae'; the prior is a StandardNormal"):
        NVAEDecoder(StandardNormal(3))
    with pytest.raises(ContractError, match="encoder 'nvae' continues"):
        NVAEEncoder(TinyPrior())
    with pytest.raises(ContractError, match=r"images of shape \(C, H, W\); the data have shape \(2,\)"):
        NVAEPrior((2,))
    with pytest.raises(ContractError, match="groups must be at least 1, got 0"):
        small_prior(groups=0)


def test_a_latent_without_the_tower_s_features_gets_them():
    model = small_model()
    with torch.no_grad():
        latent = model.latent(torch.randn(2, model.latent_layout.size, dtype=DTYPE))
        torch.testing.assert_close(model.likelihood(Latent(latent.groups)).mean, model.likelihood(latent).mean)


def test_finding_the_data_shape_moves_no_batch_statistics():
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.data_shape == (1, 4, 4)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_folded_for_a_chain_follow_the_next_update():
    model = small_model()
    eps = torch.randn(2, model.noise_layout.size, dtype=DTYPE)
    with torch.no_grad():
        before = model.decode(eps)
        with frozen(model):
            torch.testing.assert_close(model.decode(eps), before)
        for parameter in model.parameters():
            parameter.data.mul_(1.2)
        after = model.decode(eps)
        assert not torch.allclose(after, before, atol=1e-3)
        with frozen(model):
            torch.testing.assert_close(model.decode(eps), after)


def test_weights_kept_while_frozen_give_way_to_those_that_are_loaded():
    """As the metric 'anomaly' does with the weights of several checkpoints."""
    model, other = small_model(), small_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.2)
        eps = torch.randn(2, model.noise_layout.size, dtype=DTYPE)
        with frozen(model):
            before = model.decode(eps)
            model.load_state_dict(other.state_dict())
            after = model.decode(eps)
        with frozen(other):
            torch.testing.assert_close(after, other.decode(eps))
        assert not torch.allclose(after, before, atol=1e-3)


# -- training extras --------------------------------------------------------------------------------------------------


def test_depthwise_convolutions_stay_in_full_precision_under_autocast():
    torch.manual_seed(0)
    convolution, x = Conv(8, 8, 5, groups=8, normalised=False), torch.randn(2, 8, 6, 6)
    full = convolution(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv(8, 8)(x).dtype == torch.bfloat16
        mixed = convolution(x)
    assert torch.equal(mixed, full)
    slopes = [torch.autograd.grad(out.square().sum(), convolution.weight)[0] for out in (full, mixed)]
    assert torch.equal(*slopes)


def test_balance_weights_follow_the_divergence_and_the_size_of_the_scale():
    latent = Latent((torch.zeros(4, 2, 2, 2), torch.zeros(4, 2, 4, 4), torch.zeros(4, 2, 4, 4)))
    weights = balance_weights(torch.tensor([1.0, 3.0, 3.0]), latent)
    torch.testing.assert_close(weights.mean(), torch.ones(()))
    # alpha = (8 / 1, 32 / 2, 32 / 2).
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(3.01 / 1.01 * 8.0 / 16.0))
    collapsed = balance_weights(torch.tensor([0.0, 3.0, 3.0]), latent)
    assert float(collapsed[0]) < 0.05, "a group with no divergence left is hardly pushed"


def test_the_weight_of_the_penalty_falls_by_equal_factors():
    prior = small_prior()
    model = Model(prior, NVAEDecoder(prior), NVAEEncoder(prior, 4, 1, 1))
    settings = {"steps": 4, "batch": 2, "optimizer": Adamax(), "kl_warmup": 2}
    stage = ELBO(model=model, penalty=0.01, penalty_start=1.0, **settings)
    assert [stage.penalty_weight(step) for step in range(4)] == pytest.approx([1.0, 0.1, 0.01, 0.01])
    with pytest.raises(ContractError, match=r"got penalty_start=1\.0, penalty=0\.0, kl_warmup=2"):
        ELBO(model=model, penalty_start=1.0, **settings)


def test_readjusted_statistics_are_those_of_cold_draws():
    model = small_model(shape=(1, 8, 8))
    other = copy.deepcopy(model)
    readjust_batch_norm(other, 0.5, generator=torch.Generator().manual_seed(0), draws=60, batch=64)
    assert not other.training
    first = model.prior.tower[1].norm_in  # reads what the first merge gives: linear in z.0, so known
    eps = 0.5 * torch.randn(4000, *model.prior.noise_shapes[0], dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.prior.tower[0](model.prior.first.expand(4000, *model.prior.first.shape), 1.01 * eps)
    adjusted = other.prior.tower[1].norm_in
    torch.testing.assert_close(adjusted.running_mean, features.mean((0, 2, 3)), rtol=0.05, atol=0.02)
    torch.testing.assert_close(adjusted.running_var, features.var((0, 2, 3)), rtol=0.1, atol=0.02)
    assert not torch.allclose(first.running_var, adjusted.running_var, rtol=0.2)
    assert (adjusted.momentum, adjusted.training) == (first.momentum, False)
    untouched = [name for name, v in model.state_dict().items() if "running" in name and name.startswith("encoder")]
    assert untouched
    assert all(torch.equal(model.state_dict()[name], other.state_dict()[name]) for name in untouched)


def test_the_stage_measures_what_the_function_does_and_moves_no_weight():
    one, other = small_model(shape=(1, 8, 8)), small_model(shape=(1, 8, 8))
    weights = {name: value.clone() for name, value in one.named_parameters()}
    readjust_batch_norm(one, 0.5, generator=torch.Generator().manual_seed(0), draws=3, batch=8)
    stage = ReadjustBatchNorm(model=other.train(), temperature=0.5, steps=3, batch=8)
    stage.run = StageRun(None, torch.device("cpu"), torch.Generator().manual_seed(0), dataset_size=8)
    for step in range(3):
        stage.step(Batch(torch.zeros(8, 1, 8, 8), torch.arange(8)), step)
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())
    assert all(torch.equal(value, weights[name]) for name, value in other.named_parameters())
    with pytest.raises(ContractError, match="with batch norms in them"):
        ReadjustBatchNorm(model=Model(StandardNormal(2)), temperature=0.7)
    with pytest.raises(ContractError, match=r"temperature must be above 0, got 0\.0"):
        ReadjustBatchNorm(model=other, temperature=0.0)


# -- published weights ------------------------------------------------------------------------------------------------

ARGS = {
    "dataset": "mnist", "num_channels_dec": 4, "num_channels_enc": 4, "num_latent_scales": 2, "num_groups_per_scale": 1,
    "num_latent_per_group": 2, "num_cell_per_cond_dec": 1, "num_cell_per_cond_enc": 1, "num_preprocess_blocks": 1,
    "num_postprocess_blocks": 1, "num_preprocess_cells": 1, "num_postprocess_cells": 1, "use_se": True, "num_nf": 1,
}  # fmt: skip


def test_published_arguments_are_read():
    settings = arguments({**ARGS, "ada_groups": True, "res_dist": True})
    assert settings["decoder"]["likelihood"] == "bernoulli"
    assert settings["prior"]["ada_groups"]
    assert settings["encoder"]["residual"]
    assert arguments({**ARGS, "dataset": "cifar10"})["decoder"]["likelihood"] == "mixture"
    assert arguments({**ARGS, "num_x_bits": 5})["decoder"]["levels"] == 32
    assert arguments({**ARGS, "dataset": "cifar10", "num_mixture_dec": 1})["decoder"]["likelihood"] == "gaussian"
    with pytest.raises(DataError, match="architecture 'res_mbconv' can be read, the checkpoint has 'res_elu'"):
        arguments({**ARGS, "arch_instance": "res_elu"})
    with pytest.raises(DataError, match="unlike numbers of blocks"):
        arguments({**ARGS, "num_preprocess_blocks": 2})


def test_foreign_weights_are_refused():
    with pytest.raises(DataError, match=r"the first is 'decoder\.conv\.weight'"):
        convert({"decoder.conv.weight": torch.zeros(1), "stem.bias": torch.zeros(1)})
    assert convert({"stem.weight_normalized": torch.zeros(1)}) == {}


def test_statistics_for_a_temperature_are_the_plain_mean_over_batches():
    model = small_model()
    norms = batch_norms(model)
    readjust_batch_norm(model, 0.7, generator=torch.Generator().manual_seed(0), draws=3, batch=4)
    found = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in norms]
    generator = torch.Generator().manual_seed(0)
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # what torch takes for the plain mean, at the price of a wait for the device
        layer.train()
    with torch.no_grad():
        for _ in range(3):
            noise = model.latent_layout.draw(4, generator=generator, dtype=torch.float64)
            model.likelihood(model.latent(noise, 0.7))
    for layer, (mean, variance) in zip(norms, found, strict=True):
        assert torch.equal(layer.running_mean, mean)
        assert torch.equal(layer.running_var, variance)
        assert int(layer.num_batches_tracked) == 3
