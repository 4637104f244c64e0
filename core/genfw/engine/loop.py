"""The training loop: the stages of a run with their steps, logged rows, checkpoints and snapshots."""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager

import attrs
import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.engine.background import Background
from genfw.engine.interrupts import Interrupts
from genfw.engine.observers import Observers
from genfw.engine.recovery import Clock, StageProgress, set_up_stage
from genfw.errors import ContractError, DataError, DivergenceError
from genfw.evaluation.pictures import save_samples
from genfw.interfaces.values import Batch
from genfw.models.freezing import frozen
from genfw.models.sampling import draw_samples
from genfw.nn.batch_norm import synchronised
from genfw.randomness import derive_seed
from genfw.recipes.compose import Composition
from genfw.recipes.guard import origin_of, watching
from genfw.runs.checkpoints import Checkpoint
from genfw.runs.directory import RunDirectory
from genfw.training.health import Verdict
from genfw.training.loader import Loader

#: Seconds between routine writes of STATUS.
_STATUS_EVERY = 2.0
#: Most samples in a snapshot.
_SNAPSHOT_SAMPLES = 64


class Training:
    """Runs the stages of one run in turn; every process has one.

    Arguments:
        composition: The run's parts; the model is moved to the device.
        fabric: Devices and processes.
        run_dir: The run directory.
        observers: The run's observers; none in workers.
        interrupts: Whether a signal has asked the run to stop.
    """

    def __init__(
        self,
        composition: Composition,
        fabric: Fabric,
        run_dir: RunDirectory,
        observers: Observers,
        interrupts: Interrupts,
    ) -> None:
        self.composition, self.fabric, self.run_dir = composition, fabric, run_dir
        self.observers, self.interrupts = observers, interrupts
        self.settings, self.clock = composition.engine, Clock()
        self.background = Background(fabric.world_size)
        self.model = composition.model.to(fabric.device)
        if self.settings.precision == "64-true":
            self.model.double()

    def train(self, start: Checkpoint | None = None) -> None:
        """Run every remaining stage; the model then has the weights to evaluate.

        Arguments:
            start: Checkpoint to resume from.

        Raises:
            DivergenceError: The monitor stopped the run.
            KeyboardInterrupt: A signal stopped it; the state is saved.
        """
        if self.composition.data is None and self.composition.stages:
            raise ContractError("this recipe trains without data; give it a data: section")
        with self.background.settled():
            for stage_index in range(0 if start is None else start.stage, len(self.composition.stages)):
                self.run_stage(stage_index, start if start is not None and start.stage == stage_index else None)
        self.model.eval()

    def run_stage(self, stage_index: int, start: Checkpoint | None = None) -> None:
        """Run one stage to its end.

        Arguments:
            stage_index: Index of the stage.
            start: Checkpoint of this stage to resume from.
        """
        assert self.composition.data is not None  # train() refuses this
        split = self.composition.data.split("train")
        composition, fabric, rows = self.composition, self.fabric, len(split)
        if not rows:
            raise DataError(f"{origin_of(self.composition.data)}: the split 'train' has no rows")
        stage = set_up_stage(composition, fabric, stage_index, rows)
        name = composition.stages[stage_index][0]
        progress = StageProgress(
            composition,
            fabric,
            self.run_dir,
            self.observers,
            self.clock,
            stage_index,
            name,
            stage,
            rows,
            self.background,
        )
        loader = Loader(
            split,
            stage.batch,
            derive_seed(composition.seed, "data", stage_index),
            rank=fabric.global_rank,
            world=fabric.world_size,
            # For rows in memory a thread is slower than reading them, unless a device computes meanwhile.
            prefetch=0 if split.in_memory and fabric.device.type == "cpu" else 1 + self.settings.readers,
            readers=self.settings.readers,
            pinned=fabric.device.type == "cuda",
        )
        if start is None:
            progress.began = self.clock.seconds()
            progress.event("stage", f"stage {stage_index} '{name}' begins: {stage.steps} steps")
            with self._synchronised():
                stage.prepare(lambda step: self._on_device(loader.batch_at(step)))
            progress.save(healthy=True, final=stage.steps == 0)
        else:
            progress.restore(start)
        ended = start is not None and start.final
        with self.interrupts.deferred():
            while not ended and progress.step < stage.steps:
                ended = self._steps(progress, loader)
        if self.interrupts.requested:  # a signal came after the stage's last step
            raise KeyboardInterrupt
        with self._synchronised():
            stage.finish()
        if not self._weights_finite():
            raise DivergenceError(
                f"stage {stage_index} '{name}' ends with weights that are not finite; take a smaller learning rate, "
                "and leave health.enabled on, which returns to healthy weights"
            )
        progress.event("stage", f"stage {stage_index} '{name}' is done after {progress.step} steps")

    def _steps(self, progress: StageProgress, loader: Loader) -> bool:
        """Step until the stage ends or a rollback moves it to another step; returns whether it has ended."""
        settings, stage = self.settings, progress.stage
        for step, batch in loader.batches(progress.step, stage.steps):
            # A part that makes NaN of first weights is broken; later, and on CUDA, the health monitor judges.
            watches = step == 0 and self.fabric.device.type != "cuda"
            with self._synchronised(), watching() if watches else contextlib.nullcontext():
                progress.means.add(stage.step(self._on_device(batch), step))
            progress.step = step + 1
            last = progress.time_is_up() or progress.step == stage.steps
            logs = last or progress.step % settings.log_every == 0
            saves = last or progress.step % settings.checkpoint_every == 0
            stop_single = self.interrupts.requested and self.fabric.world_size == 1
            verdict, stop = self._log_row(progress) if logs else (None, stop_single)
            watched = self.composition.health.enabled and saves and (verdict is None or verdict.healthy)
            if watched and not self._weights_finite():
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
            if stop and not last:
                if not saves:
                    progress.save(scheduled=False)
                self.background.settle()
                raise KeyboardInterrupt
            if last:  # by its time, before its last step
                break
        return True

    def _synchronised(self) -> AbstractContextManager[None]:
        """For calls that all processes make together. Only one of them draws a snapshot, so that stays outside."""
        return synchronised(self.model) if self.settings.sync_batch_norm else contextlib.nullcontext()

    def _on_device(self, batch: Batch) -> Batch:
        moved = batch.to(self.fabric.device)
        return attrs.evolve(moved, x=moved.x.double()) if self.settings.precision == "64-true" else moved

    # -- rows and health ----------------------------------------------------------------------------------------------

    def _log_row(self, progress: StageProgress) -> tuple[Verdict, bool]:
        """Log and judge the means since the last row; returns the verdict, and whether a signal reached any process."""
        means, stop = progress.means.take(self.fabric, self.interrupts.requested)
        row = {
            "stage": progress.stage_index,
            "name": progress.name,
            "step": progress.step,
            "time": self.clock.seconds(),
            **means,
        }
        verdict = self._agree(progress.monitor.judge(row))
        if self.fabric.global_rank == 0:
            self.run_dir.append_metrics(row)
            self.observers.log(row)
            if self.composition.health.enabled and not verdict.suspect:
                progress.judge_checkpoints(verdict.healthy)
            if time.monotonic() - progress.status_at > _STATUS_EVERY:
                progress.write_status()
        return verdict, stop

    def _agree(self, verdict: Verdict) -> Verdict:
        """The first process's verdict, in all processes."""
        agreed: Verdict = self.fabric.broadcast(verdict)
        return agreed

    def _act(self, progress: StageProgress, verdict: Verdict) -> bool:
        """Carry out a verdict; returns whether the stage has moved to another step."""
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
                    stage = f"stage {progress.stage_index} '{progress.name}'"
                    raise DivergenceError(
                        f"{stage} stopped at step {progress.step}: {verdict.reason}. "
                        f"Its last healthy weights are kept; a smaller learning rate or more chain steps usually help"
                    )
                progress.leave(verdict.reason)
                return True
        return False

    def _known_health(self, verdict: Verdict | None, last: bool) -> bool | None:
        """Health of a checkpoint at its writing: unknown before the next row, except for a stage's last one, or without
        monitoring.
        """
        if not self.composition.health.enabled:
            return True
        return verdict.healthy if last and verdict is not None else None

    def _ends_ill(self, verdict: Verdict) -> bool:
        """Whether the stage must not end with these weights; under ``action: warn`` only if they are not finite."""
        ill = {finding.kind for finding in verdict.findings}
        return "non-finite" in ill or (bool(ill) and self.composition.health.action != "warn")

    def _weights_finite(self) -> bool:
        finite = [parameter.detach().isfinite().all() for parameter in self.model.parameters()]
        return not finite or bool(torch.stack(finite).all())

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _draw_snapshot(self, progress: StageProgress) -> None:
        """Save a picture of samples with the current weights, without effect on the training.

        All snapshots of a run use one seed, so that they show the same noise.
        """
        if self.fabric.global_rank:
            return
        path = self.run_dir.samples / f"stage{progress.stage_index}-step{progress.step:06d}.png"
        settings, seed = self.composition.sample, derive_seed(self.composition.seed, "snapshot")
        count, device = min(settings.count, _SNAPSHOT_SAMPLES), self.fabric.device
        with randomness.isolated_rng(device), frozen(self.model):
            samples = draw_samples(self.model, settings, count, seed=seed, device=device)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_samples(path, samples.x)
        progress.event("sample", path.name)
