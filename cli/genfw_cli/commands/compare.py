"""``genfw compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Json, Root
from genfw_cli.output import heading, note, number, show_json, table
from genfw_cli.session import find_directory

if TYPE_CHECKING:
    from genfw.runs.pages.compare import Comparison, Row
    from genfw.runs.pages.seeds import SeedComparison, SeedRow


def command(
    ctx: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL...",
            help="Run directories, their names, 'latest', or recipes' names for their latest runs; saved models; or "
            "folders of sweeps, whose runs are taken together over their seeds.",
            autocompletion=complete.trained,
        ),
    ],
    across: Annotated[
        list[str] | None,
        typer.Option(
            "--across", metavar="KEY", help="Rank over runs that differ in this part of the protocol; repeatable."
        ),
    ] = None,
    root: Root = Path("runs"),
    as_json: Json = False,
) -> None:
    """Put runs side by side, and the papers' numbers.

    Only numbers whose protocols agree are ranked, and share a letter. Differences between protocols are listed. Of a
    sweep you see mean, standard deviation and count over its seeds; a rank with = is shared, the difference being
    within the noise.
    """
    from genfw.runs.pages.compare import compare_runs
    from genfw.runs.sweep import find_sweep

    found = {name: find_sweep(name, root) for name in runs}
    sweeps = [path for path in found.values() if path is not None]
    if sweeps:
        from genfw.runs.pages.seeds import compare_sweeps

        alone = [find_directory(ctx, name, root) for name, path in found.items() if path is None]
        seeds = compare_sweeps(sweeps, alone, across=across or ())
        if as_json:
            show_json(seeds)
        else:
            _print_seeds(seeds)
        return
    comparison = compare_runs([find_directory(ctx, run, root) for run in runs], across=across or ())
    if as_json:
        show_json(comparison)
    else:
        _print(comparison)


def _print(comparison: Comparison) -> None:
    from genfw.runs.pages.compare import badge

    rows = []
    for row in comparison.rows:
        parted = len({result.group for result in row.numbers if result.group}) > 1
        for result in sorted(row.numbers, key=lambda result: (result.group or "~", result.rank or 0)):
            rank = badge(result.group if parted else "", result.rank, result.tied)
            remark = result.note if result.value is None or comparison.runs[result.run].smoke else ""
            label = comparison.runs[result.run].label
            rows.append((row.name, label, number(result.value, result.error), row.unit, rank, remark))
        rows += [
            (row.name, paper.source, number(paper.value), row.unit, "", "the paper's; its protocol is not recorded")
            for paper in row.papers
        ]
    table(
        ["result", "run", "value", "unit", "rank", ""],
        rows,
        empty="none of these runs has been evaluated; 'genfw evaluate RUN' does it",
    )
    _print_missing(comparison)
    _print_reasons(comparison.rows)


def _print_seeds(seeds: SeedComparison) -> None:
    from genfw.runs.pages.compare import badge

    rows = []
    for row in seeds.rows:
        parted = len({mean.letter for mean in row.means if mean.letter}) > 1
        for mean in sorted(row.means, key=lambda mean: (mean.letter or "~", mean.rank or 0)):
            rows.append(
                (
                    row.name,
                    seeds.groups[mean.group].label,
                    number(mean.mean, mean.deviation),
                    str(mean.count),
                    row.unit,
                    badge(mean.letter if parted else "", mean.rank, mean.tied),
                    mean.note,
                )
            )
    table(["result", "setting", "mean ± deviation", "runs", "unit", "rank", ""], rows, empty="no run is evaluated yet")
    _print_missing(seeds.comparison)
    _print_reasons(seeds.rows)


def _print_missing(comparison: Comparison) -> None:
    measured = {each.run for row in comparison.rows for each in row.numbers}
    for index, run in enumerate(comparison.runs):
        if comparison.rows and index not in measured:
            note(f"{run.label} has no numbers; 'genfw evaluate' takes them")


def _print_reasons(rows: Sequence[Row] | Sequence[SeedRow]) -> None:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            reasons.setdefault(row.reason, []).append(row.name)
    if reasons:
        heading("Not ranked together")
        table(["results", "why"], [(", ".join(names), reason) for reason, names in reasons.items()])
