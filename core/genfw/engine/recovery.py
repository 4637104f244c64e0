"""The progress of a stage: set-up, saving and restoring, and rollbacks after an unhealthy row."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import attrs
import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.engine.background import Background
from genfw.engine.devices import usable_cores
from genfw.engine.observers import Observers
from genfw.errors import RunError
from genfw.interfaces.values import StateTree
from genfw.randomness import derive_seed
from genfw.recipes.compose import Composition
from genfw.runs.checkpoints import Checkpoint
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.mirror import try_push
from genfw.training.health import Monitor
from genfw.training.scalars import RunningMeans
from genfw.training.stage import Stage, StageRun


def set_up_stage(composition: Composition, fabric: Fabric, stage_index: int, rows: int) -> Stage:
    """Give a stage its :class:`StageRun`, and let it build its optimisers and chains.

    Arguments:
        composition: The run's parts.
        fabric: Devices and processes.
        stage_index: Index of the stage.
        rows: Rows of the training split.
    """
    stage = composition.stages[stage_index][1]
    seed, rank = composition.seed, fabric.global_rank
    randomness.seed_all(derive_seed(seed, "global", stage_index, "rank", rank))
    generator = torch.Generator(device=fabric.device)
    generator.manual_seed(derive_seed(seed, "stage", stage_index, "rank", rank))
    stage.run = StageRun(fabric, fabric.device, generator, rows)
    composition.model.train()
    stage.setup()
    return stage


def restore_state(composition: Composition, stage: Stage, state: StateTree) -> None:
    """Restore weights, the stage, and all randomness from a checkpoint's state.

    Arguments:
        composition: The run's parts.
        stage: The stage, set up.
        state: Return value of :meth:`StageProgress.state`.

    Raises:
        RunError: The state belongs to another model.
    """
    try:
        composition.model.load_state_dict(state["model"])
        stage.load_state_dict(state["stage"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise RunError(
            f"the checkpoint does not fit the model that resolved.yaml describes; has the code changed? {error}"
        ) from error
    device = stage.run.device
    stage.run.lr_scale = float(state["lr_scale"])
    if state["device"] == device.type:  # a generator's state does not fit a generator on another device
        stage.run.generator.set_state(state["generator"])
        randomness.restore(state["random"], device)


class Clock:
    """Seconds of training, over all sessions of a run."""

    def __init__(self) -> None:
        self._before, self._since = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        return round(self._before + time.monotonic() - self._since, 3)

    def set(self, seconds: float) -> None:
        """Continue from an earlier session's count."""
        self._before, self._since = seconds, time.monotonic()


@attrs.define(eq=False)
class StageProgress:
    """The progress of one stage of a run, in this process.

    Arguments:
        composition: The run's parts.
        fabric: Devices and processes.
        run_dir: The run directory.
        observers: The run's observers; none in workers.
        clock: Seconds of training.
        stage_index: Index of the stage.
        name: Its name.
        stage: The stage, set up.
        rows: Rows of the training split.
        background: Writes the checkpoints.
        step: Completed steps.
        began: The clock's seconds at the stage's beginning.
    """

    composition: Composition
    fabric: Fabric
    run_dir: RunDirectory
    observers: Observers
    clock: Clock
    stage_index: int
    name: str
    stage: Stage
    rows: int
    background: Background
    step: int = 0
    began: float = 0.0
    monitor: Monitor = attrs.field(init=False)
    means: RunningMeans = attrs.field(init=False)
    status_at: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self.monitor, self.means = Monitor(self.composition.health), RunningMeans(self.fabric.device)

    # -- reporting ----------------------------------------------------------------------------------------------------

    def event(self, kind: str, message: str) -> None:
        """Add an event to the run's log, and notify the observers; first process only."""
        if self.fabric.global_rank == 0:
            self.run_dir.append_event(kind, message, stage=self.stage_index, step=self.step)
            self.observers.event(kind, message)

    def write_status(self) -> None:
        """Write the current stage and step to ``STATUS``."""
        self.status_at = time.monotonic()
        status = Status("running", self.name, self.step, index=self.stage_index)
        self.run_dir.write_status(status, durable=False)

    def time_is_up(self) -> bool:
        """Whether the stage's ``seconds`` have passed, by the first process's clock."""
        seconds = self.stage.seconds
        if seconds is None:
            return False
        spent: float = self.fabric.broadcast((self.clock.seconds() - self.began) / seconds)
        self.stage.run.spent = min(spent, 1.0)
        return spent >= 1.0

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> StateTree:
        """Everything the next step depends on, in this process."""
        return {
            "model": self.composition.model.state_dict(),
            "stage": self.stage.state_dict(),
            "device": self.fabric.device.type,
            "generator": self.stage.run.generator.get_state(),
            "random": randomness.capture(self.fabric.device),
            "lr_scale": self.stage.run.lr_scale,
            "monitor": self.monitor.state_dict(),
            "window": self.means.state_dict(),
        }

    def save(
        self, *, healthy: bool | None = None, scheduled: bool = True, final: bool = False, returned: bool = False
    ) -> None:
        """Copy the state, and have it written as a checkpoint, together with all processes.

        There is one copy at a time: this waits until the checkpoint before is written.

        Arguments:
            healthy: See :class:`Checkpoint`.
            scheduled: See :class:`Checkpoint`.
            final: See :class:`Checkpoint`.
            returned: Whether a rollback has restored this state.
        """
        self.background.settle()
        write = self.run_dir.checkpoints.prepare(
            self.state(),
            stage=self.stage_index,
            step=self.step,
            rollbacks=self.monitor.rollbacks,
            scheduled=scheduled,
            healthy=healthy,
            info={
                "seconds": self.clock.seconds(),
                "began": self.began,
                "sizes": self.run_dir.log_sizes() if self.fabric.global_rank == 0 else {},
                "threads": torch.get_num_threads(),
                "rows": self.rows,
                "returned": returned,
            },
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            barrier=self.background.barrier,
        )
        self.background.do(partial(self._write, write, final), self._tell)
        if self.fabric.global_rank == 0:
            self.write_status()

    def _write(self, write: Callable[[], Checkpoint | None], final: bool) -> tuple[str, str]:
        """In the background: write a checkpoint; returns its name, and why it was not copied to the run's mirror."""
        checkpoint = write()
        if checkpoint is None:
            return "", ""
        if final:
            self.run_dir.checkpoints.mark(checkpoint, final=True)
        self.run_dir.checkpoints.prune(self.composition.engine.keep)
        return checkpoint.name, try_push(self.run_dir.mirror)

    def _tell(self, written: tuple[str, str]) -> None:
        name, failure = written
        if name:
            self.observers.event("checkpoint", name)
        if failure:
            self.event("warning", failure)

    def restore(self, checkpoint: Checkpoint, *, reject: bool = False) -> None:
        """Restore the state of a checkpoint.

        Arguments:
            checkpoint: The checkpoint.
            reject: Whether this is a rollback, and not a resumed run; see :meth:`RunDirectory.truncate`.
        """
        rank, world = self.fabric.global_rank, checkpoint.world
        state = self.run_dir.checkpoints.load(checkpoint, rank=rank % world, device=self.fabric.device)
        restore_state(self.composition, self.stage, state)
        if rank >= world:  # it joins with another one's chains, and must not draw the same numbers
            self._reseed("joined", checkpoint.step)
        self.monitor.load_state_dict(state["monitor"])
        self.means.load_state_dict(state["window"])
        self.step = checkpoint.step
        if not reject:
            self._take_threads(checkpoint)
            self.clock.set(checkpoint.info["seconds"])
            self.began = checkpoint.info.get("began", 0.0)
        if self.fabric.global_rank == 0:
            self.run_dir.truncate(checkpoint.info["sizes"], reject=reject)
            self.observers.rewind(self.stage_index, self.step)
        if not reject and world != self.fabric.world_size:
            self.event(
                "warning",
                f"{world} process(es) began this run and {self.fabric.world_size} go on: each has another share of the "
                "rows and chains, so it does not go on bit for bit",
            )

    def _take_threads(self, checkpoint: Checkpoint) -> None:
        """Use the threads of the checkpoint's processes, on which the last bit of a sum depends; but no more than
        this process may use.
        """
        wanted, allowed = int(checkpoint.info["threads"]), usable_cores()
        torch.set_num_threads(min(wanted, allowed))
        if wanted > allowed:
            self.event(
                "warning",
                f"the run had {wanted} threads per process, and may use {allowed} here; it may not go on bit for bit",
            )
        elif self.fabric.global_rank == 0:
            self.run_dir.append_event("threads", f"goes on with {wanted} thread(s) per process, as before")

    def _reseed(self, *names: str | int) -> None:
        """Give this process random numbers of its own, by name."""
        names = (self.stage_index, "rank", self.fabric.global_rank, *names)
        self.stage.run.generator.manual_seed(derive_seed(self.composition.seed, "stage", *names))
        randomness.seed_all(derive_seed(self.composition.seed, "global", *names))

    # -- rollbacks ----------------------------------------------------------------------------------------------------

    def roll_back(self, reason: str) -> None:
        """Return to a healthy checkpoint, with smaller learning rates and new seeds."""
        scale, rollbacks, step = self.stage.run.lr_scale, self.monitor.rollbacks + 1, self.step
        target = self._healthy()
        self.restore(target, reject=True)
        self.monitor = Monitor(self.composition.health)
        self.monitor.rollbacks = rollbacks
        self.stage.run.lr_scale = scale * self.composition.health.lr_factor
        self._reseed("rollback", rollbacks)
        if self.fabric.global_rank == 0:
            self.run_dir.checkpoints.drop_after(target)
        self.event(
            "rollback",
            f"{reason}; back from step {step} to step {self.step}, "
            f"learning rates cut to {self.stage.run.lr_scale:.3g} of the recipe's",
        )
        self.save(healthy=True, returned=True)

    def leave(self, reason: str) -> None:
        """End the stage with its last healthy state."""
        step, target = self.step, self._healthy(further=False)
        self.restore(target, reject=True)
        if self.fabric.global_rank == 0:
            self.run_dir.checkpoints.drop_after(target)
            self.run_dir.checkpoints.mark(target, final=True)
        self.event("stop", f"{reason}; the stage ends with its healthy state of step {self.step} instead of {step}")

    def judge_checkpoints(self, healthy: bool) -> None:
        """In the background: mark the stage's checkpoints before the last logged row as healthy or not."""
        self.background.do(partial(self._judge, self.step, healthy))

    def _judge(self, step: int, healthy: bool) -> None:
        for checkpoint in self.run_dir.checkpoints.all():
            waiting = checkpoint.healthy is None and checkpoint.scheduled and checkpoint.step < step
            if checkpoint.stage == self.stage_index and waiting:
                self.run_dir.checkpoints.mark(checkpoint, healthy=healthy)

    def _healthy(self, *, further: bool = True) -> Checkpoint:
        """The newest healthy checkpoint of this stage; ``further`` than one that a rollback has returned to before."""
        self.background.settle()
        found: Checkpoint | None = None
        if self.fabric.global_rank == 0:
            able = [
                c for c in self.run_dir.checkpoints.all() if c.stage == self.stage_index and c.healthy and c.scheduled
            ]
            found = able[-1] if able else None
            if further and found is not None and found.info.get("returned"):
                earlier = [checkpoint for checkpoint in able if checkpoint.step < found.step]
                found = earlier[-1] if earlier else found
        agreed: Checkpoint | None = self.fabric.broadcast(found)
        if agreed is None:
            raise RunError(f"{self.run_dir.path} has lost its healthy checkpoints; begin the run anew")
        return agreed
