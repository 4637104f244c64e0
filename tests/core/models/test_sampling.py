"""Drawing from a finished model: the same set whatever came before, and a model left as it was found."""

import copy

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces import Decoder, Energy, Info, Prior, Sampler, Start
from genfw.interfaces.likelihood import Deterministic, Gaussian
from genfw.interfaces.values import Latent
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings, count_batches, draw_batch, draw_samples, preserved


class Normal(Prior):
    noise_shapes = ((3,),)

    def transform(self, noise, temperature=1.0):
        return Latent((temperature * noise[0],))

    def log_prob(self, latent):
        return -0.5 * latent.flat().square().sum(1)


class Noisy(Decoder):
    noise_shape = (3,)

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.full((3,), 2.0))

    def forward(self, latent):
        return Gaussian(latent.flat() + self.shift, 0.25)


class Sharp(Noisy):
    noise_shape = None

    def forward(self, latent):
        return Deterministic(latent.flat() + self.shift)


class Pull(Energy):
    def __init__(self, on="data"):
        super().__init__()
        self.on = on

    def forward(self, v):
        return 0.5 * v.square().flatten(1).sum(1)


class State:
    def __init__(self, position, potential):
        self.position, self.potential = position, potential


class Halver(Sampler):
    """Multiplies positions by ``factor``, and lets ``factor`` drift from chain to chain as an adapting kernel would."""

    def __init__(self, steps=4):
        self.steps, self.factor = steps, 0.5

    def init(self, target, position, generator):
        return State(position, target.potential(position))

    def step(self, target, state, generator):
        position = self.factor * state.position + 0.01 * torch.randn(state.position.shape, generator=generator)
        half = torch.full((len(position),), 0.5)
        return State(position, target.potential(position)), Info(half, half > 0)

    def finish(self, state):
        self.factor *= 0.9

    def state_dict(self):
        return {"factor": self.factor}

    def load_state_dict(self, state):
        self.factor = state["factor"]


class Counting(Start):
    """Begins at the number of draws so far: state that must not leak from one draw into the next."""

    def __init__(self):
        self.draws, self.stored = 0, 0

    def draw(self, request):
        self.draws += 1
        return torch.full((request.count, request.target.layout.size), float(self.draws))

    def store(self, request, position):
        self.stored += 1

    def state_dict(self):
        return {"draws": self.draws}

    def load_state_dict(self, state):
        self.draws = state["draws"]


@pytest.fixture
def model():
    return Model(Normal(), Noisy(), energy=Pull())


def draw(model, count=10, seed=0, **settings):
    return draw_samples(model, SampleSettings(**settings), count, seed=seed)


def test_a_seed_names_a_set(model):
    first, again, other = (draw(model, seed=seed, sampler=Halver()) for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert first.x.shape == (10, 3)
    assert first.position.shape == (10, 6)


def test_whole_batches_do_not_depend_on_how_many_there_are(model):
    few, many = (draw(model, count, batch=4, sampler=Halver()) for count in (8, 12))
    assert torch.equal(few.x, many.x[:8])


def test_batches_differ_from_one_another(model):
    samples = draw(model, 8, batch=4)
    assert not torch.equal(samples.x[:4], samples.x[4:])


def test_kernel_start_and_model_are_left_as_found(model):
    sampler, start = Halver(), Counting()
    model.train()
    model.decoder.shift.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    samples = draw(model, 9, batch=3, sampler=sampler, start=start)
    assert sampler.factor == 0.5
    assert (start.draws, start.stored) == (0, 0)
    assert model.training
    assert model.decoder.training
    assert not model.decoder.shift.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # Every batch began at 1, the start's first draw, with the kernel's first factor.
    assert samples.position.mean(1) == pytest.approx([0.5**4] * 9, abs=0.05)


def test_starts_share_the_samples_out_in_order(model):
    class Fixed(Start):
        def __init__(self, value):
            self.value = value

        def draw(self, request):
            return torch.full((request.count, request.target.layout.size), self.value)

    samples = draw(model, 5, start=[Fixed(-1.0), Fixed(1.0)])
    assert samples.position[:, 0].tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]


def test_potential_and_acceptance_are_recorded(model):
    samples = draw(model, 7, sampler=Halver())
    assert samples.acceptance == pytest.approx(0.5)
    expected = 0.5 * samples.position.square().sum(1) + 0.5 * samples.x.square().sum(1)
    torch.testing.assert_close(samples.potential, expected)
    plain = draw(model, 7)
    assert plain.acceptance is None
    torch.testing.assert_close(plain.potential, 0.5 * plain.position.square().sum(1) + 0.5 * plain.x.square().sum(1))


def test_trace_ends_in_the_samples(model):
    samples = draw(model, 20, batch=12, sampler=Halver(steps=6), keep_every=3)
    assert samples.kept == (0, 3, 6)
    assert samples.trace.shape == (3, 8, 3)
    assert samples.potentials.shape == (3, 12)
    assert torch.equal(samples.trace[-1], samples.x[:8])
    assert draw(model, 20, sampler=Halver()).trace.shape == (0, 0, 3)


def test_decoder_noise_is_the_same_along_a_trace():
    model = Model(Normal(), Noisy(), energy=Pull("latent"))

    class Still(Halver):
        def step(self, target, state, generator):
            return state, Info(torch.ones(len(state.position)), torch.zeros(len(state.position), dtype=torch.bool))

    samples = draw(model, 5, space="prior", sampler=Still(), keep_every=1)
    assert samples.position.shape == (5, 3)
    assert torch.equal(samples.trace[0], samples.trace[-1])


def test_mean_leaves_the_decoder_noise_out(model):
    samples = draw(model, 6, mean=True)
    torch.testing.assert_close(samples.x, samples.position[:, :3] + 2.0)


@pytest.mark.parametrize("decoder", [Noisy, Sharp])
def test_temperature_scales_the_latent_alone(decoder):
    model = Model(Normal(), decoder())
    warm, cold = (draw(model, 4000, temperature=temperature) for temperature in (1.0, 0.1))
    noise = 0.25 if decoder is Noisy else 0.0
    assert float(warm.x.std()) == pytest.approx((1 + noise**2) ** 0.5, rel=0.05)
    assert float(cold.x.std()) == pytest.approx((0.01 + noise**2) ** 0.5, rel=0.05)


def test_temperature_with_an_energy_on_data_keeps_its_noise(model):
    samples = draw(model, 50, temperature=0.5)
    torch.testing.assert_close(samples.x, 0.5 * samples.position[:, :3] + 2.0 + 0.25 * samples.position[:, 3:])


def test_data_space_has_no_temperature():
    with pytest.raises(ContractError, match="space 'data' does not have"):
        draw(Model(energy=Pull(), data_shape=(3,)), space="data", temperature=0.5)


def test_nothing_can_be_drawn_in_no_number(model):
    with pytest.raises(ContractError, match="at least 1 sample"):
        draw(model, 0)


def test_preserved_puts_back_after_an_error():
    sampler = Halver()

    def fail():
        sampler.factor = 0.0
        raise ValueError

    with pytest.raises(ValueError), preserved(sampler):  # noqa: PT011
        fail()
    assert sampler.factor == 0.5


def test_batches_drawn_in_any_order_are_the_same_set(model):
    settings = SampleSettings(sampler=Halver(), batch=3)
    whole = draw_samples(model, settings, 10, seed=4)
    drawn = {number: draw_batch(model, settings, 10, number, seed=4) for number in (2, 0, 3, 1)}
    batches = [drawn[number] for number in range(count_batches(settings, 10))]
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    for name in ("x", "position", "potential"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), getattr(whole, name))


def test_between_batches_the_model_is_as_it_was_found(model):
    model.train()
    for number in range(3):
        draw_batch(model, SampleSettings(sampler=Halver(), batch=3), 7, number, seed=4)
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert torch.is_grad_enabled()
