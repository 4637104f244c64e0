"""TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from genfw.interfaces.tracker import RunInfo, Tracker

__all__ = ["TensorBoard"]


class TensorBoard(Tracker):
    """Scalars while a run goes, its pictures at the end, for ``tensorboard --logdir runs``.

    Steps are counted over all stages together, so that stages follow one another on the axis.

    Arguments:
        folder: Where to write, below the run directory.
        images: Add the pictures of ``samples/`` and ``figures/`` when the run ends.
    """

    def __init__(self, folder: str = "tensorboard", images: bool = True) -> None:
        self.folder, self.images = folder, images
        self._writer: SummaryWriter | None = None
        self._directory = Path()
        self._offsets: list[int] = []
        self._step = 0

    def start(self, run: RunInfo) -> None:
        """See :meth:`Tracker.start`."""
        steps = [count for _, count in run.stages]
        self._offsets = [sum(steps[:number]) for number in range(len(steps))]
        self._directory = run.directory
        purge = None
        if run.resumed_at is not None:
            stage, step = run.resumed_at
            purge = (self._offsets[stage] if stage < len(steps) else sum(steps)) + step
        self._writer = SummaryWriter(str(run.directory / self.folder), purge_step=purge)

    def log(self, row: Mapping[str, Any]) -> None:
        """See :meth:`Tracker.log`."""
        if self._writer is None:
            return
        stage = int(row["stage"])
        self._step = (self._offsets[stage] if stage < len(self._offsets) else 0) + int(row["step"])
        for key, value in row.items():
            if key in ("stage", "step") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                self._writer.add_scalar(f"{row['name']}/{key}", value, self._step)

    def event(self, kind: str, message: str) -> None:
        """See :meth:`Tracker.event`."""
        if self._writer is not None:
            self._writer.add_text(f"events/{kind}", message, self._step)

    def end(self, status: str) -> None:
        """See :meth:`Tracker.end`."""
        if self._writer is None:
            return
        if self.images:
            for folder in ("samples", "figures"):
                for path in sorted((self._directory / folder).glob("*.png")):
                    picture = (imread(path)[..., :3] * 255).astype(np.uint8)
                    self._writer.add_image(f"{folder}/{path.stem}", picture, self._step, dataformats="HWC")
        self._writer.add_text("status", status, self._step)
        self._writer.close()
        self._writer = None
