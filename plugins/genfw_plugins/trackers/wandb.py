"""Weights & Biases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from genfw import RunInfo, Tracker
from genfw_plugins.trackers._steps import Steps


@attrs.define(kw_only=True, eq=False, slots=False)
class WeightsAndBiases(Tracker):
    """Scalars, events and pictures for Weights & Biases.

    Offline unless told otherwise: files are written below the run directory, and ``wandb sync`` sends them when a
    person wants that. A resumed run goes on under the same id.

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

    def log(self, row: Mapping[str, Any]) -> None:
        if self._run is not None and self._steps is not None:
            scalars = self._steps.read(row)
            self._run.log(scalars, step=self._steps.last)

    def event(self, kind: str, message: str) -> None:
        """See :meth:`Tracker.event`; warnings, rollbacks and stops are kept in the summary."""
        if self._run is not None and self._steps is not None and kind in ("warning", "rollback", "stop"):
            self._run.summary[f"events/{kind}"] = f"step {self._steps.last}: {message}"

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
                self._run.log(pictures, step=self._steps.last + 1)
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)
        self._run = None
