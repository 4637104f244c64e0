r"""Steps of chains compiled by torch's compiler: on a CPU, where a step of a small network is mostly Python.

A step is traced once, operation by operation, and some steps in a row are compiled to one function. Its inputs are the
chain's state, the random numbers that the steps draw, and the weights and conditions that the potential reads. Random
numbers are drawn ahead of each call, by the calls and in the order of the plain chain. So the compiled chain meets the
same numbers, and differs from the plain one by the rounding of fused operations alone.

What can't be compiled runs step by step, after one note: a target that does not say what it reads
(:meth:`~genfw.interfaces.target.Target.conditions`), a kernel that decides by values or counts its moves, an energy
that computes its weights ahead of a chain, and a machine without a C++ compiler.
"""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from genfw.errors import ContractError, one_line
from genfw.interfaces.sampler import Sampler
from genfw.interfaces.target import Target
from genfw.models.recording import MOST, chain_key, map_tensors, structure, tensors_of, weights_of
from genfw.nn.held import Held

_log = logging.getLogger("genfw")

#: Most steps in one compiled function. Beyond four a step gets no faster, and compiling takes longer.
_IN_A_ROW = 4
#: Most operations in one compiled function, where it holds several steps; their compilation takes about 20 seconds.
_OPERATIONS = 400
#: What reads a value, by which the traced list of operations would then be decided.
_READS = {
    getattr(Tensor, name) for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")
}

#: A call that draws random numbers: function, arguments and keywords.
_Draw = tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]


class _Draws(TorchFunctionMode):
    """Notes what is drawn from a generator, and gives what was drawn ahead instead; refuses to read values."""

    def __init__(self, generator: torch.Generator, ahead: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.generator, self.ahead = generator, ahead
        self.calls: list[_Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _READS:
            raise ContractError("it decides by the value of a tensor")
        if kwargs.get("generator") is not self.generator:
            return func(*args, **kwargs)
        if tensors_of([args, kwargs]):
            raise ContractError(f"it draws by {func.__name__} from tensors")
        self.calls.append((func, args, kwargs))
        return func(*args, **kwargs) if self.ahead is None else self.ahead[len(self.calls) - 1]


@attrs.frozen(eq=False)
class _Block:
    """Compiled steps in a row."""

    steps: int
    #: Maps state, draws and fixed tensors to the state after each step and its acceptance, all flat.
    function: Callable[..., Sequence[Tensor]]
    draws: list[_Draw]
    #: Weights, and the indices of conditions, in the order in which the function takes them.
    read: list[Tensor | int]
    #: What the function reads must not be freed while there is the function.
    owners: tuple[object, ...]

    def run(self, state: Any, read: Sequence[Tensor], generator: torch.Generator) -> Iterator[tuple[Any, Tensor]]:
        """The state after each step, and its acceptance."""
        drawn = [draw(*args, **{**kwargs, "generator": generator}) for draw, args, kwargs in self.draws]
        given = [tensor.contiguous() for tensor in tensors_of(state)]
        out = iter(self.function(*given, *drawn, *read))
        for _ in range(self.steps):
            yield map_tensors(lambda _: next(out), state), next(out)


class CompiledChains:
    """The compiled steps of a process.

    Arguments:
        fits: Whether chains on a device are compiled.
    """

    def __init__(self, fits: Callable[[torch.device], bool] = lambda device: device.type == "cpu") -> None:
        self._fits = fits
        #: By key; a count of failures for a chain that can't be compiled.
        self._known: OrderedDict[Hashable, _Block | int] = OrderedDict()
        self._told: set[str] = set()
        #: Steps that ran compiled so far.
        self.steps = 0

    def moves(
        self, target: Target, sampler: Sampler, state: Any, generator: torch.Generator, count: int
    ) -> Iterator[tuple[Any, Tensor]]:
        """The state after each of ``count`` steps, and its acceptance; compiled where that can be.

        Arguments:
            target: The potential; its networks are frozen for the chain.
            sampler: The kernel.
            state: Its first state.
            generator: Source of all randomness.
            count: Steps.
        """
        block = self._block(target, sampler, state, count) if count and self._fits(state.position.device) else None
        if block is None:
            yield from plain_moves(target, sampler, state, generator, count)
            return
        read = _given(block.read, target.conditions() or ())
        for _ in range(count // block.steps):
            for after, acceptance in block.run(state, read, generator):
                state = after
                yield state, acceptance
        self.steps += count

    def _block(self, target: Target, sampler: Sampler, state: Any, count: int) -> _Block | None:
        conditions = target.conditions()
        if conditions is None or not sampler.recordable:
            self._tell(f"{type(target).__name__} and {type(sampler).__name__} do not say that they read nothing else")
            return None
        key = (chain_key(target, conditions, sampler, state.position, (count,)), structure(tensors_of(state)))
        found = self._known.pop(key, 0)
        # In its first step a run looks at values, which forbids compiling: a second failure is one for good.
        if isinstance(found, int) and found < 2:
            failures = found
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the compiler's own code; where they are errors, it would fail
                    found = _compiled(target, conditions, sampler, state, count)
            except Exception as error:  # the compiler and what it calls raise many kinds
                if failures:
                    self._tell(one_line(error))
                found = failures + 1
        self._known[key] = found
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        return found if isinstance(found, _Block) else None

    def _tell(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            _log.warning("genfw: a chain is not compiled and runs step by step: %s", why)


def plain_moves(
    target: Target, sampler: Sampler, state: Any, generator: torch.Generator, count: int
) -> Iterator[tuple[Any, Tensor]]:
    """See :meth:`CompiledChains.moves`; step by step."""
    for _ in range(count):
        state, info = sampler.step(target, state, generator)
        yield state, info.acceptance


def _compiled(target: Target, conditions: tuple[Tensor, ...], sampler: Sampler, first: Any, count: int) -> _Block:
    """Trace steps from a state and compile them.

    Raises:
        ContractError: They are no fixed list of operations on what a target says that it reads.
    """
    # The compiler takes seconds to import.
    from torch._inductor import compile as compile_graph
    from torch.fx.experimental.proxy_tensor import make_fx

    probe = torch.Generator(first.position.device).manual_seed(0)
    with _Draws(probe) as draws:
        sampler.step(target, first, probe)
    given = [tensor.contiguous() for tensor in tensors_of(first)]

    def traced(steps: int) -> tuple[fx.GraphModule, list[Tensor]]:
        def function(*inputs: Tensor) -> list[Tensor]:
            parts, out = iter(inputs[: len(given)]), []
            begun = map_tensors(lambda _: next(parts), first)
            with _Draws(probe, inputs[len(given) :]):
                for state, acceptance in plain_moves(target, sampler, begun, probe, steps):
                    if structure(state) != structure(first):
                        raise ContractError(f"the state of {type(sampler).__name__} counts moves, or changes its form")
                    out += [*tensors_of(state), acceptance]
            return out

        inputs = [*given, *(draw(*args, **kwargs) for draw, args, kwargs in draws.calls * steps)]
        return make_fx(function)(*inputs), inputs

    graph, inputs = traced(1)
    operations = len(graph.graph.nodes)
    fits = [steps for steps in range(2, _IN_A_ROW + 1) if count % steps == 0 and steps * operations <= _OPERATIONS]
    steps = max(fits, default=1)
    if fits:
        graph, inputs = traced(steps)
    read = _reads(graph, target, conditions)
    # In this process: its helpers would each load torch anew, and stay.
    function = compile_graph(graph, [*inputs, *_given(read, conditions)], {"compile_threads": 1})
    return _Block(steps, function, draws.calls * steps, read, (target, sampler, *target.modules()))


def _reads(graph: fx.GraphModule, target: Target, conditions: Sequence[Tensor]) -> list[Tensor | int]:
    """Make what a graph reads beside its inputs further inputs; weights as tensors, conditions by their index.

    Raises:
        ContractError: It reads what is neither: its values may be others in the next chain.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in weights_of(target)}
    places = {id(condition): index for index, condition in enumerate(conditions)}
    nodes = list(graph.graph.nodes)
    last = [node for node in nodes if node.op == "placeholder"][-1]
    inputs: dict[str, fx.Node] = {}
    read: list[Tensor | int] = []
    for node in [node for node in nodes if node.op == "get_attr"]:
        if node.target not in inputs:
            tensor = getattr(graph, node.target)
            made = all(user.target == torch.ops.aten.lift_fresh_copy.default for user in node.users)
            if id(tensor) not in places and tensor.untyped_storage().data_ptr() not in weights and not made:
                shape = tuple(tensor.shape)
                raise ContractError(
                    f"{type(target).__name__} reads a tensor of shape {shape} that is neither a weight nor a condition"
                )
            with graph.graph.inserting_after(last):
                last = inputs[node.target] = graph.graph.placeholder(node.target)
            read.append(places.get(id(tensor), tensor))
        node.replace_all_uses_with(inputs[node.target])
        graph.graph.erase_node(node)
    graph.recompile()
    return read


def _given(read: Sequence[Tensor | int], conditions: Sequence[Tensor]) -> list[Tensor]:
    return [conditions[each] if isinstance(each, int) else each for each in read]


#: Inside ``with compiled(chains)`` steps of chains are compiled by ``chains``; plain where that is ``None``.
compiled: Held[CompiledChains] = Held()


def moves(
    target: Target, sampler: Sampler, state: Any, generator: torch.Generator, count: int
) -> Iterator[tuple[Any, Tensor]]:
    """See :meth:`CompiledChains.moves`; plain outside of a block of ``compiled``."""
    return (plain_moves if compiled.value is None else compiled.value.moves)(target, sampler, state, generator, count)
