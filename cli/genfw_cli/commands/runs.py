"""``genfw runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genfw_cli.arguments import Json, Root
from genfw_cli.output import Alarm, number, show_json, table

if TYPE_CHECKING:
    from genfw.runs.directory import RunRecord

#: Most numbers in a line, in the recipe's order.
_NUMBERS = 3


def command(root: Root = Path("runs"), as_json: Json = False) -> None:
    """List the runs with their progress and numbers."""
    from genfw.runs.directory import list_runs

    found = list_runs(root)
    if as_json:
        show_json(found)
        return
    table(
        ["run", "status", "at", "numbers"],
        [
            (
                _short(run.path, root),
                _state(run),
                f"{run.stage} {run.step}" if run.stage else "",
                _numbers(run),
            )
            for run in found
        ],
        empty=f"there are no runs in {root}; 'genfw run quickstart' makes one",
    )


def _state(run: RunRecord) -> str:
    """The run's state, and what is wrong with its numbers."""
    count = len(run.failed)
    said = [run.status, *(["smoke"] if run.smoke else []), *([f"{count} failed"] if count else []), *run.problems[:1]]
    return Alarm(", ".join(said)) if count or run.problems or run.status == "failed" else ", ".join(said)


def _numbers(run: RunRecord) -> str:
    """The first numbers; those that a reader should not rely on have a question mark."""
    return ", ".join(
        f"{name} {'failed' if name in run.failed else number(value)}{' ?' if name in run.doubtful else ''}"
        for name, value in list(run.numbers.items())[:_NUMBERS]
    )


def _short(path: Path, root: Path) -> str:
    """The path below ``root``, by which commands find the run."""
    above = root.absolute()
    return str(path.relative_to(above) if path.is_relative_to(above) else path)
