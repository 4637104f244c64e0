"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.image import imread
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

from genfw import RunInfo, Tracker
from genfw_plugins.trackers._steps import Steps


@attrs.define(kw_only=True, eq=False, slots=False)
class TensorBoard(Tracker):
    """Scalars while a run goes, its pictures at the end, for ``tensorboard --logdir runs``.

    Steps are counted over all stages together, so that stages follow one another on the axis.

    Arguments:
        folder: Where to write, below the run directory.
        images: Add the pictures of ``samples/`` and ``figures/`` when the run ends.
    """

    folder: str = "tensorboard"
    images: bool = True
    _writer: SummaryWriter | None = attrs.field(default=None, init=False)
    _directory: Path = attrs.field(factory=Path, init=False)
    _steps: Steps | None = attrs.field(default=None, init=False)

    def start(self, run: RunInfo) -> None:
        self._directory, self._steps = run.directory, Steps(run)
        self._writer = SummaryWriter(str(run.directory / self.folder))
        if self._steps.resumed is not None:
            self._purge(self._steps.resumed)

    def log(self, row: Mapping[str, Any]) -> None:
        if self._writer is not None and self._steps is not None:
            for name, value in self._steps.read(row).items():
                self._writer.add_scalar(name, value, self._steps.last)

    def event(self, kind: str, message: str) -> None:
        if self._writer is not None and self._steps is not None:
            self._writer.add_text(f"events/{kind}", message, self._steps.last)

    def rewind(self, stage: int, step: int) -> None:
        """See :meth:`Tracker.rewind`; TensorBoard then shows the rows up to that step, and those that follow."""
        if self._writer is not None and self._steps is not None:
            self._purge(self._steps.rewind(stage, step))

    def _purge(self, after: int) -> None:
        """Write the mark of a session's start, at which TensorBoard forgets what was logged from its step on."""
        assert self._writer is not None
        writer: Any = self._writer.file_writer  # torch's types say None
        for event in (
            Event(step=after + 1, file_version="brain.Event:2"),
            Event(step=after + 1, session_log=SessionLog(status=SessionLog.START)),
        ):
            writer.add_event(event)

    def end(self, status: str) -> None:
        if self._writer is None or self._steps is None:
            return
        if self.images:
            for folder in ("samples", "figures"):
                for path in sorted((self._directory / folder).glob("*.png")):
                    picture = (imread(path)[..., :3] * 255).astype(np.uint8)
                    self._writer.add_image(f"{folder}/{path.stem}", picture, self._steps.last, dataformats="HWC")
        self._writer.add_text("status", status, self._steps.last)
        self._writer.close()
        self._writer = None
