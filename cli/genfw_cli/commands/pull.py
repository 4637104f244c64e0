"""``genfw pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Out
from genfw_cli.output import wrote


def command(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="USER/NAME on the Hugging Face Hub, or local:FOLDER.")],
    out: Out = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit of the Hub.")
    ] = None,
) -> None:
    """Fetch a published model. genfw sample, genfw report and genfw.load take the folder.

    Prints the folder: NAME in the working directory, or that of --out. Nothing in it is executed, now or later: only
    safetensors and YAML are read.
    """
    from genfw.weights.hub import LOCAL, pull

    usual = Path(place.removeprefix(LOCAL).rstrip("/").rpartition("/")[2])
    wrote(pull(place, out or usual, revision=revision))
