"""``genfw export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Checkpoint, Out, Root, RunName
from genfw_cli.output import wrote
from genfw_cli.session import registry_of_run


def command(
    ctx: typer.Context,
    run: RunName,
    out: Out = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The model's name; the recipe's by default.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", metavar="ID", help="Licence of the weights.")] = "Apache-2.0",
    checkpoint: Checkpoint = "best",
    half: Annotated[
        bool, typer.Option("--half", help="Round the weights to float16: half the bytes, not the same to the bit.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="PART", help="Leave out a part that only training needed, as 'encoder'."),
    ] = None,
    root: Root = Path("runs"),
) -> None:
    """Save a run's trained model as a folder that stands alone.

    It holds the weights that sampling needs, the resolved recipe, a card with the run's numbers, and what its report is
    made from. Prints the folder: NAME in the working directory, or that of --out. genfw sample, genfw report and
    genfw.load take it.
    """
    from genfw.runs.directory import find_run
    from genfw.weights.saved import export_run

    directory = find_run(run, root)
    registry = registry_of_run(ctx, directory)
    usual = Path(name or registry_name(directory))
    written = export_run(
        directory,
        out or usual,
        name=name,
        licence=licence,
        checkpoint=checkpoint,
        half=half,
        without=without or (),
        registry=registry,
    )
    wrote(written)


def registry_name(directory: Path) -> str:
    """The name of a run's recipe."""
    from genfw.runs.directory import RunDirectory
    from genfw.runs.files import read_mapping

    return str(read_mapping(RunDirectory.open(directory).resolved).get("name") or directory.name)
