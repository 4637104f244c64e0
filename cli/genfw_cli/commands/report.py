"""``genfw report``."""

from __future__ import annotations

from pathlib import Path

from genfw_cli.arguments import Root, RunName


def command(run: RunName, root: Root = Path("runs")) -> None:
    """Write a run's report anew, from its files alone.

    Prints the page's path.
    """
    from genfw.report import write_report
    from genfw.runs import find_run

    print(write_report(find_run(run, root)))
