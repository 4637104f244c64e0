"""The interface of a run's observers."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from genfw.plugins.hookspecs import RunInfo


class Tracker(abc.ABC):
    """Observer of a run (a progress display, TensorBoard, ...); only the first process has any.

    A subclass guarantees that it never changes the run: it draws no random numbers and changes no weights. After an
    exception, which is reported once, the tracker is dropped.
    """

    @abc.abstractmethod
    def log(self, row: Mapping[str, Any]) -> None:
        """One row of ``metrics.jsonl``: ``stage``, ``name``, ``step``, ``time`` and the stage's scalars."""

    def start(self, run: RunInfo) -> None:
        """The run starts or resumes."""

    def event(self, kind: str, message: str) -> None:
        """Something worth a line: ``stage``, ``checkpoint``, ``warning``, ``rollback``, ``sample``, ``evaluate``."""

    def rewind(self, stage: int, step: int) -> None:
        """The run goes on from an earlier state: rows after this step are given up, and other rows take their place.

        Told after a rollback, when a stage ends with an earlier state, and when a run is resumed.

        Arguments:
            stage: Number of the stage that the state is of.
            step: Its step; the row of this step, where there is one, remains.
        """

    def end(self, status: str) -> None:
        """The run is over: ``finished``, ``interrupted``, ``failed``."""
