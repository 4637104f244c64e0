"""``genfw report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Out, Root
from genfw_cli.output import wrote
from genfw_cli.session import find_directory


def command(
    ctx: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL...",
            help="A run directory, its name, 'latest', or a recipe's name for its latest run; or a saved model. "
            "Several are compared. Or the folder of a sweep.",
            autocompletion=complete.trained,
        ),
    ],
    out: Out = None,
    root: Root = Path("runs"),
) -> None:
    """Write a run's report again, or a page that compares runs.

    Prints the page's path: report.html in the run directory or the sweep, NAME.html in the working directory for a
    saved model, or comparison.html in the folder of runs.
    """
    from genfw.runs.sweep import find_sweep

    if len(runs) == 1 and (sweep := find_sweep(runs[0], root)) is not None:
        from genfw.runs.pages.sweep import write_sweep_report

        wrote(write_sweep_report(sweep, out))
        return
    found = [find_directory(ctx, run, root) for run in runs]
    if len(found) == 1:
        from genfw.runs.directory import RunDirectory
        from genfw.runs.pages.report import write_report

        saved = RunDirectory(found[0]).weights.is_file()
        wrote(write_report(found[0], out or (Path(f"{found[0].name}.html") if saved else None)))
    else:
        from genfw.runs.pages.comparison import write_comparison

        wrote(write_comparison(found, out or root / "comparison.html"))
