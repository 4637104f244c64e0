"""What every tracker makes of a row: one count of steps over all stages, and the scalars that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genfw.plugins.hookspecs import RunInfo


class Steps:
    """Counts steps over all stages together, so that stages follow one another on the axis.

    Arguments:
        run: The run.
    """

    def __init__(self, run: RunInfo) -> None:
        steps = [count for _, count in run.stages]
        self._offsets = [sum(steps[:number]) for number in range(len(steps))]
        #: The step that a resumed run goes on from; ``None`` for a fresh one.
        self.resumed: int | None = None
        if run.resumed_at is not None:
            stage, step = run.resumed_at
            self.resumed = (self._offsets[stage] if stage < len(steps) else sum(steps)) + step
        #: The last row's step, or the one that a rewind has led to.
        self.last = self.resumed or 0

    def rewind(self, stage: int, step: int) -> int:
        """Stand at an earlier step; its count over all stages is given back."""
        self.last = (self._offsets[stage] if stage < len(self._offsets) else 0) + step
        return self.last

    def read(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Finite scalars of a row as ``stage/name``; its step is then :attr:`last`."""
        stage = int(row["stage"])
        self.last = (self._offsets[stage] if stage < len(self._offsets) else 0) + int(row["step"])
        found = {}
        for key, value in row.items():
            if key in ("stage", "step") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                found[f"{row['name']}/{key}"] = float(value)
        return found
