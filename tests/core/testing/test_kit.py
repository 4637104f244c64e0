"""The kit's suites of networks: right ones pass every test, and each wrong one fails the test of the law it breaks."""

import inspect

import attrs
import pytest
import torch
from torch import nn

from genfw.interfaces import Amortizer, Energy
from genfw.interfaces.likelihood import Gaussian
from genfw.nn.precision import apply_in_full
from genfw.testing import AmortizerSuite, DecoderSuite, EncoderSuite, EnergySuite, PriorSuite
from genfw.testing.tiny import TinyDecoder, TinyEncoder, TinyEnergy, TinyPrior

pytest_plugins = ["genfw.testing.fixtures"]

# -- what is right passes --------------------------------------------------------------------------


class TestPrior(PriorSuite):
    def make(self):
        return TinyPrior(dim=3)


class TestDecoder(DecoderSuite):
    latent_shapes = ((2,),)

    def make(self):
        return TinyDecoder(size=3)


class TestEncoder(EncoderSuite):
    shape = (2,)
    borrowed = ("_prior",)

    def make(self):
        return TinyEncoder(TinyPrior())


class TestEnergy(EnergySuite):
    shape = (2,)

    def make(self):
        return TinyEnergy()


def test_fixtures_give_the_same_each_time(generator, tiny_model):
    position = tiny_model.noise_layout.draw(2, generator=generator)
    assert tiny_model.decode(position).shape == (2, 2)
    again = torch.Generator().manual_seed(0)
    assert torch.equal(tiny_model.noise_layout.draw(2, generator=again), position)


def test_tiny_run_is_finished(tiny_run):
    assert tiny_run.status == "finished"
    assert (tiny_run.directory / "metrics.jsonl").read_text().count("\n") == 8


# -- what is wrong fails, by the test of the law that it breaks ------------------------------------


def failures(suite):
    """Names of the suite's tests that its component fails."""
    failed = []
    for name, method in inspect.getmembers(suite(), inspect.ismethod):
        if name.startswith("test_"):
            try:
                method()
            except Exception:
                failed.append(name)
    return failed


def energy(cls, **settings):
    members = {"shape": (2,), "make": lambda self: cls(), **settings}
    return type("Suite", (EnergySuite,), members)


class Linear(Energy):
    """A right energy, for wrong ones to differ from in one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def forward(self, v):
        return apply_in_full(self.net, v).squeeze(1)


class HalfPrecision(Linear):
    """Loses the gap beside the level under autocast."""

    def forward(self, v):
        return self.net(v).squeeze(1)


class TwoNumbers(Linear):
    """Keeps the last dimension."""

    def forward(self, v):
        return self.net(v)


class Hidden(Linear):
    """A parameter in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [nn.Parameter(torch.ones(1))]

    def forward(self, v):
        return super().forward(v) * self.scales[0]


@attrs.define(eq=False, slots=False)
class AttrsStyle(Energy):
    """attrs replaces nn.Module's __setattr__ and never calls its constructor."""

    net: nn.Linear = attrs.field(factory=lambda: nn.Linear(2, 1), validator=attrs.validators.instance_of(nn.Module))

    def forward(self, v):
        return self.net(v).squeeze(1)


class Constant(Linear):
    """A tensor that does not move with the module."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.ones(2)

    def forward(self, v):
        return super().forward(v + self.shift)


class SinglePrecision(Linear):
    """Computes in float32 whatever it is given."""

    def forward(self, v):
        return super().forward(v).float()


class Pinned(Linear):
    """Makes a tensor on the CPU."""

    def forward(self, v):
        return super().forward(v) + torch.zeros(v.shape[0])


class Detached(Linear):
    """Cuts half the gradient off."""

    def forward(self, v):
        return super().forward(v) + v.detach().square().sum(1)


class Idle(Linear):
    """Has a weight that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))


class BatchDependent(Linear):
    """Subtracts the mean over the batch, in eval mode too."""

    def forward(self, v):
        energy = super().forward(v)
        return energy - 0.5 * energy.mean()


class Noisy(Linear):
    """Drops out in eval mode too."""

    def forward(self, v):
        return super().forward(torch.nn.functional.dropout(v, 0.5, training=True))


class InPlace(Linear):
    """Scales its caller's tensor."""

    def forward(self, v):
        with torch.no_grad():
            v.mul_(0.5)
        return super().forward(v)


class Counting(Linear):
    """Moves a buffer in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, v):
        self.calls += 1
        return super().forward(v)


class Forgetful(Linear):
    """A random projection outside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(2, 2), persistent=False)

    def forward(self, v):
        return super().forward(v @ self.projection)


class Unannotated(Linear):
    """No annotation.

    Arguments:
        width: A number.
    """

    def __init__(self, width=3) -> None:
        super().__init__()


class Anything(Linear):
    """Takes whatever."""

    def __init__(self, **options: int) -> None:
        super().__init__()


class Unexplained(Linear):
    """Does not say what width is."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()


class UnknownSpace(Linear):
    """Reads something else."""

    on = "pixels"


class FixedPenalty(Linear):
    """Its penalty can't be reduced."""

    def penalty(self):
        return torch.ones(())


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (TwoNumbers, "test_result_is_one_finite_row_per_item"),
        (Hidden, "test_is_a_module_whose_parts_are_registered"),
        (AttrsStyle, "test_is_a_module_whose_parts_are_registered"),
        (Constant, "test_is_a_module_whose_parts_are_registered"),
        (SinglePrecision, "test_precision_is_that_of_input_and_weights"),
        (Pinned, "test_device_is_that_of_input_and_weights"),
        (Detached, "test_gradient_in_the_input_is_the_derivative"),
        (Idle, "test_gradient_reaches_every_parameter"),
        (BatchDependent, "test_items_of_a_batch_are_independent"),
        (Noisy, "test_evaluation_changes_nothing"),
        (InPlace, "test_evaluation_changes_nothing"),
        (Counting, "test_evaluation_changes_nothing"),
        (Forgetful, "test_state_goes_through_a_checkpoint"),
        (Unannotated, "test_constructor_is_a_documented_schema"),
        (Anything, "test_constructor_is_a_documented_schema"),
        (Unexplained, "test_constructor_is_a_documented_schema"),
        (UnknownSpace, "test_says_what_it_reads"),
        (HalfPrecision, "test_ends_in_full_precision_under_autocast"),
        (FixedPenalty, "test_penalty_is_one_number_or_none"),
    ],
)
def test_wrong_energy_is_caught(cls, law):
    assert failures(energy(Linear)) == []
    assert law in failures(energy(cls))


class WrongDensity(TinyPrior):
    """Forgets the Jacobian."""

    def log_prob(self, latent):
        return super().log_prob(latent) + self.log_scale.sum()


class DeafToTemperature(TinyPrior):
    """Ignores the temperature."""

    def transform(self, noise, temperature=1.0):
        return super().transform(noise)


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (WrongDensity, "test_density_is_that_of_the_transformed_noise"),
        (DeafToTemperature, "test_temperature_is_a_factor_on_the_scale"),
    ],
)
def test_wrong_prior_is_caught(cls, law):
    assert law in failures(type("Suite", (PriorSuite,), {"make": lambda self: cls()}))


class MismatchedScale(Gaussian):
    """Draws with one scale and scores with another (VAEBM's NormalDecoder)."""

    def transform(self, noise):
        return self._mean + 0.5 * self.scale * noise


class TwoScales(TinyDecoder):
    """Scores with another scale than it draws with."""

    def forward(self, latent):
        likelihood = super().forward(latent)
        return MismatchedScale(likelihood.mean, likelihood.scale)


class LostNoise(TinyDecoder):
    """States a noise that its likelihood does not have."""

    @property
    def noise_shape(self):
        return (7,)


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (TwoScales, "test_density_is_that_of_the_transformed_noise"),
        (LostNoise, "test_noise_shape_is_the_likelihood_s"),
    ],
)
def test_wrong_decoder_is_caught(cls, law):
    suite = type("Suite", (DecoderSuite,), {"latent_shapes": ((2,),), "make": lambda self: cls()})
    assert law in failures(suite)


class WrongDivergence(TinyEncoder):
    """Its KL lacks a half."""

    def forward(self, x, **options):
        posterior = super().forward(x, **options)
        return attrs.evolve(posterior, kl=2.0 * posterior.kl)


class OtherLatent(TinyEncoder):
    """Its latent is not the walk of its noise."""

    def forward(self, x, **options):
        posterior = super().forward(x, **options)
        return attrs.evolve(posterior, noise=posterior.noise + 1.0)


class GlobalNoise(TinyEncoder):
    """Draws from the global generator."""

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        return super().forward(x, noise=noise, temperature=temperature)


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (WrongDivergence, "test_densities_agree_with_the_divergence"),
        (OtherLatent, "test_noise_maps_to_the_latent"),
        (GlobalNoise, "test_draws_follow_the_generator"),
    ],
)
def test_wrong_encoder_is_caught(cls, law):
    members = {"shape": (2,), "borrowed": ("_prior",), "make": lambda self: cls(TinyPrior())}
    assert law in failures(type("Suite", (EncoderSuite,), members))


class Bell(Amortizer):
    """A right amortizer: a normal law with a learned mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.linear = nn.Parameter(torch.zeros(3)), nn.Linear(2, 3)

    @torch.no_grad()
    def sample(self, count, *, generator):
        return self.mean + torch.randn(count, 3, generator=generator)

    @torch.no_grad()
    def sample_given(self, x, *, generator):
        return self.linear(x) + torch.randn(len(x), 3, generator=generator)

    def loss(self, position, x, *, generator):
        mean = self.mean if x is None else self.linear(x)
        return 0.5 * (position - mean).square().sum(1)


class BellWithGraph(Bell):
    """Its draws can be differentiated through."""

    def sample(self, count, *, generator):
        return self.mean + torch.randn(count, 3, generator=generator)


class BellUphill(Bell):
    """Its loss is no minimum of anything it trains."""

    def loss(self, position, x, *, generator):
        return super().loss(position.detach(), x, generator=generator).detach() + 0.0 * self.mean.sum()


class BellAverage(Bell):
    """Averages its loss."""

    def loss(self, position, x, *, generator):
        return super().loss(position, x, generator=generator).mean()


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (BellWithGraph, "test_positions_are_drawn_by_the_generator_alone"),
        (BellUphill, "test_training_lowers_the_loss"),
        (BellUphill, "test_gradient_reaches_every_parameter"),
        (BellAverage, "test_loss_is_one_number_per_item"),
    ],
)
def test_wrong_amortizer_is_caught(cls, law):
    def suite(of):
        return type("Suite", (AmortizerSuite,), {"size": 3, "shape": (2,), "make": lambda self: of()})

    assert failures(suite(Bell)) == []
    assert law in failures(suite(cls))
