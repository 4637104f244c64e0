"""Weights & Biases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from genfw import RunInfo, Tracker
from genfw_plugins.trackers._steps import Steps

#: The axis that everything is drawn over.
_STEP = "genfw/step"
#: File in the folder ``wandb`` that holds the number of the last row, for a resumed run.
_ROWS = "genfw-rows.txt"


@attrs.define(kw_only=True, eq=False, slots=False)
class WeightsAndBiases(Tracker):
    """Scalars, events and pictures for Weights & Biases.

    Offline unless told otherwise: files are written below the run directory, and ``wandb sync`` sends them when a
    person wants that. A resumed run goes on under the same id.

    Steps are on an axis of their own, ``genfw/step``: W&B's own count of rows can't go back, and would refuse the rows
    that follow a rollback. Nor can rows be taken back. A rewind is logged as a row of ``genfw/step`` alone: a row
    belongs to the run unless a later one has a smaller ``genfw/step``.

    Arguments:
        project: Project's name.
        mode: ``offline`` writes files alone; ``online`` sends as the run goes, for which ``wandb login`` is needed.
        entity: User or team, online; the login's where absent.
        images: Add the pictures of ``samples/`` and ``figures/`` when the run ends.
    """

    project: str = "genfw"
    mode: Literal["offline", "online"] = "offline"
    entity: str | None = None
    images: bool = True
    _run: Any = attrs.field(default=None, init=False)
    _directory: Path = attrs.field(factory=Path, init=False)
    _steps: Steps | None = attrs.field(default=None, init=False)
    _row: int = attrs.field(default=-1, init=False)

    def start(self, run: RunInfo) -> None:
        import wandb

        self._directory, self._steps = run.directory, Steps(run)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=run.name,
            # A run directory's name holds its time and hash: the same id when it goes on.
            id=hashlib.sha256(run.directory.name.encode()).hexdigest()[:16],
            resume="allow",
            dir=str(run.directory),
            mode=self.mode,
            config=dict(run.recipe),
            # No copy of what is printed, and nothing printed.
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        if run.resumed_at is not None:
            # Online W&B knows the last row; offline nobody does but us.
            self._row = max(_last_row(run.directory), int(self._run.step) - 1)

    def log(self, row: Mapping[str, Any]) -> None:
        if self._run is not None and self._steps is not None:
            self._log(self._steps.read(row), self._steps.last)

    def event(self, kind: str, message: str) -> None:
        """See :meth:`Tracker.event`; warnings, rollbacks and stops are kept in the summary."""
        if self._run is not None and self._steps is not None and kind in ("warning", "rollback", "stop"):
            self._run.summary[f"events/{kind}"] = f"step {self._steps.last}: {message}"

    def rewind(self, stage: int, step: int) -> None:
        """See :meth:`Tracker.rewind`; the rewind is a row without scalars."""
        if self._run is not None and self._steps is not None:
            self._log({}, self._steps.rewind(stage, step))

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        # W&B's own number of a row only rises; it is the step for as long as there is no rewind.
        self._row = max(self._row + 1, step)
        self._run.log({**values, _STEP: step}, step=self._row)
        (self._directory / "wandb" / _ROWS).write_text(f"{self._row}\n", encoding="utf-8")

    def end(self, status: str) -> None:
        if self._run is None or self._steps is None:
            return
        if self.images:
            import wandb

            pictures = {
                f"{folder}/{path.stem}": wandb.Image(str(path))
                for folder in ("samples", "figures")
                for path in sorted((self._directory / folder).glob("*.png"))
            }
            if pictures:
                self._log(pictures, self._steps.last + 1)
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)
        self._run = None


def _last_row(directory: Path) -> int:
    try:
        return int((directory / "wandb" / _ROWS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return -1
