"""A self-contained page on a sweep: its runs, its numbers over seeds, learning curves with bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genfw import __version__
from genfw.runs.directory import RunDirectory
from genfw.runs.files import write_atomically
from genfw.runs.pages.charts import HEIGHT, WIDTH, make_band_charts
from genfw.runs.pages.compare import badge
from genfw.runs.pages.layout import digits, render
from genfw.runs.pages.seeds import Mean, SeedComparison, SeedRow, compare_sweeps
from genfw.runs.sweep import Sweep


def write_sweep_report(path: Path | str, out: Path | None = None) -> Path:
    """Write a page about a sweep.

    Arguments:
        path: The sweep's folder.
        out: The page; ``report.html`` in that folder by default.

    Returns:
        The page.

    Raises:
        RunError: ``path`` is no sweep.
    """
    sweep = Sweep.open(path)
    comparison = compare_sweeps([sweep.path])
    page = sweep.path / "report.html" if out is None else out
    page.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "title": sweep.path.name,
        "path": sweep.path,
        "runs": sweep.rows(),
        "smoke": any(run.smoke for run in comparison.comparison.runs),
        "groups": comparison.groups,
        "rows": [_row(row, comparison) for row in comparison.rows],
        "stages": _stages(comparison),
        "chart_size": (WIDTH, HEIGHT),
        "version": __version__,
    }
    write_atomically(page, render("sweep.html.j2", facts), durable=False)
    return page


def _row(row: SeedRow, comparison: SeedComparison) -> dict[str, Any]:
    parted = len({mean.letter for mean in row.means if mean.letter}) > 1
    return {
        "name": row.name,
        "unit": row.unit,
        "better": row.better,
        "reason": row.reason,
        "papers": row.papers,
        "cells": [
            [_cell(mean, parted) for mean in row.means if mean.group == index]
            for index in range(len(comparison.groups))
        ],
    }


def _cell(mean: Mean, parted: bool) -> dict[str, Any]:
    return {
        "text": digits(mean.mean, mean.deviation),
        "deviation": "" if mean.deviation is None else digits(mean.deviation, mean.deviation),
        "count": mean.count,
        "rank": mean.rank,
        "badge": badge(mean.letter if parted else "", mean.rank, mean.tied),
        "note": mean.note,
    }


def _stages(comparison: SeedComparison) -> list[dict[str, Any]]:
    """The charts of each stage, by its index and name."""
    rows = [RunDirectory(run.path).read_metrics() for run in comparison.comparison.runs]
    stages = sorted({(row["stage"], str(row.get("name", ""))) for mine in rows for row in mine if "stage" in row})
    return [
        {
            "number": index + 1,
            "name": name,
            "charts": make_band_charts(
                {
                    group.label: [
                        [row for row in rows[run] if row.get("stage") == index and row.get("name") == name]
                        for run in group.runs
                    ]
                    for group in comparison.groups
                }
            ),
        }
        for index, name in stages
    ]
