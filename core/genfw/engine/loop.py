"""The stages of a run, in turn: steps, logged rows, checkpoints, and samples in the middle of training."""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager

import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.engine.interrupts import Interrupts
from genfw.engine.observers import Observers
from genfw.engine.recovery import Clock, StageProgress, begin
from genfw.errors import ContractError, DivergenceError
from genfw.evaluation.pictures import save_samples
from genfw.interfaces.values import Batch
from genfw.models.freezing import frozen
from genfw.models.sampling import draw_samples
from genfw.nn.batch_norm import synchronised
from genfw.randomness import derive_seed
from genfw.recipes.compose import Composition
from genfw.runs.checkpoints import Checkpoint
from genfw.runs.directory import RunDirectory
from genfw.training.health import Verdict
from genfw.training.loader import Loader

__all__ = ["Training"]

#: Seconds between writes of STATUS where nothing else asks for one.
_STATUS_EVERY = 2.0
#: Samples in a picture of a snapshot.
_SNAPSHOT_SAMPLES = 64


class Training:
    """Runs the stages of one run in turn; every process has one.

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
        self.settings, self.clock = composition.engine, Clock()
        self.model = composition.model.to(fabric.device)
        if self.settings.precision == "64-true":
            self.model.double()

    def train(self, start: Checkpoint | None = None) -> None:
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
        assert self.composition.data is not None  # train() has refused
        split = self.composition.data.split("train")
        stage = begin(self.composition, self.fabric, number, len(split))
        name = self.composition.stages[number][0]
        progress = StageProgress(
            self.composition, self.fabric, self.run, self.observers, self.clock, number, name, stage, len(split)
        )
        loader = Loader(
            split,
            stage.batch,
            derive_seed(self.composition.seed, "data", number),
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            # Rows in memory are read faster than a thread could hand them over, unless a device computes meanwhile.
            prefetch=0 if split.in_memory and self.fabric.device.type == "cpu" else 2,
        )
        if start is None:
            progress.event("stage", f"stage {number} '{name}' begins: {stage.steps} steps")
            with self._together():
                stage.prepare(lambda step: self._on_device(loader.batch_at(step)))
            progress.save(healthy=True, final=stage.steps == 0)
        else:
            progress.restore(start)
        ended = start is not None and start.final
        with self.interrupts.deferred():
            while not ended and progress.step < stage.steps:
                ended = self._steps(progress, loader)
        if self.interrupts.requested:  # between the stage's last step and here
            raise KeyboardInterrupt
        with self._together():
            stage.finish()
        progress.event("stage", f"stage {number} '{name}' is done after {progress.step} steps")

    def _steps(self, progress: StageProgress, loader: Loader) -> bool:
        """Step until the stage is over or a rollback changes where it stands; whether it is over."""
        settings, stage = self.settings, progress.stage
        for step, batch in loader.batches(progress.step, stage.steps):
            with self._together():
                progress.window.add(stage.step(self._on_device(batch), step))
            progress.step = step + 1
            last = progress.step == stage.steps
            logs = last or progress.step % settings.log_every == 0
            saves = last or progress.step % settings.checkpoint_every == 0
            asked_alone = self.interrupts.requested and self.fabric.world_size == 1
            verdict, asked = self._log_row(progress) if logs else (None, asked_alone)
            if saves and (verdict is None or verdict.healthy) and not self._weights_finite():
                verdict = self._agree(progress.monitor.judge({"weights": float("nan")}))
            if verdict is not None and verdict.action != "none" and self._act(progress, verdict):
                return verdict.action == "stop"
            if last and verdict is not None and self._ends_ill(verdict):
                progress.leave(f"the stage ended ill ({'; '.join(map(str, verdict.findings))})")
                return True
            if saves:
                progress.save(healthy=self._known_health(verdict, last), final=last)
            if settings.snapshot_every and progress.step % settings.snapshot_every == 0:
                self._draw_snapshot(progress)
            if asked and not last:
                if not saves:
                    progress.save(scheduled=False)
                raise KeyboardInterrupt
        return True

    def _together(self) -> AbstractContextManager[None]:
        """For what all processes do at once. A snapshot, which one of them draws, stays outside."""
        return synchronised(self.model) if self.settings.sync_batch_norm else contextlib.nullcontext()

    def _on_device(self, batch: Batch) -> Batch:
        device = self.fabric.device
        x = batch.x.double() if self.settings.precision == "64-true" else batch.x
        if device.type == "cuda":  # from pinned memory the copy runs beside the computation
            label = None if batch.label is None else batch.label.pin_memory().to(device, non_blocking=True)
            return Batch(x.pin_memory().to(device, non_blocking=True), batch.index.to(device), label)
        return Batch(x, batch.index, batch.label).to(device)

    # -- rows and health ----------------------------------------------------------------------------------------------

    def _log_row(self, progress: StageProgress) -> tuple[Verdict, bool]:
        """Log the means since the last row, and judge them; and whether any process was asked to stop."""
        means, asked = progress.window.take(self.fabric, self.interrupts.requested)
        row = {
            "stage": progress.number,
            "name": progress.name,
            "step": progress.step,
            "time": self.clock.seconds(),
            **means,
        }
        verdict = self._agree(progress.monitor.judge(row))
        if self.fabric.global_rank == 0:
            self.run.append_metrics(row)
            self.observers.log(row)
            if self.composition.health.enabled and not verdict.suspect:
                progress.judge_checkpoints(verdict.healthy)
            if time.monotonic() - progress.status_at > _STATUS_EVERY:
                progress.write_status()
        return verdict, asked

    def _agree(self, verdict: Verdict) -> Verdict:
        """The first process's verdict, in all of them."""
        agreed: Verdict = self.fabric.broadcast(verdict)
        return agreed

    def _act(self, progress: StageProgress, verdict: Verdict) -> bool:
        """Do what the monitor says; whether the stage stands elsewhere now."""
        health, run = self.composition.health, progress.stage.run
        match verdict.action:
            case "warn":
                progress.event("warning", verdict.reason)
            case "cut-lr":
                run.lr_scale *= health.lr_factor
                cut = f"learning rates cut to {run.lr_scale:.3g} of the recipe's"
                progress.event("warning", f"{verdict.reason}; {cut}")
            case "rollback":
                progress.roll_back(verdict.reason)
                return True
            case "stop":
                if not health.stop_is_success:
                    progress.event("stop", verdict.reason)
                    raise DivergenceError(
                        f"stage {progress.number} '{progress.name}' stopped at step {progress.step}: {verdict.reason}. "
                        f"Its last healthy weights are kept; a smaller learning rate or more chain steps usually help"
                    )
                progress.leave(verdict.reason)
                return True
        return False

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

    def _weights_finite(self) -> bool:
        if not self.composition.health.enabled:
            return True
        return bool(torch.stack([parameter.detach().isfinite().all() for parameter in self.model.parameters()]).all())

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _draw_snapshot(self, progress: StageProgress) -> None:
        """Save a picture of samples with the weights as they are; the training does not notice.

        All snapshots of a run use one seed: the same noise is seen becoming better samples.
        """
        if self.fabric.global_rank:
            return
        path = self.run.samples / f"stage{progress.number}-step{progress.step:06d}.png"
        settings, seed = self.composition.sample, derive_seed(self.composition.seed, "snapshot")
        count, device = min(settings.count, _SNAPSHOT_SAMPLES), self.fabric.device
        with randomness.kept_apart(device), frozen(self.model):
            samples = draw_samples(self.model, settings, count, seed=seed, device=device)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_samples(path, samples.x)
        progress.event("sample", path.name)
