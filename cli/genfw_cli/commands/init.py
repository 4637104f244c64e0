"""``genfw init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli import complete
from genfw_cli.output import note, wrote
from genfw_cli.session import registry_of


def command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recipe to write, such as mine.yaml.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RECIPE",
            help="A recipe to begin with: a path, or a shipped recipe's name.",
            autocompletion=complete.recipes,
        ),
    ] = "quickstart",
) -> None:
    """Write a recipe to start from.

    It begins as a copy of another. A schema beside it lets editors complete and check it.
    """
    from genfw.recipes.starter import new_recipe

    path = new_recipe(file, source, registry_of(ctx))
    wrote(path)
    note(f"next: genfw check {path}; genfw run {path} --smoke; genfw run {path}")
