"""Suites of samplers and starts, and a sampler that is wrong on purpose."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from genfw.interfaces import Info, Sampler, Start, StartRequest
from genfw.interfaces.target import Target
from genfw.models.chains import run_chain
from genfw.testing.suite import ComponentSuite, assert_same_tree, generator_of, stored
from genfw.testing.targets import AnalyticTarget, CorrelatedGaussian, SkewedNormal, discrepancy, relative_error


class BiasedSampler(Sampler):
    """The negative control: a kernel with a small step towards the origin after every move.

    It runs, mixes and looks reasonable; only its law is wrong. A test of moments that passes it proves nothing.

    Arguments:
        sampler: The kernel to bias.
        shrink: Relative length of the step.
    """

    def __init__(self, sampler: Sampler, shrink: float = 0.1) -> None:
        self.sampler, self.shrink, self.steps = sampler, shrink, sampler.steps

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> Any:
        return self.sampler.init(target, position, generator)

    def plan(self, steps: int) -> None:
        self.sampler.plan(steps)

    def step(self, target: Target, state: Any, generator: torch.Generator) -> tuple[Any, Info]:
        state, info = self.sampler.step(target, state, generator)
        shrunk = (1.0 - self.shrink) * state.position
        return self.sampler.relocate(target, state, shrunk, generator), info


class SamplerSuite(ComponentSuite):
    """The laws of a sampler. Fill in :meth:`make`.

    Chains start *in* the law of targets with closed forms: an exact kernel keeps them there. For a kernel that is
    biased by design, :attr:`bias` says how large its bias may be.
    """

    #: Moves before the law is tested.
    moves: int = 40
    #: Moves that bring chains to the law from one standard deviation beside it.
    settle: int = 100
    #: Chains; the smallest error that the tests detect falls with their square root.
    chains: int = 2500
    #: Largest relative error of mean and covariance of a kernel that is biased by design; 0 for an exact one.
    bias: float = 0.0

    @abc.abstractmethod
    def make(self) -> Sampler:
        """A new kernel for targets of about unit scale, without adaptation."""

    def make_adaptive(self) -> Sampler | None:
        """A new kernel with adaptation, where it has any."""
        return None

    def targets(self) -> dict[str, AnalyticTarget]:
        """The targets; one is skewed, because symmetric ones hide sign errors."""
        return {"correlated": CorrelatedGaussian(), "skewed": SkewedNormal()}

    def _miss(self, sampler: Sampler, target: AnalyticTarget, position: Tensor, moves: int, seed: int = 1) -> str:
        """Why the chains are not in the law, or an empty text."""
        result = run_chain(
            target, sampler, position, generator=generator_of(seed), steps=moves, keep_every=max(moves // 4, 1)
        )
        trace = result.trace[2:]
        if self.bias:
            error = relative_error(trace, target)
            return f"relative error {error:.3g}, allowed {self.bias}" if error > self.bias else ""
        far = {name: value for name, value in discrepancy(trace, target).items() if value > 5.0}
        return ", ".join(f"{name} is off by {value:.3g} standard errors" for name, value in far.items())

    def test_law_is_kept(self) -> None:
        """Chains that begin in the law are in the law after many moves."""
        for name, target in self.targets().items():
            position = target.sample(self.chains, generator_of(0))
            miss = self._miss(self.make(), target, position, self.moves)
            assert not miss, f"target '{name}', {self.moves} moves: {miss}"

    def test_law_is_reached(self) -> None:
        """Chains that begin beside the law reach it."""
        target = CorrelatedGaussian()
        position = (target.mean + target.covariance.diagonal().sqrt()).expand(self.chains, -1).clone()
        miss = self._miss(self.make(), target, position, 2 * self.settle)
        assert not miss, f"from one standard deviation beside the law, after {self.settle} moves: {miss}"

    def test_a_biased_kernel_would_be_noticed(self) -> None:
        """The negative control fails where this kernel passes."""
        for name, target in self.targets().items():
            position = target.sample(self.chains, generator_of(0))
            miss = self._miss(BiasedSampler(self.make()), target, position, self.moves)
            assert miss, f"target '{name}' does not tell this kernel from a biased one; use more chains or moves"

    def test_state_holds_position_and_potential(self) -> None:
        """Before and after every move the state's potential is the target's at its position, in its precision."""
        for target in self.targets().values():
            sampler, generator = self.make(), generator_of(1)
            position = target.sample(5, generator_of(0))
            sampler.plan(3)
            state = sampler.init(target, position, generator)
            assert torch.equal(state.position, position), "init moved the chains"
            for _ in range(3):
                expected = target.potential(state.position)
                assert state.position.dtype == torch.float64, f"positions turned to {state.position.dtype}"
                assert state.potential.shape == (5,), f"potential has shape {tuple(state.potential.shape)}, not (5,)"
                assert torch.allclose(state.potential, expected, rtol=1e-9, atol=1e-9), "the potential is out of date"
                assert not any(tensor.requires_grad for tensor in _tensors(state)), "the state carries a graph"
                state, _ = sampler.step(target, state, generator)

    def test_what_it_is_given_is_left_alone(self) -> None:
        """Neither the first position nor any state is changed in place."""
        target = CorrelatedGaussian()
        sampler, generator = self.make(), generator_of(1)
        position = target.sample(5, generator_of(0))
        first = position.clone()
        sampler.plan(3)
        state = sampler.init(target, position, generator)
        for _ in range(3):
            copies = [(tensor, tensor.clone()) for tensor in _tensors(state)]
            following, _ = sampler.step(target, state, generator)
            assert all(torch.equal(tensor, copy) for tensor, copy in copies), "step changed the state it was given"
            state = following
        assert torch.equal(position, first), "the first positions were changed in place"

    def test_report_is_true(self) -> None:
        """Acceptance is a probability, and ``moved`` says which chains moved."""
        target = CorrelatedGaussian()
        sampler, generator = self.make(), generator_of(1)
        sampler.plan(10)
        state = sampler.init(target, target.sample(50, generator_of(0)), generator)
        travelled = torch.zeros(50, dtype=torch.bool)
        for _ in range(10):
            following, info = sampler.step(target, state, generator)
            assert info.acceptance.shape == (50,), f"acceptance has shape {tuple(info.acceptance.shape)}, not (50,)"
            inside = (info.acceptance >= 0) & (info.acceptance <= 1)
            assert bool(inside.all()), "acceptance is not a probability"
            moved = (following.position != state.position).any(1)
            assert torch.equal(info.moved, moved), "moved does not say which chains moved"
            travelled |= moved
            state = following
        assert bool(travelled.any()), "no chain moved in 10 moves"

    def test_randomness_comes_from_the_generator(self) -> None:
        """The same seed gives the same chain, another seed another one; the global generator is not used."""
        target = CorrelatedGaussian()
        position = target.sample(5, generator_of(0))

        def run(seed: int) -> Tensor:
            return run_chain(target, self.make(), position, generator=generator_of(seed), steps=10).position

        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            first = run(1)
            assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
            torch.manual_seed(123)
            assert torch.equal(run(1), first), "two chains with the same seed differ"
        assert not torch.equal(run(2), first), "the seed has no effect"

    def test_chains_do_not_influence_one_another(self) -> None:
        """The start of a chain does not change the others."""
        target = CorrelatedGaussian()
        position = target.sample(5, generator_of(0))
        moved = position.clone()
        moved[0] += 1.0
        ends = [
            run_chain(target, self.make(), start, generator=generator_of(1), steps=10).position
            for start in (position, moved)
        ]
        assert torch.allclose(ends[0][1:], ends[1][1:], rtol=1e-9, atol=1e-9), "one chain's start changed another chain"

    def test_what_outlives_a_chain_goes_through_a_checkpoint(self) -> None:
        """A kernel with the saved state runs the same next chain."""
        for make in (self.make, self.make_adaptive):
            sampler, other = make(), make()
            if sampler is None or other is None:
                continue
            target = CorrelatedGaussian()
            position = target.sample(20, generator_of(0))
            for seed in (1, 2):
                run_chain(target, sampler, position, generator=generator_of(seed), steps=10)
            state = sampler.state_dict()
            other.load_state_dict(stored(state))
            assert_same_tree(other.state_dict(), state)
            ends = [run_chain(target, s, position, generator=generator_of(3), steps=10) for s in (sampler, other)]
            assert torch.equal(ends[0].position, ends[1].position), "a restored kernel runs another chain"


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple | list):
        for part in state:
            yield from _tensors(part)
    elif attrs.has(type(state)):
        yield from _tensors([getattr(state, field.name) for field in attrs.fields(type(state))])


class StartSuite(ComponentSuite):
    """The laws of a start. Fill in :meth:`make`; where it needs a model or data, :meth:`target` or :meth:`data` too."""

    @abc.abstractmethod
    def make(self) -> Start:
        """A new start, the same at every call."""

    def target(self) -> Target:
        """The target of the positions."""
        return CorrelatedGaussian(dtype=torch.float32)

    def data(self, count: int) -> Tensor | None:
        """Data to start from, with shape ``(B, *)``, where the start needs any."""
        return None

    def request(self, target: Target, count: int = 6, step: int = 0) -> StartRequest:
        """A chain's request at a training step."""
        index = torch.arange(count) if self.data(count) is not None else None
        return StartRequest(count, target, generator_of(step), self.data(count), index, step)

    def _train(self, start: Start, target: Target, steps: int) -> None:
        for step in range(steps):
            request = self.request(target, step=step)
            position = start.draw(request)
            start.store(request, position + 0.5)
            start.after_update(step)

    def test_positions_fit_the_target(self) -> None:
        """Shape ``(B, D)``, finite, without graph, whatever the batch."""
        target = self.target()
        for count in (1, 6):
            position = self.make().draw(self.request(target, count))
            expected = (count, target.layout.size)
            assert position.shape == expected, f"expected positions {expected}, got {tuple(position.shape)}"
            assert position.is_floating_point(), f"positions have {position.dtype}"
            assert bool(position.isfinite().all()), "positions are not finite"
            assert not position.requires_grad, "positions carry a graph"

    def test_randomness_comes_from_the_generator(self) -> None:
        """The same seed gives the same positions; the global generator is not used."""
        target = self.target()
        with torch.random.fork_rng(devices=[]):
            start = self.make()
            before = torch.get_rng_state()
            first = start.draw(self.request(target))
            assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
            again = self.make()
            torch.manual_seed(123)
            assert torch.equal(again.draw(self.request(target)), first), "two draws with the same seed differ"

    def test_state_goes_through_a_checkpoint(self) -> None:
        """After some training steps a start with the saved state draws the same."""
        target = self.target()
        start, other = self.make(), self.make()
        self._train(start, target, 3)
        state = start.state_dict()
        saved = stored(state)
        other.load_state_dict(saved)
        assert_same_tree(other.state_dict(), state)
        for step in (3, 4):
            draws = [part.draw(self.request(target, step=step)) for part in (start, other)]
            assert torch.equal(*draws), "a restored start draws something else"

    def test_positions_are_the_callers_own(self) -> None:
        """Changing drawn or stored positions does not change the next draw."""
        target = self.target()
        start, other = self.make(), self.make()
        for part, spoil in ((start, True), (other, False)):
            self._train(part, target, 2)
            request = self.request(target, step=2)
            drawn = part.draw(request)
            end = drawn + 0.5
            if spoil:
                drawn.zero_()
            part.store(request, end)
            if spoil:
                end.zero_()
        draws = [part.draw(self.request(target, step=3)) for part in (start, other)]
        assert torch.equal(*draws), "the start shares memory with positions that it drew or stored"
