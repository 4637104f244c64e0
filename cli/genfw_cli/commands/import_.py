"""``genfw import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Json, Out
from genfw_cli.output import note, show_json, table, wrote
from genfw_cli.session import registry_of


def command(
    ctx: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="Kind of the file, such as vaebm-energy; without it, the command lists all kinds.",
            autocompletion=complete.importers,
        ),
    ] = None,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A checkpoint that torch.save wrote.")] = None,
    out: Out = None,
    pick: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Take this network where the file holds several of one kind, such as 'ema'; may be given again.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into safetensors and a card.

    It reads only tensors, plain containers and an argument record, and skips dates, paths, optimisers and random
    states. Nothing in the file is executed. The stage {use: load, file: FILE} loads the weights in a run, and
    genfw.weights.load.load_into(model, FILE) loads them into a model.
    """
    registry = registry_of(ctx)
    if kind is None:
        if as_json:
            show_json(registry.importers)
            return
        rows = [
            (importer.name, importer.summary, importer.reference, f"{importer.provider} {importer.version}".strip())
            for importer in registry.importers
        ]
        table(["kind", "what it is", "published at", "from"], rows, empty="no plugin offers an importer")
        return
    importers = registry.find_importers(kind)
    if file is None:
        raise typer.BadParameter(f"name the file to import as '{kind}'", param_hint="FILE")
    from genfw.weights.importing import import_checkpoint

    done = import_checkpoint(importers, file, out, pick or ())
    if as_json:
        show_json(done)
        return
    wrote(done.weights)
    content = done.content
    note(f"{content['tensors']} tensors, {content['parameters']:,} numbers; card: {done.card}")
    if content["unused"]:
        note(f"{len(content['unused'])} tensors of the file are not used; the card names them")
