"""Shared by ``run`` and ``resume``: the display, interrupts, the final output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from genfw_cli.output import lines, measured, note, remark, show_json, table, tell_problems

if TYPE_CHECKING:
    from genfw.engine.result import RunResult


def drive(start: Callable[..., RunResult], as_json: bool, *arguments: Any, **more: Any) -> None:
    """Call ``start`` with a display, print the outcome, and exit with its exit code.

    Arguments:
        start: Trains; the display is among its ``trackers``.
        as_json: Print JSON instead of lines.
        arguments: Arguments of ``start``.
        more: Keyword arguments of ``start``.
    """
    from genfw.runs.directory import RunDirectory
    from genfw_cli.progress import progress

    display = progress()
    try:
        result = start(*arguments, trackers=[display], **more)
    except KeyboardInterrupt:
        display.end("")
        note(
            "interrupted" if display.directory is None else f"interrupted; go on with: genfw resume {display.directory}"
        )
        raise typer.Exit(130) from None
    except Exception:
        display.end("")
        if display.directory is not None:
            note(f"the run failed; what it has so far is in {display.directory}")
        raise
    report = RunDirectory(result.directory).report
    if as_json:
        show_json(
            {
                "run": result.directory,
                "status": result.status,
                "results": result.results,
                "problems": result.problems,
                "smoke": result.smoke,
                "report": report if report.exists() else None,
            }
        )
    else:
        # The report explains each number; this says only why one is missing or doubtful.
        table(["result", "value", ""], [(item.name, measured(item), remark(item)) for item in result.results])
        # Outside of the table, which would wrap a long path.
        lines([f"run\t{result.directory}", *([f"report\t{report}"] if report.exists() else [])])
    if code := tell_problems(result.results, result.problems, smoke=result.smoke):
        raise typer.Exit(code)
