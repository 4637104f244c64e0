"""``genfw runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genfw_cli.arguments import Json, Root
from genfw_cli.output import Alarm, number, show_json, table

if TYPE_CHECKING:
    from genfw.runs.directory import RunRecord

#: Most numbers beside the headline, in the recipe's order.
_NUMBERS = 2


def command(root: Root = Path("runs"), as_json: Json = False) -> None:
    """List the runs with their progress and numbers.

    The headline is a number that the paper has too, else the FID, else the first one.
    """
    from genfw.runs.directory import list_runs

    found = list_runs(root)
    if as_json:
        show_json(found)
        return
    table(
        ["run", "status", "at", "headline", "other numbers"],
        [
            (
                _short(run.path, root),
                _state(run),
                f"{run.stage} {run.step}" if run.stage else "",
                _numbers(run, [run.headline] if run.headline else []),
                _numbers(run, [name for name in run.numbers if name != run.headline]),
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


def _numbers(run: RunRecord, names: list[str]) -> str:
    """The first of some numbers, without pictures; a question mark is behind those a reader should not rely on."""
    taken = [name for name in names if name in run.failed or run.numbers[name] is not None]
    return ", ".join(
        f"{name} {'failed' if name in run.failed else number(run.numbers[name])}{' ?' if name in run.doubtful else ''}"
        for name in taken[:_NUMBERS]
    )


def _short(path: Path, root: Path) -> str:
    """The path below ``root``, by which commands find the run."""
    above = root.absolute()
    return str(path.relative_to(above) if path.is_relative_to(above) else path)
