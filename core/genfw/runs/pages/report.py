"""``report.html``: a self-contained page on a run, made only from the files of its directory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.runs.directory import RunDirectory, Status
from genfw.runs.files import read_mapping, read_records, read_text, real, without_home, write_atomically
from genfw.runs.pages.charts import HEIGHT, WIDTH, make_charts
from genfw.runs.pages.layout import Picture, digits, embed, parts_of, render, words

#: Most snapshots of training on a page.
_SNAPSHOTS = 12


def write_report(directory: str | Path, out: Path | None = None) -> Path:
    """Write ``report.html`` into a run directory.

    Works for unfinished and failed runs too; the page says what is missing. It loads nothing from the network, and
    every string from a recipe or plugin is escaped.

    Arguments:
        directory: The run directory.
        out: Another path for the page.

    Returns:
        The page.

    Raises:
        RunError: It is no run directory.
    """
    run_dir = RunDirectory.open(directory)
    path = run_dir.report if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, report_text(run_dir), durable=False)
    return path


def report_text(run_dir: RunDirectory, *, stamp: str | None = None) -> str:
    """The page's text.

    Arguments:
        run_dir: The run directory.
        stamp: On a board, what changes when the run's files do; see :mod:`genfw.runs.pages.board`.
    """
    return without_home(render("report.html.j2", _facts(run_dir) | {"stamp": stamp}))


def _facts(run_dir: RunDirectory) -> dict[str, Any]:
    recipe = read_mapping(run_dir.resolved)
    evaluation = read_mapping(run_dir.evaluation)
    records = read_records(evaluation.get("results"))
    results = [_result(record) for record in records]
    status = _status(run_dir)
    rows, events = run_dir.read_metrics(), run_dir.read_events()
    environment = read_mapping(run_dir.environment)
    numbers = [r for r in results if r["value"] is not None or r["failed"] or not r["pictured"]]
    return {
        "name": recipe.get("name") or run_dir.path.parent.name,
        "description": recipe.get("description") or "",
        "seed": recipe.get("seed"),
        "smoke": bool(recipe.get("smoke") or evaluation.get("smoke")),
        "problems": [str(problem) for problem in evaluation.get("problems") or ()],
        "paper": _mapping(recipe.get("paper")),
        "status": status,
        "directory": str(run_dir.path),
        "begun": _begun(run_dir.path.name),
        "seconds": _seconds(events, status),
        "parts": parts_of(recipe),
        "numbers": numbers,
        "headlines": _headlines(numbers),
        "pictures": _pictures(run_dir.path, records),
        "snapshots": _snapshots(run_dir),
        "stages": _stages(recipe, rows),
        "chart_size": (WIDTH, HEIGHT),
        "events": [_event(event) for event in events],
        "troubles": sum(event.get("kind") in ("warning", "rollback", "stop") for event in events),
        "rows": len(rows),
        "recipe": read_text(run_dir.recipe),
        "resolved": read_text(run_dir.resolved),
        "environment": environment,
        "version": environment.get("genfw", ""),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _status(run_dir: RunDirectory) -> Status:
    """The status; ``finished`` during the last act of a good run, writing this page."""
    status = run_dir.status()
    if status.state in ("running", "killed") and status.stage == "report":
        return attrs.evolve(status, state="finished")
    return status


def _begun(name: str) -> str:
    try:
        return time.strftime("%d %B %Y, %H:%M", time.strptime(name[:15], "%Y%m%d-%H%M%S")).lstrip("0")
    except ValueError:
        return ""


def _seconds(events: Sequence[Mapping[str, Any]], status: Status) -> float | None:
    times = [moment for event in events if (moment := _moment(event)) is not None]
    ends = [*times, *([status.time] if status.time else [])]
    return max(ends) - times[0] if times else None


def _moment(event: Mapping[str, Any]) -> float | None:
    """When it was, in seconds since 1970; anybody may have written the file."""
    moment = real(event.get("time"))
    return moment if moment is not None and 0 <= moment < 1e11 else None


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    moment = _moment(event)
    clock = "" if moment is None else time.strftime("%H:%M:%S", time.localtime(moment))
    return {
        "clock": clock,
        "kind": str(event.get("kind", "")),
        "message": str(event.get("message", "")),
        "step": event.get("step"),
    }


# -- numbers ----------------------------------------------------------------------------------------------------------


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    value, error, paper = (real(record.get(key)) for key in ("value", "error", "paper"))
    verdict, good = _verdict(value, error, paper, str(record.get("better", "")))
    protocol = [(str(key), words(item)) for key, item in _mapping(record.get("protocol")).items()]
    settings = record.get("settings")
    return {
        "name": str(record.get("name", "")),
        "metric": str(record.get("metric", "")),
        "value": value,
        "text": digits(value, error),
        "error": "" if error is None else digits(error, error),
        "unit": str(record.get("unit", "")),
        "paper": "" if paper is None else digits(paper),
        "verdict": verdict,
        "good": good,
        "note": str(record.get("note", "")),
        "failed": bool(record.get("failed")),
        "doubt": str(record.get("doubt") or ""),
        "pictured": bool(record.get("figures")),
        "protocol": protocol,
        "settings": json.dumps(settings, indent=1) if isinstance(settings, Mapping) else "",
        "seconds": real(record.get("metric_seconds")),
    }


def _verdict(value: float | None, error: float | None, paper: float | None, better: str) -> tuple[str, str]:
    """A number compared with the paper's, in words, and ``good``, ``bad`` or neither."""
    if value is None or paper is None:
        return "", ""
    difference = value - paper
    if error is not None and abs(difference) <= 2.0 * error:
        return "equal within 2 standard errors", ""
    amount = digits(abs(difference), error or max(abs(paper), 1e-12) * 1e-3)
    if better not in ("higher", "lower"):
        return f"differs by {amount}", ""
    good = (difference > 0) == (better == "higher")
    return f"{amount} {'better' if good else 'worse'}", "good" if good else "bad"


def _headlines(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers for large type: those that the paper has too, else the first ones."""
    taken = [result for result in results if result["value"] is not None]
    compared = [result for result in taken if result["paper"]]
    return (compared or taken)[:4]


# -- curves -----------------------------------------------------------------------------------------------------------


def _stages(recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    train = recipe.get("train")
    blocks = train if isinstance(train, list) else []
    indices = sorted({row["stage"] for row in rows if isinstance(row.get("stage"), int)})
    stages = []
    for index in indices:
        mine = [row for row in rows if row.get("stage") == index]
        charts, constant = make_charts(mine)
        wanted = _mapping(blocks[index]).get("steps") if index < len(blocks) else None
        stages.append(
            {
                "number": index + 1,
                "name": str(mine[-1].get("name", "")),
                "step": mine[-1].get("step"),
                "steps": wanted,
                "charts": charts,
                "constant": constant,
                "rows": len(mine),
            }
        )
    return stages


# -- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(root: Path, records: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """The figures that results name, each once, in order; the run's own samples where no metric shows any."""
    pictures: dict[str, Picture] = {}
    for record in records:
        for figure in read_records(record.get("figures")):
            path, title, caption = (str(figure.get(key, "")) for key in ("path", "title", "caption"))
            if path not in pictures and (picture := embed(root, path, title, caption)) is not None:
                pictures[path] = picture
    if not any(path.startswith("samples/") for path in pictures):
        caption = "Drawn from the finished model, as the recipe's section 'sample' says."
        if (picture := embed(root, "samples/samples.png", "Samples", caption)) is not None:
            pictures["samples/samples.png"] = picture
    return list(pictures.values())


def _snapshots(run_dir: RunDirectory) -> list[Picture]:
    """Samples drawn during training, evenly thinned."""
    found = sorted(
        run_dir.samples.glob("stage*-step*.png"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]
    )
    if len(found) > _SNAPSHOTS:
        found = [found[round(i * (len(found) - 1) / (_SNAPSHOTS - 1))] for i in range(_SNAPSHOTS)]
    pictures = []
    for path in found:
        stage, step = (int(digits) for digits in re.findall(r"\d+", path.stem)[:2])
        title = f"stage {stage + 1}, step {step:,}"
        if (picture := embed(run_dir.path, f"samples/{path.name}", title, "")) is not None:
            pictures.append(picture)
    return pictures
