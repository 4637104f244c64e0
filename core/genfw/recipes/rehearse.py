"""Try a recipe before it costs anything: build its parts without numbers, and see whether they fit together.

Networks are built on torch's device ``meta``, which has shapes and no memory, and a small batch goes through each:
there, or on the CPU where they are small, which is quicker. Data sets look at the headers of their files, and metrics
and stages at the parts that they are to use. Every fault has its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genfw.errors import AbsentDataError, BrokenPartError, DataError, Fault, GenfwError, text_of
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces.dataset import Dataset
from genfw.models.freezing import frozen
from genfw.models.model import Model
from genfw.models.targets import make_target
from genfw.recipes.bound_values import Block, BoundValue
from genfw.recipes.check import Resolved, raise_faults
from genfw.recipes.compose import Builder, Composition, RefusedError
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.guard import stand_in_for

_META = torch.device("meta")
#: Kinds that are networks.
_NETWORKS = ("prior", "decoder", "encoder", "energy", "amortizer")
_CPU = torch.device("cpu")
#: Most numbers (128 MiB of them) of networks that are tried on the CPU. There torch need not load its compiler, which
#: takes seconds. It is also the most that a network may have made before it turned out to need one of its numbers.
_SMALL = 2**25
#: What fills a tensor: the functions of torch.nn.init, and the methods that they call.
_FILLS = frozenset(
    {name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")} | {"copy_", "fill_", "mul_"}
)
#: Functions whose result is like their first argument, where that holds floating-point numbers.
_LIKE = frozenset(
    {"abs", "neg", "square", "sqrt", "rsqrt", "exp", "log", "tanh", "sigmoid", "relu", "silu", "elu", "leaky_relu"}
)
#: Functions of two such arguments, or of one and a number.
_OF_TWO = frozenset({"add", "sub", "mul", "div", "truediv", "true_divide", "__rsub__", "__rtruediv__", "__rdiv__"})
#: Rows of the batch that goes through the networks.
_ROWS = 2


@attrs.frozen
class Rehearsal:
    """What was found besides faults.

    Arguments:
        notes: What could not be tried, and why.
        absent: Why the recipe's data can't be read on this machine, where they are not here.
    """

    notes: tuple[str, ...] = ()
    absent: AbsentDataError | None = None


def rehearse(resolved: Resolved, faults: FaultList | None = None, *, given: Dataset | None = None) -> Rehearsal:
    """Try a recipe.

    Arguments:
        resolved: The recipe, bound.
        faults: Faults of the parts that could not be bound; those that are found here are reported beside them.
        given: The data set, where it was given in Python.

    Raises:
        RecipeError: With every fault.
        PluginError: Some of its components are broken.
    """
    known = [] if faults is None else faults.faults
    trial = _Trial(resolved, _META, given, known)
    composition = trial.build()
    if composition is not None and not trial.incomplete and _numbers(composition.model) <= _SMALL:
        trial = _Trial(resolved, _CPU, given, known)
        composition = trial.build()
    with torch.random.fork_rng(devices=[]):
        trial.examine(composition)
    raise_faults(trial.faults)
    return Rehearsal(tuple(dict.fromkeys(trial.notes)), trial.absent)


class _Trial(Builder):
    def __init__(self, resolved: Resolved, device: torch.device, given: Dataset | None, known: Sequence[Fault]) -> None:
        super().__init__(resolved, device, given)
        self.faults = FaultList(known)
        self.notes: list[str] = []
        self.absent: AbsentDataError | None = None
        #: Whether a part is a stand-in, after a fault of it: the others are looked at all the same.
        self.incomplete = False
        for part, kind in resolved.unbound.items():
            if kind in _NETWORKS:
                self._replace(part, kind, None)

    # -- building -----------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        # A stand-in can't say what shape its data have.
        return not self.incomplete or "data_shape" in self.supplies

    def role(self, part: str, bound: BoundValue) -> None:
        super().role(part, bound)
        block, section = cast(Block, bound), part.partition(".")[0]
        if part in self.roles or section == "data" or block.component is None:
            return
        self._replace(part, block.component.kind, getattr(block.arguments.get("on"), "value", None))

    def _replace(self, part: str, kind: str, on: str | None) -> None:
        self.incomplete = True
        self.roles[part] = stand_in_for(kind, on)
        self.see_role(part, self.resolved.recipe.root.mark)

    def stand_in(self, data: Dataset, mark: Mark) -> Dataset:
        return data  # `examine` says whether it would have one

    def call(self, block: Block, arguments: Mapping[str, Any]) -> Any:
        if self.device == _CPU or block.component is None or block.component.kind not in _NETWORKS:
            return super().call(block, arguments)
        before, counted = len(self.faults.faults), _ShapesAlone()
        try:
            with _META, counted:
                return cast(nn.Module, super().call(block, arguments)).to(_META)
        except RefusedError:
            found = self.faults.faults[before:]
            if self._leans(block, arguments):
                del self.faults.faults[before:]  # the fault is that of a part before it
            if not any(_needs_numbers(fault.message) for fault in found):
                raise
        del self.faults.faults[before:]
        name = f"{block.component.kind} '{block.component.name}'"
        if counted.numbers > _SMALL:
            self.notes.append(f"{name} can't be built without its numbers, and is too large to try")
            raise RefusedError
        return cast(nn.Module, super().call(block, arguments)).to(_META)

    def _leans(self, block: Block, arguments: Mapping[str, Any]) -> bool:
        """Whether a part is built from a stand-in, or from a layout that one states."""
        given = list(arguments.values())
        if {"latent_layout", "noise_layout"} & block.injected.keys():
            given += [self.roles.get("prior"), self.roles.get("decoder")]
        return any(getattr(part, "stands_in", False) for part in given)

    def refuse(self, code: str, message: str, error: BaseException, block: Block, hint: str) -> None:
        if isinstance(error, AbsentDataError):
            self.notes.append(f"{message}; what is built from it could not be tried")
        else:
            super().refuse(code, message, error, block, hint)

    # -- looking ------------------------------------------------------------------------------------------------------

    def examine(self, composition: Composition | None) -> None:
        """Look at parts that have been built."""
        data = self.roles.get("data")
        if data is not None:
            self._examine_data(data)
        if composition is None:
            return
        model, marks = composition.model, self._marks()
        if not self.incomplete:
            self._examine_networks(model, data, marks)
        if "sample" in self.resolved.recipe.root.value:  # a model that can't be sampled may be trained and measured
            with self._fitting("sample", marks, "'sample:'"):
                make_target(model, composition.sample.space)
        self._examine_stages(composition, marks)
        evaluation = Evaluation(
            model,
            data,
            composition.sample,
            device=self.device,
            seed=self.seed,
            smoke=self.resolved.smoke,
            recipe=self.resolved.plain(),
        )
        for (part, _), (name, metric) in zip(self.parts("evaluate"), composition.metrics, strict=True):
            if metric is not None:  # it could be built
                with self._fitting(part, marks, f"metric '{name}'"):
                    metric.examine(evaluation)

    def _examine_data(self, data: Dataset) -> None:
        mark = self._marks()["data"]
        try:
            data.examine()
        except AbsentDataError as error:
            self.absent = error
            self.notes.append(f"the data are not on this machine: {error}")
        except DataError as error:
            self.faults.add("GF218", str(error), mark)
        except BrokenPartError as error:
            self.faults.add("GF216", str(error), mark)

    def _examine_networks(self, model: Model, data: Dataset | None, marks: Mapping[str, Mark]) -> None:
        """One small batch through each network, as far as the ones before it gave what it needs."""
        latent = x = None
        with torch.no_grad(), frozen(model), self.device, _ShapesAlone():
            if model.prior is not None:
                with self._fitting("prior", marks, "the prior"):
                    latent = model.latent(torch.zeros(_ROWS, model.latent_layout.size))
            if data is not None:
                x = torch.zeros(_ROWS, *data.data_shape)
            if model.decoder is not None and latent is not None:
                with self._fitting("decoder", marks, "the decoder"):
                    made = model.likelihood(latent).mean
                    _same("makes data", made, x)
                    x = made if x is None else x
            if model.encoder is not None and model.prior is not None and x is not None:
                with self._fitting("encoder", marks, "the encoder"):
                    noise = torch.zeros(_ROWS, model.latent_layout.size)
                    _same("gives noise", model.encoder(x, noise=noise).noise, noise)
            for part, energy in ((part, built) for part, built in self.roles.items() if part.startswith("energy")):
                read = x if energy.on == "data" else None if latent is None else latent.flat()
                if read is not None:
                    with self._fitting(part, marks, f"the energy on {energy.on}"):
                        energy(read)

    def _examine_stages(self, composition: Composition, marks: Mapping[str, Mark]) -> None:
        world = composition.engine.devices
        for (part, _), (name, stage) in zip(self.parts("train"), composition.stages, strict=True):
            if isinstance(world, int) and stage is not None and stage.steps and stage.batch % world:
                said = f"stage '{name}' has batches of {stage.batch} rows, which {world} processes can't share"
                self.faults.add("GF217", f"{said}; set 'batch' to a multiple of {world}", marks[part])

    def _marks(self) -> dict[str, Mark]:
        root = self.resolved.recipe.root.mark
        return {part: getattr(bound, "mark", root) for part, bound in self.resolved.parts.items()}

    @contextlib.contextmanager
    def _fitting(self, part: str, marks: Mapping[str, Mark], what: str) -> Iterator[None]:
        try:
            yield
        except BrokenPartError as error:
            if _needs_numbers(str(error)):
                self.notes.append(f"{what} needs numbers, and is first tried when it is trained")
            else:
                self.faults.add("GF216", str(error), marks.get(part))
        except AbsentDataError as error:
            self.notes.append(f"{what}: {error}")
        except (ValueError, RuntimeError, GenfwError) as error:
            if _needs_numbers(str(error)):
                self.notes.append(f"{what} needs numbers, and is first tried when it is trained")
            else:
                self.faults.add("GF217", f"{what}: {text_of(error)}", marks.get(part))


class _ShapesAlone(TorchFunctionMode):
    """Skips work on numbers that are not there, and counts how many there would be.

    What torch does to find the shape of a norm, or to fill a tensor, takes seconds: it loads its compiler for that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more, name = kwargs or {}, getattr(func, "__name__", "")
        first = args[0] if args else more.get("tensor")
        if isinstance(first, Tensor) and first.is_meta:
            if name in _FILLS:
                return first
            plain = "out" not in more and first.is_floating_point()
            if plain and (made := _without_numbers(name, first, args[1:], more)) is not None:
                self.numbers += made.numel()
                return made
        made = func(*args, **more)
        if isinstance(made, Tensor):
            self.numbers += made.numel()
        return made


def _without_numbers(name: str, first: Tensor, others: Sequence[Any], more: Mapping[str, Any]) -> Tensor | None:
    """The result of a few functions whose shape is plain to see; for each, torch takes a millisecond."""
    if name in ("norm", "sum", "mean"):
        return _reduced(name, first, others, more)
    return _like(name, first, others)


def _reduced(name: str, first: Tensor, others: Sequence[Any], more: Mapping[str, Any]) -> Tensor | None:
    """A norm, sum or mean over some dimensions, or over all."""
    given = {key for key, value in more.items() if value is not None}
    # The order of a norm comes first, and says nothing of the shape.
    others = others[1:] if name == "norm" else others
    if not given <= {"dim", "keepdim", "p"} or len(others) > 2:
        return None
    dim, keepdim = (*others, None, None)[:2]
    dim, keepdim = more.get("dim", dim), more.get("keepdim", keepdim)
    dims = range(first.ndim) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    if not all(-first.ndim <= each < first.ndim for each in dims):
        return None
    gone = {each % first.ndim for each in dims}
    sizes = [1 if index in gone else size for index, size in enumerate(first.shape)]
    return first.new_empty(sizes if keepdim else [size for index, size in enumerate(sizes) if index not in gone])


def _like(name: str, first: Tensor, others: Sequence[Any]) -> Tensor | None:
    """The result of a function of each number by itself, where it is like one of its arguments."""
    if name in _LIKE:
        return first.detach()
    if name not in _OF_TWO or len(others) != 1:
        return None
    (other,) = others
    if isinstance(other, int | float):
        return first.detach()
    if not isinstance(other, Tensor) or not other.is_meta or other.dtype != first.dtype:
        return None
    with contextlib.suppress(RuntimeError):  # shapes that do not fit: torch says so in its own words
        shape = torch.broadcast_shapes(first.shape, other.shape)
        return next((each.detach() for each in (first, other) if each.shape == shape), None)
    return None


def _numbers(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


def _needs_numbers(message: str) -> bool:
    """Whether torch, or a part, says that it can't work on the device that has no numbers."""
    return any(word in message for word in ("meta tensor", "Meta", "'meta'", "on meta", "device meta", "device=meta"))


def _same(what: str, made: Tensor, wanted: Tensor | None) -> None:
    if wanted is not None and made.shape != wanted.shape:
        raise ValueError(f"it {what} of shape {tuple(made.shape[1:])}, where {tuple(wanted.shape[1:])} is needed")
