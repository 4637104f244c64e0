"""``genfw resume``."""

from __future__ import annotations

from pathlib import Path

import typer

from genfw_cli.arguments import Json, Root, RunName
from genfw_cli.session import registry_of_run


def command(ctx: typer.Context, run: RunName, root: Root = Path("runs"), as_json: Json = False) -> None:
    """Resume an interrupted run from its newest checkpoint."""
    from genfw.engine import run as engine
    from genfw.runs.directory import find_run
    from genfw_cli.running import drive

    directory = find_run(run, root)
    registry = registry_of_run(ctx, directory)
    drive(engine.resume, as_json, directory, registry=registry)
