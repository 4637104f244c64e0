"""``genfw run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Json, RecipeName, Root, Sets, Unsets
from genfw_cli.output import note
from genfw_cli.session import open_recipe


def command(
    ctx: typer.Context,
    recipe: RecipeName,
    sets: Sets = None,
    unsets: Unsets = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of every part, on synthetic data if the data are absent.")
    ] = False,
    root: Root = Path("runs"),
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="PATH", help="The run directory, instead of a new one under --root."),
    ] = None,
    go_on: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --dir where there is one, for jobs that are started again."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train, sample, evaluate and report, as a recipe says.

    Creates a run directory under --root; prints it at the end with the numbers and the report.
    """
    read, registry = open_recipe(ctx, recipe, sets, unsets)  # before torch: a text that is not YAML needs none of it
    from genfw.engine import run as engine
    from genfw_cli.running import drive

    for text in read.notes:
        note(f"note: {text}")
    drive(engine.run, as_json, read, root=root, smoke=smoke, registry=registry, directory=directory, go_on=go_on)
