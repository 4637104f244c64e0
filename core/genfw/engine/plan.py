"""What a run will cost: a few steps of each stage and a part of the evaluation, timed on this machine."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from genfw.engine.devices import make_fabric, tuned
from genfw.engine.finished import prepare
from genfw.engine.interrupts import Interrupts
from genfw.engine.loop import Training
from genfw.engine.observers import Observers
from genfw.evaluation.evaluation import Evaluation
from genfw.models.freezing import frozen
from genfw.models.sampling import Samples
from genfw.randomness import isolated_rng
from genfw.recipes.compose import Composition
from genfw.runs.checkpoints import Checkpoints
from genfw.runs.directory import RunDirectory
from genfw.runs.state_tree import split_tree
from genfw.training.stage import Stage

T = TypeVar("T")

#: Seconds. A benchmark on a machine that others use too may take the time of this process alone.
clock: Callable[[], float] = time.perf_counter
#: Steps before the clock starts: allocations, kernels that are chosen at first use.
_WARM_UP = 2
#: Fewest and most timed steps of a stage.
_FEWEST, _MOST = 3, 100


@attrs.frozen
class StagePlan:
    """The cost of one stage.

    Arguments:
        name: Its name.
        steps: Its steps.
        timed: Steps that were timed.
        step_seconds: Mean time of one, with reading its rows and logging.
        setup_seconds: Time before the first step: opening the data, looking at them.
        save_seconds: Time to write a checkpoint.
        saves: Checkpoints over the stage.
        checkpoint_bytes: Size of one.
        limit: The recipe's limit on the stage's time, in seconds, where it has one.
    """

    name: str
    steps: int
    timed: int
    step_seconds: float
    setup_seconds: float
    save_seconds: float
    saves: int
    checkpoint_bytes: int
    limit: float | None = None

    @property
    def seconds(self) -> float:
        """Estimated time of the whole stage."""
        whole = self.setup_seconds + self.steps * self.step_seconds + self.saves * self.save_seconds
        return whole if self.limit is None else min(whole, self.limit)


@attrs.frozen
class MetricPlan:
    """The cost of one metric.

    Arguments:
        name: Its name.
        seconds: Estimated time.
        reason: Why there is only a lower bound, or none; empty otherwise.
    """

    name: str
    seconds: float
    reason: str = ""


@attrs.frozen
class Plan:
    """The cost of a run on this machine.

    Arguments:
        name: The recipe's name.
        device: Where it was timed.
        parameters: Part of the model -> count of its parameters.
        stages: The stages.
        metrics: The metrics.
        peak_bytes: Most memory in use: on the device, or of this process on a CPU.
        kept_bytes: Size of the checkpoints that a finished run keeps.
    """

    name: str
    device: str
    parameters: Mapping[str, int]
    stages: tuple[StagePlan, ...]
    metrics: tuple[MetricPlan, ...]
    peak_bytes: int
    kept_bytes: int

    @property
    def training_seconds(self) -> float:
        """Estimated time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def evaluation_seconds(self) -> float:
        """Estimated time of all metrics."""
        return sum(metric.seconds for metric in self.metrics)

    @property
    def seconds(self) -> float:
        """Estimated time of the run."""
        return self.training_seconds + self.evaluation_seconds


class _Enough(Exception):
    """Ends a stage that has been timed."""


class _OutOfTime(Exception):
    """Ends a metric that takes too long to be measured whole."""


def plan_run(composition: Composition, *, seconds: float = 10.0) -> Plan:
    """Time a few steps of each stage and a part of each metric, in a run directory that is removed afterwards.

    Arguments:
        composition: The run's parts; their weights change.
        seconds: Most time for a stage's steps, beyond the first ones, and for a metric.
    """
    engine, device = composition.engine, torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="genfw-plan-") as folder, tuned(engine):
        run_dir = RunDirectory.create(folder, composition.name, composition.resolved.dump(), path=Path(folder) / "run")
        fabric = make_fabric(engine)
        device = fabric.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        training = Training(composition, fabric, run_dir, Observers(), Interrupts())
        stages = tuple(
            _time_stage(training, index, name, stage, seconds) for index, (name, stage) in enumerate(composition.stages)
        )
        composition.model.eval()
        metrics = tuple(_time_metrics(composition, run_dir, seconds))
    kept = [stage.checkpoint_bytes * (1 if stage is not stages[-1] else engine.keep) for stage in stages]
    return Plan(
        composition.name,
        str(device),
        _parameters(composition),
        stages,
        metrics,
        _peak(device),
        sum(kept),
    )


def _parameters(composition: Composition) -> dict[str, int]:
    model = composition.model
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # kibibytes on Linux


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- stages -----------------------------------------------------------------------------------------------------------


def _time_stage(training: Training, index: int, name: str, stage: Stage, seconds: float) -> StagePlan:
    device, settings = training.fabric.device, training.settings
    began = clock()
    starts: list[float] = []
    step = stage.step

    def timed(batch: Any, number: int) -> Any:
        if len(starts) in (0, _WARM_UP):
            training.background.settle()  # the checkpoint of the beginning is counted with it
            _wait(device)
        starts.append(clock())
        over = len(starts) - 1 - _WARM_UP
        if over >= _MOST or (over >= _FEWEST and starts[-1] - starts[_WARM_UP] > seconds):
            _wait(device)
            starts[-1] = clock()
            raise _Enough
        return step(batch, number)

    stage.step = timed  # type: ignore[assignment, method-assign]
    try:
        training.run_stage(index)
        _wait(device)
        starts.append(clock())  # the stage is shorter than what is timed: its last step ends here
    except _Enough:
        stage.finish()
    finally:
        del stage.step
    training.background.settle()
    first = min(_WARM_UP, len(starts) - 2)
    count = len(starts) - 1 - first
    state = {"model": training.model.state_dict(), "stage": stage.state_dict()}
    _, tensors = split_tree(state)
    saving = clock()
    Checkpoints(training.run_dir.path / "timed").save(state, stage=index, step=0)
    return StagePlan(
        name,
        stage.steps,
        count,
        (starts[-1] - starts[first]) / count,
        starts[0] - began,
        clock() - saving,
        -(-stage.steps // settings.checkpoint_every),
        sum(tensor.nbytes for tensor in tensors.values()),
        stage.seconds,
    )


# -- metrics ----------------------------------------------------------------------------------------------------------


class _Extrapolated(Evaluation):
    """An evaluation that does the first of several like tasks, and says what the others would take."""

    #: Seconds that the others would take.
    saved = 0.0

    def draws(self, count: int, indices: Sequence[int], seed: int) -> Iterator[Samples]:
        began = clock()
        for first in super().draws(count, indices[:1], seed):
            self.saved += (clock() - began) * (len(indices) - 1)
            for index in indices:
                size = min(self.settings.batch, count - index * self.settings.batch)
                parts = {name: getattr(first, name)[:size] for name in ("x", "position", "potential")}
                yield attrs.evolve(first, **parts)

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        done: dict[Any, tuple[T, float]] = {}
        results = []
        for task in tasks:
            # A task with another count of rows is done too.
            kind = tuple(part.shape if isinstance(part, Tensor) else type(part) for part in task)
            if kind in done:
                self.saved += done[kind][1]
            else:
                began = clock()
                done[kind] = (method(self, *task), 0.0)
                done[kind] = (done[kind][0], clock() - began)
            results.append(done[kind][0])
        return results


def _time_metrics(composition: Composition, run_dir: RunDirectory, seconds: float) -> Iterator[MetricPlan]:
    evaluation = prepare(composition, run_dir.path, _Extrapolated)
    for name, metric in composition.metrics:
        evaluation.saved, began, reason = 0.0, clock(), ""
        try:
            with frozen(evaluation.model), isolated_rng(evaluation.device), _limited(seconds):
                metric.compute(evaluation)
        except _OutOfTime:
            reason = "at least: it was stopped"
        except Exception as error:  # a few steps make no model that every metric bears
            reason = f"at least: it failed ({type(error).__name__}: {error})"
        yield MetricPlan(name, clock() - began + evaluation.saved, reason)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise :class:`_OutOfTime` after some time, in the main thread of a system that has timers."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
