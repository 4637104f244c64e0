"""``genfw sample``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Checkpoint, Processes, Root, TrainedName
from genfw_cli.output import wrote
from genfw_cli.session import find_trained


def command(
    ctx: typer.Context,
    run: TrainedName,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="Count of samples; the recipe's 'sample.count' by default."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="Folder to write, instead of one in the run directory."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed than the recipe's.")] = None,
    share: Annotated[
        str, typer.Option("--share", metavar="K/N", help="Draw the K-th of N shares; together they are the whole.")
    ] = "1/1",
    processes: Processes = 1,
    checkpoint: Checkpoint = "best",
    root: Root = Path("runs"),
) -> None:
    """Draw samples from a trained model.

    The model is of a run, or shipped with genfw. Prints the folder of the samples: a picture and a file of tensors.
    """
    from genfw.engine import finished

    part = _share(share)
    directory, registry = find_trained(ctx, run, root)
    folder = finished.sample_run(
        directory,
        count=count,
        seed=seed,
        out=out,
        share=part,
        processes=processes,
        checkpoint=checkpoint,
        registry=registry,
    )
    wrote(folder)


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"a share is written K/N, as in 2/4, with K from 1 to N; got '{text}'")
    return int(found[1]) - 1, int(found[2])
