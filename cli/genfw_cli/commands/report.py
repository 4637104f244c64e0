"""``genfw report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Out, Root


def command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run directory, its name, 'latest', or a recipe's name for its latest run; several are compared. "
            "Or the folder of a sweep.",
            autocompletion=complete.runs,
        ),
    ],
    out: Out = None,
    root: Root = Path("runs"),
) -> None:
    """Write a run's report again, or a page that compares runs.

    Prints the page's path: report.html in the run directory or the sweep, or comparison.html in the folder of runs.
    """
    from genfw.runs.directory import find_run
    from genfw.runs.sweep import find_sweep

    if len(runs) == 1 and (sweep := find_sweep(runs[0], root)) is not None:
        from genfw.runs.pages.sweep import write_sweep_report

        print(write_sweep_report(sweep, out))
        return
    found = [find_run(run, root) for run in runs]
    if len(found) == 1:
        from genfw.runs.pages.report import write_report

        print(write_report(found[0], out))
    else:
        from genfw.runs.pages.comparison import write_comparison

        print(write_comparison(found, out or root / "comparison.html"))
