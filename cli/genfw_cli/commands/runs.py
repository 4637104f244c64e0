"""``genfw runs``."""

from __future__ import annotations

from pathlib import Path

from genfw_cli.arguments import Json, Root
from genfw_cli.output import number, show_json, table

#: Numbers in a line: the first that the recipe asks for.
_NUMBERS = 3


def command(root: Root = Path("runs"), as_json: Json = False) -> None:
    """List the runs: how far each came, and its numbers."""
    from genfw.rundir import list_runs

    found = list_runs(root)
    if as_json:
        show_json(found)
        return
    table(
        ["run", "status", "stage", "step", "numbers"],
        [
            (
                _short(run.path),
                run.status,
                run.stage,
                str(run.step),
                "  ".join(f"{name} {number(value)}" for name, value in list(run.numbers.items())[:_NUMBERS]),
            )
            for run in found
        ],
        empty=f"there are no runs in {root}; 'genfw run quickstart' makes one",
    )


def _short(path: Path) -> str:
    """The path from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
