"""``genfw runs``."""

from __future__ import annotations

from pathlib import Path

from genfw_cli.arguments import Json, Root
from genfw_cli.output import number, show_json, table

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
                run.status,
                f"{run.stage} {run.step}" if run.stage else "",
                ", ".join(f"{name} {number(value)}" for name, value in list(run.numbers.items())[:_NUMBERS]),
            )
            for run in found
        ],
        empty=f"there are no runs in {root}; 'genfw run quickstart' makes one",
    )


def _short(path: Path, root: Path) -> str:
    """The path below ``root``, by which commands find the run."""
    above = root.absolute()
    return str(path.relative_to(above) if path.is_relative_to(above) else path)
