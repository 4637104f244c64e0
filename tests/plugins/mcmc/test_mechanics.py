"""What a step costs, how step sizes find themselves, and that a chain goes on bit for bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.models.chains import run_chain
from genfw.models.targets import FunctionTarget
from genfw.testing.targets import CorrelatedGaussian, SkewedNormal, discrepancy
from genfw_plugins.mcmc.annealed import AnnealedLangevin
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.hmc import HMC, leapfrog
from genfw_plugins.mcmc.isir import ISIR
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.tempered import TemperedLangevin


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(FunctionTarget):
    """Counts rows of the tilt, with and without gradient."""

    def __init__(self) -> None:
        super().__init__(3, self._count)
        self.values = self.gradients = 0

    def _count(self, position: Tensor) -> Tensor:
        if position.requires_grad:
            self.gradients += position.shape[0]
        else:
            self.values += position.shape[0]
        return 0.5 * (position - 1.0).square().sum(1)


@pytest.mark.parametrize(
    ("sampler", "gradients", "values"),
    [
        (Langevin(step_size=0.1), 1, 0),
        (MALA(), 1, 0),
        (HMC(leapfrog_steps=4), 4, 0),
        (ISIR(candidates=5), 0, 5),
        (Ex2(candidates=5, local_steps=3), 1 + 3, 5),
        (Ex2(candidates=5, local=Langevin(step_size=0.1), local_steps=2), 2, 5 + 1),
        (AnnealedLangevin(step_size=0.01), 1, 0),
        (TemperedLangevin(betas=(1.0, 0.5, 0.0)), 3, 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_a_step_costs_what_its_docstring_says(sampler, gradients, values) -> None:
    target, rng, chains = Counting(), generator(), 7
    state = sampler.init(target, torch.zeros(chains, 3), rng)
    assert len(state.potential) == len(state.potential) == chains
    assert target.gradients + target.values == chains  # evaluated once
    state = sampler.init(target, torch.zeros(chains, 3), rng)
    target.gradients = target.values = 0
    for _ in range(10):
        state, _ = sampler.step(target, state, rng)
    assert (target.gradients, target.values) == (10 * gradients * chains, 10 * values * chains)


@pytest.mark.parametrize(
    ("sampler", "aim"),
    [
        (MALA(steps=300), 0.574),
        (MALA(step_size=50.0, steps=300, target=0.8), 0.8),
        (MALA(step_size=1e-4, steps=300, jitter=0.5), 0.574),
        (HMC(leapfrog_steps=3, steps=300), 0.8),
        (HMC(leapfrog_steps=3, steps=300, target=0.651), 0.651),
        (TemperedLangevin(betas=(1.0, 0.1, 0.0), steps=300), 0.574),
    ],
)
def test_adapted_acceptance_is_the_one_aimed_at(sampler, aim) -> None:
    target, rng = CorrelatedGaussian(5), generator()
    run_chain(target, sampler, target.sample(100, rng), generator=rng)
    chain = run_chain(target, sampler, target.sample(400, rng), generator=rng, steps=50)
    assert chain.acceptance.mean().item() == pytest.approx(aim, abs=0.04)


def test_adaptation_stops_when_told() -> None:
    target, rng = CorrelatedGaussian(), generator()
    frozen, brief = MALA(step_size=0.3, adapt=False), MALA(step_size=0.3, adapt_steps=10)
    run_chain(target, frozen, target.sample(50, rng), generator=rng)
    assert frozen.state_dict()["log_step"].item() == pytest.approx(math.log(0.3))
    run_chain(target, brief, target.sample(50, rng), generator=rng, steps=10)
    learned = brief.state_dict()["log_step"].item()
    assert abs(learned - math.log(0.3)) > 0.05
    run_chain(target, brief, target.sample(50, rng), generator=rng, steps=10)
    assert brief.state_dict()["log_step"].item() == learned


KERNELS = {
    "mala": lambda: MALA(steps=12),
    "mala-jittered": lambda: MALA(steps=12, jitter=0.5),
    "hmc": lambda: HMC(steps=6),
    "isir": lambda: ISIR(steps=6),
    "ex2": lambda: Ex2(local_steps=2, steps=6),
    "tempered": lambda: TemperedLangevin(steps=8),
    "annealed": lambda: AnnealedLangevin(step_size=0.01, steps=8),
    "langevin": lambda: Langevin(step_size=0.05, steps=8),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_resume_bit_for_bit(kernel) -> None:
    target, rng = SkewedNormal(dtype=torch.float32), generator()
    sampler = KERNELS[kernel]()
    chain = run_chain(target, sampler, target.sample(20, rng), generator=rng)
    saved, position, place = copy.deepcopy(sampler.state_dict()), chain.position.clone(), rng.get_state()

    onwards = run_chain(target, sampler, chain.position, generator=rng)

    again, rng = KERNELS[kernel](), generator()
    again.load_state_dict(saved)
    rng.set_state(place)
    resumed = run_chain(target, again, position, generator=rng)
    assert torch.equal(onwards.position, resumed.position)
    assert torch.equal(onwards.potential, resumed.potential)
    if saved.get("log_step") is not None:
        # Without the state it would have been another chain: the test has something to find.
        rng.set_state(place)
        fresh = run_chain(target, KERNELS[kernel](), position, generator=rng)
        assert not torch.equal(onwards.position, fresh.position)


@pytest.mark.parametrize("kernel", KERNELS)
def test_same_generator_same_chain(kernel) -> None:
    target = SkewedNormal(dtype=torch.float32)
    start = target.sample(5, generator())
    first, second = (run_chain(target, KERNELS[kernel](), start, generator=generator(1)) for _ in range(2))
    other = run_chain(target, KERNELS[kernel](), start, generator=generator(2))
    assert torch.equal(first.position, second.position)
    assert not torch.equal(first.position, other.position)


def test_mala_is_hmc_with_one_leapfrog_step() -> None:
    # The same noise gives the same proposal and the same acceptance, h = tau^2 / 2.
    target, tau = SkewedNormal(), 0.7
    position = target.sample(50, generator())
    start = (position, *target.potential_and_grad(position))
    momentum = torch.randn(50, 2, generator=generator(1), dtype=torch.float64)
    end, last = leapfrog(target, start, momentum, torch.tensor(tau), 1)
    energy = end[1] - start[1] + 0.5 * (last.square() - momentum.square()).sum(1)

    mala = MALA(step_size=tau**2 / 2, adapt=False)
    state = mala.init(target, position, generator(1))
    moved, info = mala.step(target, state, generator(1))
    torch.testing.assert_close(info.acceptance, energy.neg().clamp(max=0).exp())
    torch.testing.assert_close(moved.position[info.moved], end[0][info.moved])


def test_leapfrog_runs_backwards_and_its_error_is_of_second_order() -> None:
    target = SkewedNormal()
    position = target.sample(50, generator())
    start = (position, *target.potential_and_grad(position))
    momentum = torch.randn(50, 2, generator=generator(1), dtype=torch.float64)
    end, last = leapfrog(target, start, momentum, torch.tensor(0.1), 7)
    back, first = leapfrog(target, end, -last, torch.tensor(0.1), 7)
    torch.testing.assert_close(back[0], position)
    torch.testing.assert_close(-first, momentum)

    def error(steps: int) -> float:
        end, last = leapfrog(target, start, momentum, torch.tensor(0.4 / steps, dtype=torch.float64), steps)
        return (end[1] - start[1] + 0.5 * (last.square() - momentum.square()).sum(1)).abs().mean().item()

    assert error(8) / error(16) == pytest.approx(4.0, rel=0.2)


class TestISIR:
    @pytest.mark.parametrize("candidates", [1, 6])
    @pytest.mark.parametrize("target", [SkewedNormal(), CorrelatedGaussian()], ids=["skewed", "correlated"])
    def test_keeps_the_law_and_moves_as_often_as_it_says(self, target, candidates) -> None:
        rng, chains = generator(), 40_000
        start = target.sample(chains, rng)
        sampler = ISIR(candidates=candidates)
        state, info = sampler.step(target, sampler.init(target, start, rng), rng)
        later = state
        for _ in range(9):  # a wrong weight of 10 % shows after some steps
            later, _ = sampler.step(target, later, rng)
        for position in (state.position, later.position):
            assert max(discrepancy(position, target).values()) < 5.0
        said, done = info.acceptance, info.moved.double()
        assert (done - said).mean().abs() < 4.5 * (said * (1 - said)).mean().sqrt() / chains**0.5
        assert torch.equal(info.moved, (state.position != start).any(1))
        assert 0.05 < done.mean() < 0.95

    def test_chunks_change_memory_alone(self) -> None:
        target = SkewedNormal()
        start = target.sample(30, generator())
        whole = run_chain(target, ISIR(candidates=7, steps=5), start, generator=generator(1))
        parts = run_chain(target, ISIR(candidates=7, steps=5, chunk=3), start, generator=generator(1))
        torch.testing.assert_close(whole.position, parts.position)

    def test_chain_where_the_tilt_is_infinite_leaves_and_one_without_a_way_stays(self) -> None:
        rng = generator()
        inside = FunctionTarget(1, lambda v: torch.where(v[:, 0].abs() < 5, 0.0, torch.inf))
        sampler = ISIR(candidates=3)
        state, info = sampler.step(inside, sampler.init(inside, torch.full((50, 1), 9.0), rng), rng)
        assert info.moved.all()
        assert (state.position.abs() < 5).all()
        nowhere = FunctionTarget(1, lambda v: torch.full((v.shape[0],), torch.nan))
        state, info = sampler.step(nowhere, sampler.init(nowhere, torch.full((50, 1), 9.0), rng), rng)
        assert not info.moved.any()
        assert (state.position == 9.0).all()
        assert (info.acceptance == 0).all()


class TestAnnealed:
    def test_schedule_rises_to_the_target_and_holds(self) -> None:
        sampler = AnnealedLangevin(step_size=1e-3, first_step_size=0.1, steps=40, hold=0.25)
        sampler.plan(80)
        betas, steps = zip(*(sampler.schedule(move) for move in range(80)), strict=True)
        assert betas[0] == 0.0
        assert steps[0] == pytest.approx(0.1)
        assert set(betas[60:]) == {1.0}
        assert steps[60:] == pytest.approx([1e-3] * 20)
        assert list(betas) == sorted(betas)
        assert list(steps) == sorted(steps, reverse=True)

    def test_first_move_walks_on_the_base_alone(self) -> None:
        target = FunctionTarget(2, lambda v: 100.0 * v.sum(1))
        sampler = AnnealedLangevin(step_size=0.1, first_step_size=0.1, steps=10)
        state = sampler.init(target, torch.ones(1, 2), generator())
        moved, _ = sampler.step(target, state, generator(1))
        xi = torch.randn(1, 2, generator=generator(1))
        torch.testing.assert_close(moved.position, 0.9 * torch.ones(1, 2) + 0.2**0.5 * xi)
        torch.testing.assert_close(moved.potential, target.potential(moved.position))


def test_tempered_replicas_carry_their_own_values_through_swaps() -> None:
    target, rng, sampler = SkewedNormal(), generator(), TemperedLangevin()
    state = sampler.init(target, target.sample(30, rng), rng)
    places = []
    for _ in range(12):
        state, _ = sampler.step(target, state, rng)
        replicas = state.replicas
        torch.testing.assert_close(replicas.tilt, target.tilt(replicas.position))
        torch.testing.assert_close(replicas.tilt_gradient, target.tilt_and_grad(replicas.position)[1])
        places.append(replicas.position)
    # The hottest level is the base: independent from step to step, whatever the cold ones do.
    hot = torch.stack(places)[:, -30:].flatten(0, 1)
    assert (hot.mean(0).abs() < 4.5 / hot.shape[0] ** 0.5).all()


@pytest.mark.parametrize(
    "sampler", [MALA(), HMC(), Ex2(), TemperedLangevin(), Langevin(step_size=0.1)], ids=lambda s: type(s).__name__
)
def test_relocated_state_belongs_to_its_new_place_and_keeps_what_was_learned(sampler) -> None:
    target, rng = SkewedNormal(), generator()
    state = sampler.init(target, target.sample(10, rng), rng)
    for _ in range(5):
        state, _ = sampler.step(target, state, rng)
    place = target.sample(10, rng)
    moved = sampler.relocate(target, state, place, rng)
    assert torch.equal(moved.position, place)
    torch.testing.assert_close(moved.potential, target.potential(place))
    if hasattr(state, "step_size"):
        assert torch.equal(moved.step_size.log_step, state.step_size.log_step)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Langevin(step_size=0.0), "step_size must be above 0, got 0.0"),
        (lambda: Langevin(step_size=0.1, noise=-1.0), r"noise must be at least 0, got -1\.0"),
        (lambda: Langevin(step_size=0.1, clip=0.0), r"clip must be above 0, got 0\.0"),
        (lambda: Langevin(step_size=0.1, bounds=(1.0, -1.0)), r"a lower and an upper end, got \[1.0, -1.0\]"),
        (lambda: MALA(step_size=-1.0), "step_size must be above 0"),
        (lambda: MALA(target=1.0), r"target must lie in \(0, 1\), got 1\.0"),
        (lambda: HMC(jitter=1.0), r"jitter must lie in \[0, 1\), got 1\.0"),
        (lambda: HMC(leapfrog_steps=0), "leapfrog_steps must be above 0"),
        (lambda: ISIR(candidates=0), "candidates must be above 0"),
        (lambda: ISIR(chunk=-1), "chunk must be at least 0, got -1"),
        (lambda: Ex2(local_steps=0), "local_steps must be above 0"),
        (lambda: AnnealedLangevin(step_size=0.5, first_step_size=0.1), "step sizes fall"),
        (lambda: TemperedLangevin(betas=(1.0, 0.5, 0.6)), "betas fall from 1"),
        (lambda: TemperedLangevin(betas=(0.5, 0.1)), "betas fall from 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message) -> None:
    with pytest.raises(ContractError, match=message):
        build()


def test_langevin_cuts_gradients_and_positions_as_igebm_does() -> None:
    target = FunctionTarget(2, lambda position: position @ torch.tensor([100.0, -0.25]))
    start = torch.zeros(4, 2)
    free = run_chain(target, Langevin(step_size=0.1, steps=1, noise=0.0), start, generator=generator())
    torch.testing.assert_close(free.position[0], torch.tensor([-10.0, 0.025]))
    clipped = run_chain(target, Langevin(step_size=0.1, steps=1, noise=0.0, clip=0.5), start, generator=generator())
    torch.testing.assert_close(clipped.position[0], torch.tensor([-0.05, 0.025]))
    bound = run_chain(target, Langevin(step_size=0.1, steps=3, bounds=(-0.2, 0.3)), start, generator=generator())
    assert bool((bound.position[:, 0] == -0.2).all())
    assert bool((bound.position[:, 1] <= 0.3).all())
