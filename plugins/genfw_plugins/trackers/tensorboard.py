"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.image import imread
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
        self._writer = SummaryWriter(str(run.directory / self.folder), purge_step=self._steps.resumed)

    def log(self, row: Mapping[str, Any]) -> None:
        if self._writer is not None and self._steps is not None:
            for name, value in self._steps.read(row).items():
                self._writer.add_scalar(name, value, self._steps.last)

    def event(self, kind: str, message: str) -> None:
        if self._writer is not None and self._steps is not None:
            self._writer.add_text(f"events/{kind}", message, self._steps.last)

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
