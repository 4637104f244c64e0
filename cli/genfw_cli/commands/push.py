"""``genfw push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Root, TrainedName
from genfw_cli.session import find_trained


def command(
    ctx: typer.Context,
    run: TrainedName,
    place: Annotated[str, typer.Argument(metavar="PLACE", help="USER/NAME on the Hugging Face Hub, or local:FOLDER.")],
    licence: Annotated[
        str | None, typer.Option("--licence", metavar="ID", help="Licence of the weights; Apache-2.0 by default.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    root: Root = Path("runs"),
) -> None:
    """Publish a trained model.

    Its weights, resolved recipe, card and pictures go to the Hugging Face Hub (pip install 'genfw[hub]'; log in by 'hf
    auth login'), or to a folder. Prints where they are.
    """
    from genfw.weights.hub import push

    directory, registry = find_trained(ctx, run, root)
    print(push(directory, place, licence=licence, private=private, registry=registry))
