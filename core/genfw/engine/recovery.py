"""Where a stage stands: how it begins, is saved and restored, and the way back when the monitor finds a row ill."""

from __future__ import annotations

import time

import attrs
import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.engine.observers import Observers
from genfw.errors import RunError
from genfw.interfaces.values import StateTree
from genfw.randomness import derive_seed
from genfw.recipes.compose import Composition
from genfw.runs.checkpoints import Checkpoint
from genfw.runs.directory import RunDirectory, Status
from genfw.training.health import Monitor
from genfw.training.scalars import Window
from genfw.training.stage import Stage, StageRun

__all__ = ["Clock", "StageProgress", "begin", "put_back"]


def begin(composition: Composition, fabric: Fabric, number: int, rows: int) -> Stage:
    """Lend a stage what it needs, and let it build its optimisers and chains.

    Arguments:
        composition: The run's parts.
        fabric: Devices and processes.
        number: Number of the stage.
        rows: Rows of the training split.
    """
    stage = composition.stages[number][1]
    seed, rank = composition.seed, fabric.global_rank
    randomness.seed_all(derive_seed(seed, "global", number, "rank", rank))
    generator = torch.Generator(device=fabric.device)
    generator.manual_seed(derive_seed(seed, "stage", number, "rank", rank))
    stage.run = StageRun(fabric, fabric.device, generator, rows)
    composition.model.train()
    stage.setup()
    return stage


def put_back(composition: Composition, stage: Stage, state: StateTree) -> None:
    """Restore weights, the stage, and all randomness from a checkpoint's state.

    Arguments:
        composition: The run's parts.
        stage: The stage, set up.
        state: What :meth:`StageProgress.state` has given.

    Raises:
        RunError: The state is of another model.
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
    if state["device"] == device.type:  # a generator's state means nothing to one on another device
        stage.run.generator.set_state(state["generator"])
        randomness.restore(state["random"], device)


class Clock:
    """Seconds trained, over all sessions of a run."""

    def __init__(self) -> None:
        self._before, self._since = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        return round(self._before + time.monotonic() - self._since, 3)

    def set(self, seconds: float) -> None:
        """Go on from what an earlier session had counted."""
        self._before, self._since = seconds, time.monotonic()


@attrs.define(eq=False)
class StageProgress:
    """Where one stage of a run stands, in this process.

    Arguments:
        composition: The run's parts.
        fabric: Devices and processes.
        run: Where everything is written.
        observers: Who is told; none but in the first process.
        clock: Seconds trained.
        number: Number of the stage.
        name: Its name.
        stage: The stage, set up.
        rows: Rows of the training split.
        step: Steps that are done.
    """

    composition: Composition
    fabric: Fabric
    run: RunDirectory
    observers: Observers
    clock: Clock
    number: int
    name: str
    stage: Stage
    rows: int
    step: int = 0
    monitor: Monitor = attrs.field(init=False)
    window: Window = attrs.field(init=False)
    status_at: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self.monitor, self.window = Monitor(self.composition.health), Window(self.fabric.device)

    # -- telling ------------------------------------------------------------------------------------------------------

    def event(self, kind: str, message: str) -> None:
        """Write a line to the run's events, and tell the observers; first process only."""
        if self.fabric.global_rank == 0:
            self.run.append_event(kind, message, stage=self.number, step=self.step)
            self.observers.event(kind, message)

    def write_status(self) -> None:
        """Say in ``STATUS`` where the run stands."""
        self.status_at = time.monotonic()
        self.run.write_status(Status("running", self.name, self.step), durable=False)

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
            "window": self.window.state_dict(),
        }

    def save(
        self, *, healthy: bool | None = None, scheduled: bool = True, final: bool = False, returned: bool = False
    ) -> None:
        """Write a checkpoint, with all processes.

        Arguments:
            healthy: What is already known about it.
            scheduled: Written by the schedule, and not because the run is interrupted.
            final: The state its stage ends with.
            returned: A rollback has led here.
        """
        checkpoints = self.run.checkpoints
        checkpoint = checkpoints.save(
            self.state(),
            stage=self.number,
            step=self.step,
            rollbacks=self.monitor.rollbacks,
            scheduled=scheduled,
            healthy=healthy,
            info={
                "seconds": self.clock.seconds(),
                "sizes": self.run.log_sizes() if self.fabric.global_rank == 0 else {},
                "threads": torch.get_num_threads(),
                "rows": self.rows,
                "returned": returned,
            },
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            barrier=self.fabric.barrier,
        )
        if checkpoint is not None:
            if final:
                checkpoints.mark(checkpoint, final=True)
            checkpoints.prune(self.composition.engine.keep)
            self.write_status()
            self.observers.event("checkpoint", checkpoint.name)

    def restore(self, checkpoint: Checkpoint, *, reject: bool = False) -> None:
        """Stand where a checkpoint was written.

        Arguments:
            checkpoint: The checkpoint.
            reject: The path since then is given up (a rollback), and not resumed; see :meth:`RunDirectory.truncate`.
        """
        state = self.run.checkpoints.load(checkpoint, rank=self.fabric.global_rank, device=self.fabric.device)
        put_back(self.composition, self.stage, state)
        self.monitor.load_state_dict(state["monitor"])
        self.window.load_state_dict(state["window"])
        self.step = checkpoint.step
        if not reject:
            torch.set_num_threads(checkpoint.info["threads"])
            self.clock.set(checkpoint.info["seconds"])
        if self.fabric.global_rank == 0:
            self.run.truncate(checkpoint.info["sizes"], reject=reject)
            self.observers.rewind(self.number, self.step)

    # -- the way back -------------------------------------------------------------------------------------------------

    def roll_back(self, reason: str) -> None:
        """Go back to a healthy checkpoint, on another path: smaller learning rates, and generators seeded anew."""
        scale, rollbacks, step = self.stage.run.lr_scale, self.monitor.rollbacks + 1, self.step
        target = self._healthy()
        self.restore(target, reject=True)
        self.monitor = Monitor(self.composition.health)
        self.monitor.rollbacks = rollbacks
        self.stage.run.lr_scale = scale * self.composition.health.lr_factor
        names = (self.number, "rank", self.fabric.global_rank, "rollback", rollbacks)
        self.stage.run.generator.manual_seed(derive_seed(self.composition.seed, "stage", *names))
        randomness.seed_all(derive_seed(self.composition.seed, "global", *names))
        if self.fabric.global_rank == 0:
            self.run.checkpoints.drop_after(target)
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
            self.run.checkpoints.drop_after(target)
            self.run.checkpoints.mark(target, final=True)
        self.event("stop", f"{reason}; the stage ends with its healthy state of step {self.step} instead of {step}")

    def judge_checkpoints(self, healthy: bool) -> None:
        """Mark the stage's earlier checkpoints, now that a row has been logged after them."""
        for checkpoint in self.run.checkpoints.all():
            waiting = checkpoint.healthy is None and checkpoint.scheduled and checkpoint.step < self.step
            if checkpoint.stage == self.number and waiting:
                self.run.checkpoints.mark(checkpoint, healthy=healthy)

    def _healthy(self, *, further: bool = True) -> Checkpoint:
        """The newest healthy checkpoint of this stage; where a rollback has led there in vain, one before it."""
        found: Checkpoint | None = None
        if self.fabric.global_rank == 0:
            able = [c for c in self.run.checkpoints.all() if c.stage == self.number and c.healthy and c.scheduled]
            found = able[-1] if able else None
            if further and found is not None and found.info.get("returned"):
                earlier = [one for one in able if one.step < found.step]
                found = earlier[-1] if earlier else found
        agreed: Checkpoint | None = self.fabric.broadcast(found)
        if agreed is None:
            raise RunError(f"{self.run.path} has lost its healthy checkpoints; begin the run anew")
        return agreed
