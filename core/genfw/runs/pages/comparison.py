"""A self-contained page on several runs: their numbers side by side, differences of protocols, samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genfw import __version__
from genfw.runs.directory import PICTURES
from genfw.runs.files import write_atomically
from genfw.runs.pages.compare import Comparison, Number, Row, badge, compare_runs
from genfw.runs.pages.layout import digits, embed, render


def write_comparison(directories: Sequence[Path | str], out: Path, *, across: Sequence[str] = ()) -> Path:
    """Write a page that puts runs side by side.

    Arguments:
        directories: Run directories.
        out: The page.
        across: See :func:`~genfw.runs.pages.compare.compare_runs`.

    Returns:
        The page.

    Raises:
        RunError: See :func:`~genfw.runs.pages.compare.compare_runs`.
    """
    comparison = compare_runs(directories, across=across)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render("comparison.html.j2", _facts(comparison)), durable=False)
    return out


def _facts(comparison: Comparison) -> dict[str, Any]:
    runs = comparison.runs
    pictured = []
    for run in runs:
        picture = next(filter(None, (embed(run.path, path) for path in PICTURES)), None)
        if picture is not None:
            pictured.append({"label": run.label, "picture": picture})
    return {
        "title": " · ".join(dict.fromkeys(run.name for run in runs)),
        "runs": runs,
        "smoke": any(run.smoke for run in runs),
        "rows": [_row(row, len(runs)) for row in comparison.rows],
        "differing": _differing(comparison),
        "across": comparison.across,
        "pictured": pictured,
        "version": __version__,
    }


def _differing(comparison: Comparison) -> list[dict[str, Any]]:
    """The tables of differences; results with the same differences share one."""
    tables: dict[str, dict[str, Any]] = {}
    for row in comparison.rows:
        if row.differences:
            labels = [comparison.runs[number.run].label for number in row.numbers]
            table = tables.setdefault(repr((labels, row.differences)), {"labels": labels, "names": []})
            table["differences"] = row.differences
            table["names"].append(row.name)
    return list(tables.values())


def _row(row: Row, runs: int) -> dict[str, Any]:
    parted = len({number.group for number in row.numbers if number.group}) > 1
    return {
        "name": row.name,
        "unit": row.unit,
        "better": row.better,
        "bars": [difference.key.replace("_", " ") for difference in row.differences if difference.bars],
        "papers": row.papers,
        "cells": [[_cell(n, parted) for n in row.numbers if n.run == run] for run in range(runs)],
    }


def _cell(number: Number, parted: bool) -> dict[str, Any]:
    return {
        "value": number.value,
        "text": digits(number.value, number.error),
        "error": "" if number.error is None else digits(number.error, number.error),
        "rank": number.rank,
        "badge": badge(number.group if parted else "", number.rank, number.tied),
        "note": number.note,
    }
