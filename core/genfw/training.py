"""The stages of a run, in turn: steps, rows, checkpoints, and the way back when the monitor finds a row ill."""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager

import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.batch_norm import synchronised
from genfw.checkpoint import Checkpoint
from genfw.compose import Composition
from genfw.data import Loader
from genfw.errors import ContractError, DivergenceError, RunError
from genfw.health import Monitor, Verdict
from genfw.interfaces.stage import Stage, StageRun
from genfw.observers import Observers
from genfw.processes import Interrupts
from genfw.rundir import RunDirectory, Status
from genfw.seeding import derive_seed
from genfw.snapshots import draw_snapshot
from genfw.types import Batch, StateTree
from genfw.window import Window

__all__ = ["Training", "begin", "put_back"]

#: Seconds between writes of STATUS where nothing else asks for one.
_STATUS_EVERY = 2.0


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
        state: What :meth:`Training.state` had given.

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


class Training:
    """Walks through the stages of one run; every process has one.

    Arguments:
        composition: The run's parts; the model is moved to the device.
        fabric: Devices and processes.
        run: Where everything is written.
        observers: Who is told; none but in the first process.
        interrupts: Whether somebody asked the run to stop.
    """

    def __init__(
        self, composition: Composition, fabric: Fabric, run: RunDirectory, observers: Observers, interrupts: Interrupts
    ) -> None:
        self.composition, self.fabric, self.run = composition, fabric, run
        self.observers, self.interrupts = observers, interrupts
        self.settings, self.rank, self.world = composition.engine, fabric.global_rank, fabric.world_size
        self.model = composition.model.to(fabric.device)
        if self.settings.precision == "64-true":
            self.model.double()
        self.number, self.name, self.step, self.rows = 0, "", 0, 0
        self.monitor = Monitor(composition.health)
        self.window = Window(fabric.device)
        self.elapsed, self._since, self._status_at = 0.0, time.monotonic(), 0.0

    # -- stages -------------------------------------------------------------------------------------------------------

    def walk(self, start: Checkpoint | None = None) -> None:
        """Run every stage that is not done yet; the model then holds the weights to evaluate.

        Arguments:
            start: Checkpoint to go on from.

        Raises:
            DivergenceError: The monitor stopped the run.
            KeyboardInterrupt: A signal did; the state is saved.
        """
        if self.composition.data is None and self.composition.stages:
            raise ContractError("this recipe trains without data; give it a data: section")
        for number in range(0 if start is None else start.stage, len(self.composition.stages)):
            self._stage(number, start if start is not None and start.stage == number else None)
        self.model.eval()

    def _stage(self, number: int, start: Checkpoint | None) -> None:
        assert self.composition.data is not None  # walk() has refused
        self.number, (self.name, _) = number, self.composition.stages[number]
        split = self.composition.data.split("train")
        self.rows = len(split)
        stage = begin(self.composition, self.fabric, number, self.rows)
        self.monitor, self.window = Monitor(self.composition.health), Window(self.fabric.device)
        self.step = 0
        loader = Loader(
            split,
            stage.batch,
            derive_seed(self.composition.seed, "data", number),
            rank=self.rank,
            world=self.world,
            # Rows in memory are read faster than a thread could hand them over, unless a device computes meanwhile.
            prefetch=0 if split.in_memory and self.fabric.device.type == "cpu" else 2,
        )
        if start is None:
            self._event("stage", f"stage {number} '{self.name}' begins: {stage.steps} steps")
            with self._together():
                stage.prepare(lambda step: self._on_device(loader.batch_at(step)))
            self._save(stage, healthy=True, final=stage.steps == 0)
        else:
            self._restore(stage, start)
        ended = start is not None and start.final
        with self.interrupts.held():
            while not ended and self.step < stage.steps:
                ended = self._walk(stage, loader)
        if self.interrupts.requested:  # between the stage's last step and here
            raise KeyboardInterrupt
        with self._together():
            stage.finish()
        self._event("stage", f"stage {number} '{self.name}' is done after {self.step} steps")

    def _walk(self, stage: Stage, loader: Loader) -> bool:
        """Step until the stage is over or a rollback changes :attr:`step`; whether it is over."""
        settings = self.settings
        for step, batch in loader.batches(self.step, stage.steps):
            with self._together():
                self.window.add(stage.step(self._on_device(batch), step))
            self.step = step + 1
            last = self.step == stage.steps
            logs, saves = (
                last or self.step % settings.log_every == 0,
                last or self.step % settings.checkpoint_every == 0,
            )
            verdict, asked = self._row() if logs else (None, self.interrupts.requested and self.world == 1)
            if saves and (verdict is None or verdict.healthy) and not self._weights_finite():
                verdict = self._agree(self.monitor.judge({"weights": float("nan")}))
            if verdict is not None and verdict.action != "none" and self._act(stage, verdict):
                return verdict.action == "stop"
            if last and verdict is not None and self._ends_ill(verdict):
                self._leave(stage, f"the stage ended ill ({'; '.join(map(str, verdict.findings))})")
                return True
            if saves:
                self._save(stage, healthy=self._known_health(verdict, last), final=last)
            if settings.snapshot_every and self.step % settings.snapshot_every == 0 and self.rank == 0:
                self._snapshot()
            if asked and not last:
                if not saves:
                    self._save(stage, scheduled=False)
                raise KeyboardInterrupt
        return True

    def _together(self) -> AbstractContextManager[None]:
        """For what all processes do at once. A snapshot, which one of them draws, stays outside."""
        return synchronised(self.model) if self.settings.sync_batch_norm else contextlib.nullcontext()

    def _known_health(self, verdict: Verdict | None, last: bool) -> bool | None:
        """What is known of a checkpoint as it is written: no row has been logged after it, unless nobody watches or it
        is the last.
        """
        if not self.composition.health.enabled:
            return True
        return verdict.healthy if last and verdict is not None else None

    def _ends_ill(self, verdict: Verdict) -> bool:
        """Whether the stage must not end as it stands. Who asked for warnings alone gets the weights as they are, if
        they are numbers.
        """
        ill = {finding.kind for finding in verdict.findings}
        return "non-finite" in ill or (bool(ill) and self.composition.health.action != "warn")

    # -- rows and health ----------------------------------------------------------------------------------------------

    def _row(self) -> tuple[Verdict, bool]:
        """Log the means since the last row, and judge them; and whether any process was asked to stop."""
        means, asked = self.window.take(self.fabric, self.interrupts.requested)
        row = {"stage": self.number, "name": self.name, "step": self.step, "time": self.seconds(), **means}
        verdict = self._agree(self.monitor.judge(row))
        if self.rank == 0:
            self.run.append_metrics(row)
            self.observers.log(row)
            if self.composition.health.enabled and not verdict.suspect:
                self._judge_checkpoints(verdict.healthy)
            if time.monotonic() - self._status_at > _STATUS_EVERY:
                self._write_status()
        return verdict, asked

    def _agree(self, verdict: Verdict) -> Verdict:
        """The first process's verdict, in all of them."""
        agreed: Verdict = self.fabric.broadcast(verdict)
        return agreed

    def _judge_checkpoints(self, healthy: bool) -> None:
        for one in self.run.checkpoints.all():
            if one.stage == self.number and one.healthy is None and one.scheduled and one.step < self.step:
                self.run.checkpoints.mark(one, healthy=healthy)

    def _weights_finite(self) -> bool:
        if not self.composition.health.enabled:
            return True
        return bool(torch.stack([parameter.detach().isfinite().all() for parameter in self.model.parameters()]).all())

    def _act(self, stage: Stage, verdict: Verdict) -> bool:
        """Do what the monitor says; whether the stage stands elsewhere now."""
        health = self.composition.health
        match verdict.action:
            case "warn":
                self._event("warning", verdict.reason)
            case "cut-lr":
                stage.run.lr_scale *= health.lr_factor
                self._event(
                    "warning", f"{verdict.reason}; learning rates cut to {stage.run.lr_scale:.3g} of the recipe's"
                )
            case "rollback":
                self._roll_back(stage, verdict.reason)
                return True
            case "stop":
                if not health.stop_is_success:
                    self._event("stop", verdict.reason)
                    raise DivergenceError(
                        f"stage {self.number} '{self.name}' stopped at step {self.step}: {verdict.reason}. "
                        f"Its last healthy weights are kept; a smaller learning rate or more chain steps usually help"
                    )
                self._leave(stage, verdict.reason)
                return True
        return False

    def _roll_back(self, stage: Stage, reason: str) -> None:
        """Go back to a healthy checkpoint, on another path: smaller learning rates, and generators seeded anew."""
        scale, rollbacks, step = stage.run.lr_scale, self.monitor.rollbacks + 1, self.step
        target = self._healthy()
        self._restore(stage, target, reject=True)
        self.monitor = Monitor(self.composition.health)
        self.monitor.rollbacks = rollbacks
        stage.run.lr_scale = scale * self.composition.health.lr_factor
        names = (self.number, "rank", self.rank, "rollback", rollbacks)
        stage.run.generator.manual_seed(derive_seed(self.composition.seed, "stage", *names))
        randomness.seed_all(derive_seed(self.composition.seed, "global", *names))
        if self.rank == 0:
            self.run.checkpoints.drop_after(target)
        self._event(
            "rollback",
            f"{reason}; back from step {step} to step {self.step}, "
            f"learning rates cut to {stage.run.lr_scale:.3g} of the recipe's",
        )
        self._save(stage, healthy=True, returned=True)

    def _leave(self, stage: Stage, reason: str) -> None:
        """End the stage with its last healthy state."""
        step, target = self.step, self._healthy(further=False)
        self._restore(stage, target, reject=True)
        if self.rank == 0:
            self.run.checkpoints.drop_after(target)
            self.run.checkpoints.mark(target, final=True)
        self._event("stop", f"{reason}; the stage ends with its healthy state of step {self.step} instead of {step}")

    def _healthy(self, *, further: bool = True) -> Checkpoint:
        """The newest healthy checkpoint of this stage; where a rollback has led there in vain, one before it."""
        found: Checkpoint | None = None
        if self.rank == 0:
            able = [c for c in self.run.checkpoints.all() if c.stage == self.number and c.healthy and c.scheduled]
            found = able[-1] if able else None
            if further and found is not None and found.info.get("returned"):
                earlier = [one for one in able if one.step < found.step]
                found = earlier[-1] if earlier else found
        agreed: Checkpoint | None = self.fabric.broadcast(found)
        if agreed is None:
            raise RunError(f"{self.run.path} has lost its healthy checkpoints; begin the run anew")
        return agreed

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self, stage: Stage) -> StateTree:
        """Everything the next step depends on, in this process."""
        return {
            "model": self.model.state_dict(),
            "stage": stage.state_dict(),
            "device": self.fabric.device.type,
            "generator": stage.run.generator.get_state(),
            "random": randomness.capture(self.fabric.device),
            "lr_scale": stage.run.lr_scale,
            "monitor": self.monitor.state_dict(),
            "window": self.window.state_dict(),
        }

    def _save(
        self,
        stage: Stage,
        *,
        healthy: bool | None = None,
        scheduled: bool = True,
        final: bool = False,
        returned: bool = False,
    ) -> None:
        sizes = self.run.log_sizes() if self.rank == 0 else {}
        checkpoint = self.run.checkpoints.save(
            self.state(stage),
            stage=self.number,
            step=self.step,
            rollbacks=self.monitor.rollbacks,
            scheduled=scheduled,
            healthy=healthy,
            info={
                "seconds": self.seconds(),
                "sizes": sizes,
                "threads": torch.get_num_threads(),
                "rows": self.rows,
                "returned": returned,
            },
            rank=self.rank,
            world=self.world,
            barrier=self.fabric.barrier,
        )
        if checkpoint is not None:
            if final:
                self.run.checkpoints.mark(checkpoint, final=True)
            self.run.checkpoints.prune(self.settings.keep)
            self._write_status()
            self.observers.event("checkpoint", checkpoint.name)

    def _restore(self, stage: Stage, checkpoint: Checkpoint, *, reject: bool = False) -> None:
        state = self.run.checkpoints.load(checkpoint, rank=self.rank, device=self.fabric.device)
        put_back(self.composition, stage, state)
        self.monitor.load_state_dict(state["monitor"])
        self.window.load_state_dict(state["window"])
        self.step = checkpoint.step
        if not reject:
            torch.set_num_threads(checkpoint.info["threads"])
            self.elapsed, self._since = checkpoint.info["seconds"], time.monotonic()
        if self.rank == 0:
            self.run.truncate(checkpoint.info["sizes"], reject=reject)

    # -- small things -------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Seconds trained, over all sessions of the run."""
        return round(self.elapsed + time.monotonic() - self._since, 3)

    def _on_device(self, batch: Batch) -> Batch:
        device = self.fabric.device
        x = batch.x.double() if self.settings.precision == "64-true" else batch.x
        if device.type == "cuda":  # from pinned memory the copy runs beside the computation
            label = None if batch.label is None else batch.label.pin_memory().to(device, non_blocking=True)
            return Batch(x.pin_memory().to(device, non_blocking=True), batch.index.to(device), label)
        return Batch(x, batch.index, batch.label).to(device)

    def _snapshot(self) -> None:
        path = self.run.samples / f"stage{self.number}-step{self.step:06d}.png"
        draw_snapshot(
            self.composition, path, seed=derive_seed(self.composition.seed, "snapshot"), device=self.fabric.device
        )
        self._event("sample", path.name)

    def _write_status(self) -> None:
        self._status_at = time.monotonic()
        self.run.write_status(Status("running", self.name, self.step), durable=False)

    def _event(self, kind: str, message: str) -> None:
        if self.rank == 0:
            self.run.append_event(kind, message, stage=self.number, step=self.step)
            self.observers.event(kind, message)
