"""``genfw evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Checkpoint, Json, Processes, Root, RunName, Sets
from genfw_cli.output import measured, show_json, table, tell_problems
from genfw_cli.session import registry_of_run


def command(
    ctx: typer.Context,
    run: RunName,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="METRIC", help="Only this metric; repeatable.")
    ] = None,
    sets: Sets = None,
    processes: Processes = 1,
    checkpoint: Checkpoint = "best",
    root: Root = Path("runs"),
    as_json: Json = False,
) -> None:
    """Measure a trained model again.

    Takes the metrics of its recipe, or with --set evaluate.0.count=500 others.
    """
    from genfw.engine import finished
    from genfw.runs.directory import find_run

    directory = find_run(run, root)
    registry = registry_of_run(ctx, directory)
    results = finished.evaluate_run(
        directory, only=only or (), processes=processes, checkpoint=checkpoint, registry=registry, sets=sets or ()
    )
    if as_json:
        show_json(results)
    else:
        table(
            ["metric", "value", "unit", "note"],
            [(result.name, measured(result), result.unit, result.note or result.doubt) for result in results],
            empty="the recipe has no metrics under 'evaluate:'",
        )
    if code := tell_problems(results):
        raise typer.Exit(code)
