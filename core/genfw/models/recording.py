r"""Whole chains recorded once and replayed: on CUDA, one launch in place of one for each kernel of each step.

A chain of fixed length is a fixed list of kernels: it reads positions, weights, conditions and random numbers in place,
and decides nothing by their values. So it can be recorded at its second run (the first has libraries set themselves up)
and replayed whenever the same kernel runs the same number of steps on the same target and shapes. Weights may have
moved; what depends on them is computed anew within the recording. Random numbers come from a generator of the
recording, which is set to where the caller's stands, and the caller's is set to where that ends.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import attrs
import torch
from torch import Tensor

from genfw.interfaces.sampler import Sampler
from genfw.interfaces.target import Target
from genfw.interfaces.values import StateTree
from genfw.nn.held import Held

_log = logging.getLogger("genfw")
T = TypeVar("T")
R = TypeVar("R")

#: Chains of which a recording is kept, the last ones used.
MOST = 16


class Recorder(Protocol):
    """Records the operations of one function."""

    #: Source of the function's random numbers.
    generator: torch.Generator

    def record(self, function: Callable[[], T]) -> T:
        """Call the function once and record it; its result holds values after the next :meth:`replay`."""

    def replay(self) -> None:
        """Do what was recorded again, with the values that its inputs have now."""


class CudaGraph(Recorder):
    """A :class:`Recorder` of kernels on a CUDA device.

    Arguments:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(self.generator)

    def record(self, function: Callable[[], T]) -> T:
        # Reader threads pin memory meanwhile, which a capture of all threads would forbid them.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            return function()

    def replay(self) -> None:
        self._graph.replay()


#: A chain: target, kernel, first positions and generator to its result, an attrs class of tensors and other fields.
Run = Callable[[Target, Sampler, Tensor, torch.Generator], R]


@attrs.define(eq=False)
class _Recording:
    """One recorded chain: its inputs and outputs, where the recorder reads and leaves them."""

    recorder: Recorder
    position: Tensor
    conditions: tuple[Tensor, ...]
    state: list[Tensor]
    #: The chain's result and the kernel's state after it.
    result: Any
    after: StateTree
    #: What the recording reads must not be freed while there is the recording.
    owners: tuple[object, ...]


class Recordings:
    """The recorded chains of a process.

    Arguments:
        make: Makes a recorder for a device.
        fits: Whether chains on a device are recorded.
    """

    def __init__(
        self,
        make: Callable[[torch.device], Recorder] = CudaGraph,
        fits: Callable[[torch.device], bool] = lambda device: device.type == "cuda",
    ) -> None:
        self._make, self._fits = make, fits
        #: By key: ``None`` for a chain that ran once, ``False`` for one that can't be recorded.
        self._known: OrderedDict[Hashable, _Recording | bool | None] = OrderedDict()
        #: Chains replayed so far.
        self.replays = 0

    def run(
        self, chain: Run[R], target: Target, sampler: Sampler, position: Tensor, generator: torch.Generator, *facts: int
    ) -> R:
        """Run a chain, replayed where it was recorded before.

        Arguments:
            chain: Runs it.
            target: See :func:`~genfw.models.chains.run_chain`.
            sampler: See there.
            position: See there.
            generator: See there.
            facts: What else the list of its operations depends on: the number of steps, and which are kept.
        """
        conditions = target.conditions()
        if conditions is None or not sampler.recordable or not self._fits(position.device):
            return chain(target, sampler, position, generator)
        key = chain_key(target, conditions, sampler, position, facts)
        found = self._known.get(key)
        if key not in self._known or found is False:
            self._remember(key, found)
            return chain(target, sampler, position, generator)
        if not isinstance(found, _Recording):
            try:
                found = self._record(chain, target, conditions, sampler, position)
            except RuntimeError as error:  # something in the chain waits for the device, or computes on another
                _log.warning("genfw: a chain could not be recorded and is run step by step: %s", error)
                self._remember(key, False)
                return chain(target, sampler, position, generator)
        self._remember(key, found)
        result: R = self._replay(found, conditions, sampler, position, generator)
        return result

    def _remember(self, key: Hashable, value: _Recording | bool | None) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        while len(self._known) > MOST:
            self._known.popitem(last=False)

    def _record(
        self, chain: Run[R], target: Target, conditions: tuple[Tensor, ...], sampler: Sampler, position: Tensor
    ) -> _Recording:
        recorder, before = self._make(position.device), sampler.state_dict()
        first, given = position.clone(), tuple(condition.clone() for condition in conditions)
        state = map_tensors(torch.clone, before)
        own = target.given(*given)

        def whole() -> tuple[R, StateTree]:
            sampler.load_state_dict(state)
            return chain(own, sampler, first, recorder.generator), sampler.state_dict()

        try:
            result, after = recorder.record(whole)
        finally:
            sampler.load_state_dict(before)
        owners = (own, sampler, *own.modules())
        return _Recording(recorder, first, given, tensors_of(state), result, after, owners)

    def _replay(
        self,
        recording: _Recording,
        conditions: tuple[Tensor, ...],
        sampler: Sampler,
        position: Tensor,
        generator: torch.Generator,
    ) -> Any:
        given = [position, *conditions, *tensors_of(sampler.state_dict())]
        with torch.no_grad():
            torch._foreach_copy_([recording.position, *recording.conditions, *recording.state], given)
        # A CUDA generator's state is on the host: nothing waits here.
        recording.recorder.generator.set_state(generator.get_state())
        recording.recorder.replay()
        generator.set_state(recording.recorder.generator.get_state())
        sampler.load_state_dict(map_tensors(torch.clone, recording.after))
        self.replays += 1
        fields = {
            field.name: value.clone()
            for field in attrs.fields(type(recording.result))
            if isinstance(value := getattr(recording.result, field.name), Tensor)
        }
        return attrs.evolve(recording.result, **{**fields, "start": position.detach()})


#: Inside ``with recorded(recordings)`` chains are run by ``recordings``; step by step where that is ``None``.
recorded: Held[Recordings] = Held()


def weights_of(target: Target) -> list[Tensor]:
    """Parameters and buffers of a target's networks."""
    return [tensor for module in target.modules() for tensor in (*module.parameters(), *module.buffers())]


def chain_key(
    target: Target, conditions: tuple[Tensor, ...], sampler: Sampler, position: Tensor, facts: tuple[int, ...]
) -> Hashable:
    """What two chains must share to be the same list of operations on the same memory.

    Arguments:
        target: The potential.
        conditions: What it reads beside positions and weights.
        sampler: The kernel.
        position: First positions, with shape :math:`(B, D)`.
        facts: What else the operations depend on, such as the number of steps.
    """
    return (
        type(target),
        id(sampler),
        facts,
        torch.is_autocast_enabled(position.device.type),
        tuple(map(id, target.modules())) or id(target),
        tuple(weight.data_ptr() for weight in weights_of(target)),
        tuple(_form(tensor) for tensor in (position, *conditions)),
        structure(sampler.state_dict()),
    )


def _form(tensor: Tensor) -> Hashable:
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, str(tensor.device)


def structure(tree: Any) -> Hashable:
    """The form of each tensor of a tree, and everything else as it is."""
    if isinstance(tree, dict):
        return tuple((name, structure(part)) for name, part in tree.items())
    if isinstance(tree, list | tuple):
        return tuple(map(structure, tree))
    return _form(tree) if isinstance(tree, Tensor) else tree


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The tree with every tensor replaced, in the order of :func:`tensors_of`."""
    if isinstance(tree, dict):
        return {name: map_tensors(function, part) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [map_tensors(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else parts
    return function(tree) if isinstance(tree, Tensor) else tree


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors of a tree of dicts, lists and tuples, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [tensor for part in tree for tensor in tensors_of(part)]
    return [tree] if isinstance(tree, Tensor) else []
