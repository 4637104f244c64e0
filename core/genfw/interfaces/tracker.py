"""Who is told how a run goes."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

__all__ = ["RunInfo", "Tracker"]


@attrs.frozen
class RunInfo:
    """What a tracker learns when a run begins or goes on.

    Arguments:
        name: The recipe's name.
        directory: The run directory.
        recipe: The resolved recipe, as plain dicts and lists.
        stages: ``(name, steps)`` of each stage.
        resumed_at: ``(stage, step)`` that a resumed run goes on from, or ``None``.
    """

    name: str
    directory: Path
    recipe: Mapping[str, Any]
    stages: tuple[tuple[str, int], ...]
    resumed_at: tuple[int, int] | None = None


class Tracker(abc.ABC):
    """Observer of a run (a progress display, TensorBoard, ...); only the first process has any.

    A subclass guarantees that it never changes the run: it draws no randomness and touches no weights. An exception
    from it is reported once, and the tracker is dropped.
    """

    @abc.abstractmethod
    def log(self, row: Mapping[str, Any]) -> None:
        """One row of ``metrics.jsonl``: ``stage``, ``name``, ``step``, ``time`` and the stage's scalars."""

    def start(self, run: RunInfo) -> None:
        """The run begins."""

    def event(self, kind: str, message: str) -> None:
        """Something worth a line: ``stage``, ``checkpoint``, ``warning``, ``rollback``, ``sample``, ``evaluate``."""

    def end(self, status: str) -> None:
        """The run is over: ``finished``, ``interrupted``, ``failed``."""
