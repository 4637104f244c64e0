"""What ``run`` and ``resume`` share: the display, the interruption, the last lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from genfw_cli.output import lines, note, number, show_json

if TYPE_CHECKING:
    from genfw.engine import RunResult
    from genfw.interfaces.tracker import Tracker

__all__ = ["drive"]


def drive(start: Callable[[Tracker], RunResult], as_json: bool) -> None:
    """Run ``start`` under a display, print how it ended, and leave with the exit code that says so.

    Arguments:
        start: Trains, given the display as a tracker.
        as_json: Print JSON instead of lines.
    """
    from genfw_cli.progress import progress

    display = progress()
    try:
        result = start(display)
    except KeyboardInterrupt:
        _say_resume(display.directory)
        raise typer.Exit(130) from None
    finally:
        display.end("")
    report = result.directory / "report.html"
    if as_json:
        show_json(
            {
                "run": result.directory,
                "status": result.status,
                "results": result.results,
                "report": report if report.exists() else None,
            }
        )
    else:
        lines(f"{item.name}\t{number(item.value, item.error)} {item.unit}".rstrip() for item in result.results)
        lines([f"run\t{result.directory}", *([f"report\t{report}"] if report.exists() else [])])
    if result.status == "interrupted":
        _say_resume(result.directory)
        raise typer.Exit(130)
    if result.status != "finished":
        note(f"error: the run {result.status}; its reason is in {result.directory / 'STATUS'}")
        raise typer.Exit(1)


def _say_resume(directory: Path | None) -> None:
    note("interrupted" if directory is None else f"interrupted; go on with: genfw resume {directory}")
