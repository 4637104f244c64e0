"""Run a sampler for a fixed number of steps, and record positions and potentials."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces.sampler import Rest, Sampler
from genfw.interfaces.start import Start, StartRequest
from genfw.interfaces.target import Target
from genfw.interfaces.values import StateTree
from genfw.models import recording
from genfw.models.arviz import to_arviz
from genfw.models.compiling import moves
from genfw.models.freezing import frozen_for_chain, is_frozen_for_chain
from genfw.nn.batch_norm import single_process_statistics
from genfw.plugins.component import Settings
from genfw.plugins.signature import summarise
from genfw.plugins.validators import at_least
from genfw.runs.pages.notebook import Plot, html_table


@attrs.frozen(eq=False, repr=False)
class ChainResult:
    r"""The outcome of a batch of chains; nothing here has a graph.

    Arguments:
        position: Last positions, with shape :math:`(B, D)`.
        potential: Potential there in nats, with shape :math:`(B,)`; empty without ``end_potential``.
        acceptance: Mean acceptance probability of each chain, with shape :math:`(B,)`.
        start: First positions, with shape :math:`(B, D)`.
        trace: Recorded positions, from the first one on, with shape :math:`(K, B, D)`; K = 0 without ``keep_every``.
        potentials: Potential at the recorded positions, with shape :math:`(K, B)`.
        kept: Step of each recorded position.
    """

    position: Tensor
    potential: Tensor
    acceptance: Tensor
    start: Tensor
    trace: Tensor
    potentials: Tensor
    kept: tuple[int, ...]

    def numpy(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every tensor as an array, by its name."""
        tensors = {
            name: value for name, value in attrs.asdict(self, recurse=False).items() if isinstance(value, Tensor)
        }
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def to_arviz(self, target: Target, *, skip: int = 0) -> Any:
        """The recorded positions for ArviZ; see :func:`genfw.models.arviz.to_arviz`.

        Arguments:
            target: The chains' target, which names the groups of a position.
            skip: Recorded positions to leave out at the beginning, for burn-in.
        """
        return to_arviz(self, target, skip=skip)

    def plot(self) -> Plot:
        """The potential of each chain at the recorded steps; without recorded steps, that of all chains at the end."""

        def draw(figure: Any) -> None:
            panel = figure.subplots()
            if self.kept:
                panel.plot(self.kept, self.potentials.cpu().numpy(), linewidth=0.8, alpha=0.6)
                panel.set(xlabel="step", ylabel="potential, nats")
            else:
                panel.hist(self.potential.cpu().numpy(), bins="auto")
                panel.set(xlabel="potential, nats", ylabel="chains")

        return Plot(draw)

    def _facts(self) -> dict[str, str]:
        chains, size = self.position.shape
        facts = {"chains": str(chains), "numbers in a position": str(size)}
        if len(self.potential):
            facts["potential"] = f"{float(self.potential.mean()):.4g} nats on average"
        if chains:
            facts["acceptance"] = f"{float(self.acceptance.mean()):.3g}"
        facts["recorded"] = f"{len(self.kept)} positions, steps 0 to {self.kept[-1]}" if self.kept else "nothing"
        return facts

    def __repr__(self) -> str:
        return f"ChainResult({', '.join(f'{name}: {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        return html_table("ChainResult", self._facts().items())


def run_chain(
    target: Target,
    sampler: Sampler,
    position: Tensor,
    *,
    generator: torch.Generator,
    steps: int | None = None,
    keep_every: int = 0,
    end_potential: bool = True,
) -> ChainResult:
    r"""Run chains from ``position``, one per row.

    Arguments:
        target: The potential.
        sampler: The kernel.
        position: First positions, with shape :math:`(B, D)`.
        generator: Source of all randomness, on the position's device.
        steps: Moves; the sampler's own ``steps`` by default.
        keep_every: Record the first position and then one every so many steps; 0 records none.
        end_potential: Compute the potential of the last positions, which for some kernels takes a third of a step.

    Returns:
        The last positions, and the recorded ones.

    Raises:
        ContractError: The positions do not fit the target.
    """
    count = sampler.steps if steps is None else steps
    if position.ndim != 2 or position.shape[1] != target.layout.size:
        raise ContractError(f"chains need positions of shape (B, {target.layout.size}), got {tuple(position.shape)}")
    recordings = None if is_frozen_for_chain() else recording.recorded.value

    def whole(target: Target, sampler: Sampler, position: Tensor, generator: torch.Generator) -> ChainResult:
        return _run(target, sampler, position.detach(), generator, count, keep_every, end_potential)

    if recordings is None:
        return whole(target, sampler, position, generator)
    return recordings.run(whole, target, sampler, position, generator, count, keep_every, end_potential)


def _run(
    target: Target,
    sampler: Sampler,
    start: Tensor,
    generator: torch.Generator,
    count: int,
    keep_every: int,
    end_potential: bool,
) -> ChainResult:
    trace: list[Tensor] = []
    potentials: list[Tensor] = []
    kept: list[int] = []
    with frozen_for_chain(*target.modules()), torch.no_grad():
        sampler.plan(count)
        state = sampler.init(target, start, generator)
        acceptance = start.new_zeros(len(start))
        states = itertools.chain([(state, acceptance.clone())], moves(target, sampler, state, generator, count))
        for step, (state, accepted) in enumerate(states):
            acceptance += accepted
            if keep_every and step % keep_every == 0:
                trace.append(state.position)
                potentials.append(state.potential)
                kept.append(step)
        potential = state.potential.detach() if end_potential else start.new_empty(0)
        sampler.finish(state)
    return ChainResult(
        position=state.position.detach(),
        potential=potential,
        acceptance=acceptance / max(count, 1),
        start=start,
        trace=torch.stack(trace) if trace else start.new_empty(0, *start.shape),
        potentials=torch.stack(potentials) if potentials else start.new_empty(0, start.shape[0]),
        kept=tuple(kept),
    )


def share_out(
    starts: Sequence[Start],
    target: Target,
    count: int,
    generator: torch.Generator,
    *,
    x: Tensor | None = None,
    index: Tensor | None = None,
    step: int = 0,
    first: int = 0,
) -> list[tuple[Start, StartRequest]]:
    r"""Each start with its request for an even share of the chains, in order.

    Arguments:
        starts: The starts.
        target: The chains' target.
        count: Chains in all.
        generator: Source of all randomness.
        x: Data to condition on or start from, with shape :math:`(N, *)`.
        index: Their row numbers, with shape :math:`(N,)`.
        step: Training step, for the starts' schedules.
        first: Count of chains before these.
    """
    requests = []
    ends = [(count * share) // len(starts) for share in range(len(starts) + 1)]
    for start, begin, end in zip(starts, ends, ends[1:], strict=False):
        if begin == end:
            continue
        # Item i of x belongs to chains i, i + N, i + 2N, ..., as in PosteriorTarget.
        rows = None if x is None else torch.arange(first + begin, first + end, device=x.device) % x.shape[0]
        own_x = None if x is None else x[rows]
        own_index = None if index is None or rows is None else index[rows]
        requests.append((start, StartRequest(end - begin, target, generator, own_x, own_index, step)))
    return requests


def draw_starts(target: Target, starts: Sequence[Start], count: int, generator: torch.Generator) -> Tensor:
    r"""First positions of ``count`` chains, shared evenly among ``starts``; fresh draws of the base without starts.

    Arguments:
        target: The chains' target.
        starts: Where chains begin, in order.
        count: Count of chains.
        generator: Source of all randomness.

    Returns:
        Positions, with shape :math:`(B, D)`.
    """
    if not starts:
        return target.draw_base(count, generator)
    return torch.cat([start.draw(request) for start, request in share_out(starts, target, count, generator)])


def chain_protocol(
    sampler: Sampler | None, starts: Sequence[Start], written: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A chain in the protocol of a number: ``sampler``, ``chain_steps``, ``start``.

    Arguments:
        sampler: The kernel, if there is one.
        starts: Where its chains begin.
        written: The chain's block in the resolved recipe, which is more complete than the objects.
    """
    written = written or {}
    said = written.get("start") or starts
    if isinstance(sampler, Rest):
        sampler = None
    facts: dict[str, Any] = {"sampler": "none" if sampler is None else summarise(written.get("sampler") or sampler)}
    if sampler is not None:
        facts["chain_steps"] = sampler.steps
    start = ", ".join(summarise(each) for each in (said if isinstance(said, Sequence) else [said]))
    return {**facts, "start": start or "fresh draws of the base"}


def as_sampler(sampler: Sampler | None) -> Sampler:
    """A recipe's sampler; :class:`~genfw.interfaces.sampler.Rest` where it is ``null``."""
    return Rest() if sampler is None else sampler


def as_starts(start: Start | list[Start]) -> list[Start]:
    """A recipe's start, or its list of starts, as a list."""
    return start if isinstance(start, list) else [start]


@attrs.define(eq=False, slots=False)
class Chain(Settings):
    """A kernel and where its chains begin.

    Arguments:
        sampler: The kernel, with its number of steps; with ``null`` chains end where they begin.
        start: Where chains begin; several starts share the chains evenly, in order.
        count: Count of chains in each process; by default its share of the stage's batch.
    """

    sampler: Sampler = attrs.field(converter=as_sampler)
    starts: list[Start] = attrs.field(converter=as_starts, alias="start")
    count: int | None = attrs.field(default=None, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if not self.starts:
            raise ContractError("a chain needs at least one start")

    def run(
        self,
        target: Target,
        count: int,
        *,
        generator: torch.Generator,
        x: Tensor | None = None,
        index: Tensor | None = None,
        step: int = 0,
        steps: int | None = None,
        keep_every: int = 0,
        first: Tensor | None = None,
        end_potential: bool = True,
    ) -> ChainResult:
        r"""Draw starts, run the chains, and give the starts the last positions to store.

        Arguments:
            target: The potential.
            count: Count of chains, where :attr:`count` is ``None``.
            generator: Source of all randomness.
            x: Data to condition on or start from, with shape :math:`(B, *)`.
            index: Their row numbers, with shape :math:`(B,)`.
            step: Training step, for the starts' schedules.
            steps: Moves; the sampler's own by default.
            keep_every: See :func:`run_chain`.
            first: First positions of the first N chains, with shape :math:`(N, D)`; the starts draw the others.
            end_potential: See :func:`run_chain`.
        """
        count = self.count or count
        begun = [] if first is None else [first[:count]]
        given = sum(map(len, begun))
        requests = share_out(self.starts, target, count - given, generator, x=x, index=index, step=step, first=given)
        # A start may call networks at random in one process only: nothing here may wait for other processes.
        with single_process_statistics(*target.modules()):
            position = torch.cat([*begun, *(start.draw(request) for start, request in requests)])
            result = run_chain(
                target,
                self.sampler,
                position,
                generator=generator,
                steps=steps,
                keep_every=keep_every,
                end_potential=end_potential,
            )
        row = given
        for start, request in requests:
            start.store(request, result.position[row : row + request.count])
            row += request.count
        return result

    def protocol(self, written: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a number's protocol says of the chain, by :func:`chain_protocol`."""
        return chain_protocol(self.sampler, self.starts, written)

    def after_update(self, step: int) -> None:
        """Update every start after a training step."""
        for start in self.starts:
            start.after_update(step)

    def state_dict(self) -> StateTree:
        """State of the kernel and of every start."""
        return {"sampler": self.sampler.state_dict(), "starts": [start.state_dict() for start in self.starts]}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self.sampler.load_state_dict(state["sampler"])
        for start, saved in zip(self.starts, state["starts"], strict=True):
            start.load_state_dict(saved)
