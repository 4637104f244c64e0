"""``genfw sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Checkpoint, Root, RunName
from genfw_cli.session import registry_of_run


def command(
    ctx: typer.Context,
    run: RunName,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="How many; the recipe's 'sample.count' by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PATH", help="Folder to write, instead of one in the run's.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed than the recipe's.")] = None,
    checkpoint: Checkpoint = "best",
    root: Root = Path("runs"),
) -> None:
    """Draw samples from a trained model.

    Prints the folder they are in: a picture, and a file of tensors.
    """
    from genfw import engine
    from genfw.runs import find_run

    directory = find_run(run, root)
    registry = registry_of_run(ctx, directory)
    print(engine.sample_run(directory, count=count, seed=seed, out=out, checkpoint=checkpoint, registry=registry))
