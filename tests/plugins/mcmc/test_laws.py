"""Kernels leave the law they are given as it is, or reach it; a biased kernel fails the same tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from genfw.interfaces import Sampler
from genfw.interfaces.target import Target
from genfw.models.chains import run_chain
from genfw.models.targets import DataTarget, FunctionTarget
from genfw.testing.targets import AnalyticTarget, discrepancy, grid_of_25, standard_targets
from genfw_plugins.mcmc.annealed import AnnealedLangevin
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.isir import ISIR
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.tempered import TemperedLangevin

# Standard errors. The largest of some thirty correlated statistics passes it about once in 2,000 runs.
LIMIT = 5.0

EXACT: dict[str, Callable[[], Sampler]] = {
    "mala": lambda: MALA(adapt_steps=60, steps=40),
    "mala-jittered": lambda: MALA(adapt_steps=60, steps=40, jitter=0.9),
    "hmc": lambda: HMC(adapt_steps=40, steps=15, leapfrog_steps=4),
    "isir": lambda: ISIR(candidates=8, steps=15),
    "ex2": lambda: Ex2(candidates=8, local=MALA(adapt_steps=60), local_steps=2, steps=15),
    "ex2-hmc": lambda: Ex2(candidates=4, local=HMC(adapt_steps=60, leapfrog_steps=3), steps=15),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def worst(position: torch.Tensor, target: AnalyticTarget) -> float:
    return max(discrepancy(position, target).values())


@pytest.fixture(scope="module")
def targets() -> dict[str, AnalyticTarget]:
    return standard_targets()


@pytest.mark.parametrize("name", ["correlated", "funnel", "skewed", "modes"])
@pytest.mark.parametrize("kernel", EXACT)
def test_exact_kernel_keeps_a_law_it_starts_in(kernel, name, targets) -> None:
    target, rng = targets[name], generator(1)
    sampler = EXACT[kernel]()
    # Step sizes find themselves first; then the kernel is one and the same at every step.
    run_chain(target, sampler, target.sample(200, rng), generator=rng, steps=60)
    chain = run_chain(target, sampler, target.sample(1000, rng), generator=rng, keep_every=5)
    assert worst(chain.trace, target) < LIMIT
    moved = (chain.position != chain.start).any(1).double().mean()
    assert moved > 0.95  # a kernel that stays put would keep any law


@pytest.mark.parametrize("name", ["correlated", "funnel", "skewed", "modes"])
def test_langevin_with_too_large_a_step_fails_that_test(name, targets) -> None:
    target, rng = targets[name], generator(1)
    chain = run_chain(target, Langevin(step_size=0.4, steps=40), target.sample(1500, rng), generator=rng, keep_every=5)
    assert worst(chain.trace, target) > 2 * LIMIT


@pytest.mark.parametrize("name", ["correlated", "funnel", "skewed", "modes"])
def test_langevin_with_a_small_step_passes_it(name, targets) -> None:
    target, rng = targets[name], generator(1)
    chain = run_chain(target, Langevin(step_size=2e-4, steps=40), target.sample(1500, rng), generator=rng)
    assert worst(chain.position, target) < LIMIT


def test_langevins_bias_is_the_one_theory_gives() -> None:
    # On N(0, 1 / k) the stationary variance of unadjusted Langevin is 1 / (k (1 - h k / 2)).
    stiffness, h = 4.0, 0.2
    target = FunctionTarget(1, lambda position: 0.5 * (stiffness - 1.0) * position.square().sum(1))
    rng = generator()
    chain = run_chain(target, Langevin(step_size=h, steps=60), torch.zeros(20_000, 1), generator=rng)
    variance = chain.position.var().item()
    expected = 1.0 / (stiffness * (1.0 - h * stiffness / 2.0))
    assert variance == pytest.approx(expected, rel=4.0 * (2.0 / 20_000) ** 0.5)


def test_langevin_without_noise_descends_to_the_mode() -> None:
    target = FunctionTarget(2, lambda position: -position @ torch.tensor([1.0, -2.0]))
    chain = run_chain(target, Langevin(step_size=0.2, steps=80, noise=0.0), torch.zeros(3, 2), generator=generator())
    torch.testing.assert_close(chain.position, torch.tensor([[1.0, -2.0]]).expand(3, 2), atol=1e-4, rtol=0)


REACHING: dict[str, tuple[Callable[[], Sampler], tuple[str, ...]]] = {
    "mala": (lambda: MALA(steps=150, jitter=0.9), ("correlated", "funnel", "skewed")),
    "hmc": (lambda: HMC(steps=40), ("correlated", "funnel", "skewed")),
    "isir": (lambda: ISIR(steps=80), ("correlated", "funnel", "skewed", "modes")),
    "ex2": (lambda: Ex2(local_steps=2, steps=40), ("correlated", "funnel", "skewed")),
    "tempered": (lambda: TemperedLangevin(steps=60), ("correlated", "funnel", "skewed")),
}


@pytest.mark.parametrize(
    ("kernel", "name"), [(kernel, name) for kernel, (_, names) in REACHING.items() for name in names]
)
def test_kernel_reaches_the_law_from_the_base(kernel, name, targets) -> None:
    target, rng = targets[name], generator(2)
    start = target.draw_base(1000, rng)
    assert worst(start, target) > 1.5 * LIMIT
    chain = run_chain(target, REACHING[kernel][0](), start, generator=rng)
    assert worst(chain.position, target) < LIMIT


class TestTwentyFiveModes:
    """All chains begin in one corner."""

    target = grid_of_25()

    def run(self, sampler: Sampler, count: int = 600) -> torch.Tensor:
        rng = generator(3)
        start = self.target.modes[:1] + 0.1 * torch.randn(count, 2, generator=rng, dtype=torch.float64)
        return run_chain(self.target, sampler, start, generator=rng).position

    @pytest.mark.parametrize(
        "sampler",
        [
            Ex2(candidates=8, local_steps=2, steps=40),
            TemperedLangevin(steps=80),
            TemperedLangevin(step_size=1e-3, local="langevin", steps=80),
        ],
        ids=["ex2", "tempered-mala", "tempered-langevin"],
    )
    def test_global_kernel_finds_all_modes_with_their_weights(self, sampler) -> None:
        position = self.run(sampler)
        assert len(self.target.mode_of(position).unique()) == 25
        assert worst(position, self.target) < LIMIT

    @pytest.mark.parametrize(
        "sampler", [MALA(step_size=3e-3, steps=120), HMC(step_size=0.05, steps=25)], ids=["mala", "hmc"]
    )
    def test_local_kernel_stays_where_it_began(self, sampler) -> None:
        position = self.run(sampler, 200)
        assert (self.target.mode_of(position) == 0).double().mean() > 0.95
        assert worst(position, self.target) > 5 * LIMIT

    def test_annealing_spreads_chains_but_misses_the_weights(self) -> None:
        rng = generator(4)
        start = self.target.draw_base(600, rng)
        chain = run_chain(self.target, AnnealedLangevin(step_size=1e-3, steps=200), start, generator=rng)
        assert len(self.target.mode_of(chain.position).unique()) == 25
        distance = torch.cdist(chain.position, self.target.modes).min(1).values
        assert (distance < 0.4).double().mean() > 0.98  # settled inside the modes, 4 standard deviations
        assert discrepancy(chain.position, self.target)["weights"] > LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [*EXACT, "tempered", "annealed", "langevin"])
def test_state_keeps_the_precision_of_positions_and_the_potential_belongs_to_them(kernel, dtype) -> None:
    more = {
        "tempered": lambda: TemperedLangevin(steps=4),
        "annealed": lambda: AnnealedLangevin(step_size=0.01, steps=4),
        "langevin": lambda: Langevin(step_size=0.01, steps=4),
    }
    sampler = (EXACT | more)[kernel]()
    target, rng = standard_targets(dtype)["skewed"], generator()
    state = sampler.init(target, target.draw_base(6, rng), rng)
    for _ in range(4):
        before = state.position.clone()
        old = state
        state, info = sampler.step(target, state, rng)
        torch.testing.assert_close(old.position, before, rtol=0, atol=0)
        assert info.acceptance.shape == info.moved.shape == (6,)
        assert info.moved.dtype == torch.bool
        assert ((state.position == before).all(1) | info.moved).all()
    assert state.position.dtype == state.potential.dtype == dtype
    torch.testing.assert_close(state.potential, target.potential(state.position), rtol=1e-5, atol=1e-5)


class Cliff(Target):
    """The standard normal on the right half line; not a number on the left."""

    def __init__(self) -> None:
        self.layout = FunctionTarget(1, lambda position: position[:, 0]).layout

    def tilt(self, position: torch.Tensor) -> torch.Tensor:
        return torch.where(position[:, 0] > 0, 0.0 * position[:, 0], torch.nan)

    def to_data(self, position, *, mean=False, generator=None) -> torch.Tensor:
        return position


@pytest.mark.parametrize("kernel", [*EXACT, "tempered"])
def test_exact_kernel_never_steps_where_the_potential_is_not_a_number(kernel) -> None:
    sampler = EXACT[kernel]() if kernel in EXACT else TemperedLangevin()
    rng = generator(5)
    start = torch.randn(500, 1, generator=rng).abs()
    chain = run_chain(Cliff(), sampler, start, generator=rng, steps=20)
    assert (chain.position > 0).all()
    assert chain.acceptance.isfinite().all()
    # E|N(0, 1)| = sqrt(2 / pi), variance 1 - 2 / pi
    error = (1 - 2 / torch.pi) ** 0.5 / 500**0.5
    assert abs(chain.position.mean().item() - (2 / torch.pi) ** 0.5) < 4.5 * error


@pytest.mark.parametrize("sampler", [ISIR(), Ex2(), TemperedLangevin()], ids=["isir", "ex2", "tempered"])
def test_kernel_with_global_moves_refuses_a_flat_base(sampler) -> None:
    from genfw import errors
    from genfw.interfaces import Energy
    from genfw.models.model import Model

    class Bowl(Energy):
        def forward(self, v):
            return v.square().flatten(1).sum(1)

    target = DataTarget(Model(energy=Bowl(), data_shape=(2,)))
    with pytest.raises(errors.ContractError, match="flat"):
        sampler.init(target, torch.zeros(4, 2), generator())
    # Without the base itself on the ladder, tempering a flat base is fine.
    sampler = TemperedLangevin(betas=(1.0, 0.5))
    chain = run_chain(target, sampler, torch.zeros(1500, 2), generator=generator(), steps=60)
    assert chain.position.var(0).tolist() == pytest.approx([0.5, 0.5], rel=0.2)
