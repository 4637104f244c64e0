"""``genfw runs``."""

from __future__ import annotations

from pathlib import Path

from genfw_cli.arguments import Json, Root
from genfw_cli.output import number, show_json, table


def command(root: Root = Path("runs"), as_json: Json = False) -> None:
    """List the runs: how far each came, and its numbers."""
    from genfw.rundir import list_runs

    found = list_runs(root)
    if as_json:
        show_json(found)
        return
    table(
        ["run", "recipe", "status", "stage", "step", "when", "numbers"],
        [
            (
                run.path.as_posix(),
                run.name,
                run.status,
                str(run.stage),
                str(run.step),
                str(run.time),
                "  ".join(f"{name} {number(value)}" for name, value in run.numbers.items()),
            )
            for run in found
        ],
        empty=f"there are no runs in {root}; 'genfw run quickstart' makes one",
    )
