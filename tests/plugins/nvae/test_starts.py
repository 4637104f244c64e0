"""Chains that begin in NVAE's cold draws."""

import copy

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces import Energy, StartRequest
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import DataTarget, JointTarget, NoiseTarget
from genfw.testing import StartSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyPrior
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.nvae.starts import LowTemperatureStart
from genfw_plugins.nvae.statistics import readjust_batch_norm
from nvae_parts import small_model


class Square(Energy):
    def forward(self, v):
        return v.flatten(1).square().sum(1)


def start_and_target():
    model = small_model(Square(), shape=(1, 8, 8)).requires_grad_(False)
    # In float32, as recipes run it: positions of a start are checked as such.
    model.float()
    return LowTemperatureStart(model=model, temperature=0.6, draws=3, batch=8), NoiseTarget(model)


class TestLowTemperatureStart(StartSuite):
    def make(self):
        return start_and_target()[0]

    def target(self):
        return start_and_target()[1]


def test_starts_are_what_the_encoder_finds_behind_cold_draws():
    start, target = start_and_target()
    model = target.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = start.draw(StartRequest(6, target, torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The same by hand: a copy with statistics of cold draws makes the images, the model itself encodes them. Nothing of
    # the copy is frozen, so that none of its batch norms is folded into a convolution.
    generator = torch.Generator().manual_seed(0)
    cold = copy.deepcopy(model).requires_grad_(True)
    readjust_batch_norm(cold, 0.6, generator=generator, draws=3, batch=8)
    with torch.no_grad():
        x = cold.likelihood(cold.latent(cold.latent_layout.draw(6, generator=generator), 0.6)).mean
        noise = target.draw_base(6, generator)
        latent = model.encoder(x, generator=generator).noise
        # Negative control: with the statistics of training the cold images are others.
        generator.manual_seed(0)
        plain = model.likelihood(model.latent(model.latent_layout.draw(6, generator=generator), 0.6)).mean
        unlike = model.encoder(plain, generator=generator).noise
    width = latent.shape[1]
    torch.testing.assert_close(drawn[:, :width], latent, rtol=1e-3, atol=1e-3)
    assert torch.equal(drawn[:, width:], noise[:, width:])
    assert not torch.allclose(plain, x, atol=1e-2)
    assert not torch.allclose(unlike, latent, atol=0.1)


def test_a_chain_that_begins_there_walks_on_the_statistics_of_training():
    start, target = start_and_target()
    position = torch.randn(3, target.layout.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), frozen_for_chain(*target.modules()):
        before = target.potential(position)
        start.draw(StartRequest(4, target, torch.Generator().manual_seed(0)))
        assert torch.equal(target.potential(position), before)


def test_draws_of_the_generator_move_none_of_its_statistics():
    model = small_model(Square(), shape=(1, 8, 8)).float().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    request = StartRequest(4, JointTarget(model), torch.Generator().manual_seed(0))
    drawn = NoiseStart().draw(request)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    model.eval()
    request.generator.manual_seed(0)
    torch.testing.assert_close(request.target.draw_base(4, request.generator), drawn)


def test_it_is_refused_where_it_makes_no_sense():
    prior = TinyPrior()
    with pytest.raises(ContractError, match="with batch norms in prior or decoder"):
        LowTemperatureStart(model=Model(prior, TinyDecoder(), TinyEncoder(prior)))
    start, target = start_and_target()
    with pytest.raises(ContractError, match="gives noise, for chains in space 'noise' or 'prior'"):
        start.draw(StartRequest(2, DataTarget(target.model), torch.Generator()))
    with pytest.raises(ContractError, match=r"temperature must be above 0, got 0\.0"):
        LowTemperatureStart(model=target.model, temperature=0.0)
