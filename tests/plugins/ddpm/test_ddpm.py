"""The diffusion amortizer: the laws of its interface, of its schedule and of its walks from noise to data."""

import copy
import math

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces import StartRequest
from genfw.interfaces.values import NoiseLayout
from genfw.models.model import Model
from genfw.models.targets import PriorTarget
from genfw.testing import AmortizerSuite
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan.encoder import DCGANEncoder
from genfw_plugins.ddpm.amortizer import DDPM
from genfw_plugins.ddpm.network import MLPUNet
from genfw_plugins.ddpm.schedule import CosineSchedule, alpha_sigma
from genfw_plugins.ddpm.solvers import ancestral, ddim, dpm_solver
from genfw_plugins.ddpm.walk import Walk
from genfw_plugins.mcmc.starts.amortizer import AmortizerStart

SMALL = {"widths": (16, 24), "time_features": 8, "steps": 5}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def on_vectors(dim=2, **arguments):
    """An amortizer over positions of a length, given data of that length."""
    torch.manual_seed(0)
    encoder = MLPEncoder(StandardNormal(dim), (dim,), hidden=(16,))
    return DDPM(NoiseLayout.of(**{"z.0": (dim,)}), (dim,), encoder, **{**SMALL, **arguments})


class TestDDPM(AmortizerSuite):
    size = 3
    shape = (1, 4, 4)

    def make(self):
        encoder = DCGANEncoder(self.shape, factors=(1, 2), width=2, embedding=6)
        return DDPM(NoiseLayout.of(**{"z.0": (3,)}), self.shape, encoder, **SMALL)


class TestDDPMWithConstantToken(AmortizerSuite):
    size = 1
    shape = (2,)

    def make(self):
        encoder = MLPEncoder(StandardNormal(1), self.shape, hidden=(8,))
        return DDPM(
            NoiseLayout.of(**{"z.0": (1,)}),
            self.shape,
            encoder,
            **SMALL,
            token="constant",
            solver="dpm-solver",
            guidance=0.5,
        )


# -- schedule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(-5.1, 9.8), (-10.0, 10.0), (-1.0, 0.5)])
def test_schedule_falls_from_high_to_low(ends):
    schedule = CosineSchedule(*ends)
    u = torch.linspace(0, 1, 500, dtype=torch.float64)
    log_snr = schedule(u)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(log_snr[[-1, 0]], torch.tensor(ends, dtype=torch.float64))
    alpha, sigma = alpha_sigma(log_snr)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(u))
    torch.testing.assert_close(2 * (alpha.log() - sigma.log()), log_snr)


@pytest.mark.parametrize("even", [False, True])
def test_grid_rises_between_the_ends(even):
    grid = CosineSchedule().grid(12, even)
    assert grid.shape == (12,)
    assert (grid.diff() > 0).all()
    torch.testing.assert_close(grid[[0, -1]], torch.tensor([-5.1, 9.8], dtype=torch.float64))


# -- walks, with the exact predictor of a normal target ---------------------------------------------------------------

MEAN, SCALE = torch.tensor([0.7, -0.5], dtype=torch.float64), torch.tensor([0.3, 1.4], dtype=torch.float64)


def exact(grid, mean=MEAN):
    r"""The noise that a diffused :math:`N(\mu, s^2)` is expected to hold."""

    def predict(z, step):
        alpha, sigma = alpha_sigma(grid[step])
        return sigma * (z - alpha * mean) / ((alpha * SCALE).square() + sigma.square())

    return predict


def walk(name, steps, mean=MEAN, count=20_000):
    grid = CosineSchedule().grid(steps, even=not name.startswith("ancestral"))
    noise = torch.randn(count, 2, generator=generator(3), dtype=torch.float64)
    predict = exact(grid, mean)
    match name.partition(" "):
        case ("ancestral", _, gamma):
            return ancestral(predict, grid, noise, generator(4), float(gamma))
        case ("ddim", _, _):
            return ddim(predict, grid, noise)
        case _:
            return dpm_solver(predict, grid, noise)


@pytest.mark.parametrize(
    ("name", "steps"), [("ancestral 0", 200), ("ancestral 0.5", 100), ("ancestral 1", 100), ("ddim", 50), ("dpm", 12)]
)
def test_walk_recovers_the_moments_of_a_normal_target(name, steps):
    sample = walk(name, steps)
    # The walk begins at N(0, 1) and not at the diffused target, which differs by alpha = 0.08 of it.
    slack = 0.06
    assert (sample.mean(0) - MEAN).abs().max() < slack
    assert (sample.std(0) / SCALE - 1).abs().max() < slack
    # Negative control: the same test tells a target apart whose mean is a tenth off.
    assert (walk(name, steps, MEAN + 0.15).mean(0) - MEAN).abs().min() > slack


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm", 2)])
def test_deterministic_walk_converges_at_its_order(name, order):
    """The flow of a normal target is known: positions keep their distance from the mean in standard deviations."""
    grid = CosineSchedule().grid(2)
    (first, last), (begin, end) = alpha_sigma(grid)
    spread = [((a * SCALE).square() + s.square()).sqrt() for a, s in ((first, begin), (last, end))]
    noise = torch.randn(500, 2, generator=generator(3), dtype=torch.float64)
    flow = last * MEAN + (noise - first * MEAN) * spread[1] / spread[0]
    truth = (flow - end * exact(grid)(flow, 1)) / last
    errors = [float((walk(name, steps, count=500) - truth).abs().max()) for steps in (41, 81)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


# -- the amortizer ----------------------------------------------------------------------------------------------------


class Counted(MLPUNet):
    """Counts how many times are embedded."""

    def of_time(self, log_snr):
        self.times = [*getattr(self, "times", []), len(log_snr)]
        return super().of_time(log_snr)


@pytest.mark.parametrize(("guidance", "branches"), [(0.0, 1), (0.7, 2)])
def test_data_and_times_are_embedded_once_per_call(guidance, branches, monkeypatch):
    amortizer = on_vectors(guidance=guidance)
    amortizer.network.__class__ = Counted
    seen = []
    embed = amortizer.encoder.embed
    monkeypatch.setattr(amortizer.encoder, "embed", lambda x: seen.append(len(x)) or embed(x))
    steps = []
    predict = Walk.__call__
    monkeypatch.setattr(Walk, "__call__", lambda self, z, step: steps.append(step) or predict(self, z, step))
    amortizer.sample_given(torch.randn(3, 2), generator=generator())
    assert seen == [3]
    assert amortizer.network.times == [5]
    assert steps == [step for step in range(5) for _ in range(branches)]


def test_guidance_goes_beyond_the_conditional_prediction():
    weight, x = 0.6, torch.randn(4, 2, generator=generator(1))
    amortizer = on_vectors(steps=2, solver="ddim", guidance=weight, token="constant")
    torch.nn.init.normal_(amortizer.constant, generator=generator(8))
    network, log_snr = amortizer.network, torch.tensor([-5.1, 9.8])
    (first, last), (begin, end) = alpha_sigma(log_snr)

    def predict(z, step):
        time = network.of_time(log_snr[step : step + 1])
        given = network(z, time + network.of_context(amortizer.encoder.embed(x)))
        return (1 + weight) * given - weight * network(z, time + network.of_context(amortizer.constant))

    with torch.no_grad():
        z = torch.randn(4, 2, generator=generator(2))
        noise = predict(z, 0)
        z = last * (z - begin * noise) / first + end * noise
        expected = (z - end * predict(z, 1)) / last
    drawn = amortizer.sample_given(x, generator=generator(2))
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    amortizer.guidance = 0.0
    assert not torch.allclose(amortizer.sample_given(x, generator=generator(2)), drawn)


def test_without_guidance_the_null_token_has_no_part_in_draws_given_x():
    amortizer, x = on_vectors(), torch.randn(4, 2, generator=generator(1))
    before = amortizer.sample_given(x, generator=generator(2))
    with torch.no_grad():
        for parameter in amortizer.null.parameters():
            parameter += 1.0
    assert torch.equal(amortizer.sample_given(x, generator=generator(2)), before)


@pytest.mark.parametrize("token", ["noise", "constant"])
def test_hidden_data_have_no_part_in_the_loss(token):
    amortizer = on_vectors(token=token)
    position, x = torch.randn(2, 6, 2, generator=generator(1)).unbind(0)
    hidden = torch.tensor([True, False, True, False, False, True])
    loss = amortizer.loss(position, x, generator=generator(2), hidden=hidden)
    unconditional = amortizer.loss(position, None, generator=generator(2))
    given = amortizer.loss(position, x, generator=generator(2))
    torch.testing.assert_close(loss, torch.where(hidden, unconditional, given))
    assert not torch.isclose(unconditional, given).any()


def test_it_learns_both_laws():
    r""":math:`z \mid x \sim N(x, 0.2^2)` with :math:`x = \pm 1`: given x one mode is drawn, without it both."""
    amortizer = on_vectors(1, widths=(32, 32), steps=30)
    optimizer = torch.optim.Adam(amortizer.parameters(), lr=4e-3)
    source = generator(5)
    for _ in range(500):
        x = torch.randint(0, 2, (128, 1), generator=source) * 2.0 - 1.0
        position = x + 0.2 * torch.randn(x.shape, generator=source)
        hidden = torch.rand(128, generator=source) < 0.3
        optimizer.zero_grad()
        amortizer.loss(position, x, generator=source, hidden=hidden).mean().backward()
        optimizer.step()
    x = torch.ones(500, 1)
    for amortizer.solver in ("ancestral", "ddim", "dpm-solver"):
        for sign in (1.0, -1.0):
            drawn = amortizer.sample_given(sign * x, generator=source)
            assert float(drawn.mean()) == pytest.approx(sign, abs=0.2)
            assert 0.1 < float(drawn.std()) < 0.5  # that of both modes together is 1.02
        both = amortizer.sample(1000, generator=source)
        assert 0.25 < float((both > 0).float().mean()) < 0.75
        assert float(((both.abs() - 1).abs() < 0.6).float().mean()) > 0.8


def test_bfloat16_keeps_the_phases_exact():
    amortizer = on_vectors(8)
    z, context = torch.randn(2, 64, 8, generator=generator(1)).unbind(0)
    condition = amortizer.network.of_time(torch.zeros(64)) + amortizer.network.of_context(context)
    with torch.no_grad():
        whole = amortizer.network(z, condition)
        with torch.autocast("cpu", torch.bfloat16):
            half = amortizer.network(z, condition)
    assert half.dtype == torch.float32
    assert float((half - whole).abs().max()) < 0.02 * float(whole.abs().max())


@pytest.mark.parametrize("precision", ["model", "bf16"])
def test_draws_describe_images_in_their_precision(precision):
    torch.manual_seed(0)
    encoder = DCGANEncoder((3, 16, 16), factors=(1, 2, 2), width=8, embedding=32)
    amortizer = DDPM(
        NoiseLayout.of(**{"z.0": (4,)}), (3, 16, 16), encoder, **{**SMALL, "widths": (64, 64)}, draw_precision=precision
    )
    x, seen = torch.randn(4, 3, 16, 16, generator=generator(1)), []
    hook = encoder.net[0].register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out.dtype)))
    with torch.no_grad():
        drawn = amortizer.sample_given(x, generator=generator(2))
        (image, dtype) = seen[0]
        half = amortizer._described(x)
        hook.remove()
        whole = encoder.embed(x)
    assert drawn.dtype == half.dtype == torch.float32
    assert dtype == (torch.float32 if precision == "model" else torch.bfloat16)
    assert image.is_contiguous(memory_format=torch.channels_last) == (precision == "bf16")
    apart = float((half - whole).norm() / whole.norm())
    assert apart < 0.02 if precision == "bf16" else apart == 0


def test_token_made_of_noise_differs_between_draws_and_a_constant_does_not():
    contexts = {token: on_vectors(token=token)._hidden(3, generator()) for token in ("noise", "constant")}
    assert contexts["noise"].shape == (3, 2)
    assert len(contexts["noise"].unique(dim=0)) == 3
    assert contexts["constant"].shape == (1, 2)


def test_a_copy_draws_the_same():
    amortizer = on_vectors()
    draws = [part.sample(3, generator=generator(1)) for part in (amortizer, copy.deepcopy(amortizer))]
    assert torch.equal(*draws)


def test_prior_chains_may_start_given_data():
    """DAMC's Algorithm 1 starts the chains of the prior where those of the posterior start."""
    amortizer, x = on_vectors(), torch.randn(3, 2, generator=generator(1))
    target = PriorTarget(Model(StandardNormal(2)))
    draws = {}
    for given in (False, True):
        request = StartRequest(3, target, generator(2), x)
        draws[given] = AmortizerStart(amortizer=amortizer, given_x=given).draw(request)
    assert torch.equal(draws[True], amortizer.sample_given(x, generator=generator(2)))
    assert torch.equal(draws[False], amortizer.sample(3, generator=generator(2)))
    with pytest.raises(ContractError, match="needs the data x"):
        AmortizerStart(amortizer=amortizer, given_x=True).draw(StartRequest(3, target, generator(2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"variance": 1.5}, r"in \[0, 1\], got 1.5"),
        ({"guidance": -0.1}, "guidance must be at least 0"),
        ({"log_snr": (3.0, -3.0)}, "low < high"),
        ({"widths": ()}, "at least one"),
        ({"time_features": 7}, "even and at least 4"),
    ],
)
def test_it_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        on_vectors(**arguments)


def test_first_look_is_table_s3():
    """Sizes of Table S3 at the paper's nz = 128, nemb = 1024."""
    network = MLPUNet(128, 1024)
    assert network.outputs == [128, 256, 256, 256, 256, 128, 128]
    assert network.down[0].inner.in_features == 2 * 128
    assert network.condition.in_features == 1024 + 128
    assert math.prod(network.frequencies.shape) == 128 * 64
