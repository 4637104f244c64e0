"""``report.html``: one self-contained page on a run, made from the files of its directory alone."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.runs.directory import RunDirectory, Status
from genfw.runs.files import read_mapping, read_text, write_atomically
from genfw.runs.pages.charts import HEIGHT, WIDTH, make_charts
from genfw.runs.pages.layout import Picture, digits, embed, render, words

__all__ = ["write_report"]

#: Snapshots of training that are shown at most.
_SNAPSHOTS = 12


def write_report(directory: str | Path, out: Path | None = None) -> Path:
    """Write ``report.html`` into a run directory.

    Works on unfinished and failed runs too: what is not there yet is said to be missing. The page loads nothing from
    anywhere; every string from a recipe or plugin is escaped.

    Arguments:
        directory: The run directory.
        out: Where else to write the page.

    Returns:
        The page.

    Raises:
        RunError: It is no run directory.
    """
    run = RunDirectory.open(directory)
    path = run.report if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render("report.html.j2", _facts(run)), durable=False)
    return path


def _facts(run: RunDirectory) -> dict[str, Any]:
    recipe = read_mapping(run.resolved)
    evaluation = read_mapping(run.evaluation)
    records = [one for one in evaluation.get("results") or [] if isinstance(one, Mapping)]
    results = [_result(record) for record in records]
    status = _status(run)
    rows, events = run.read_metrics(), run.read_events()
    environment = read_mapping(run.environment)
    numbers = [one for one in results if one["value"] is not None or one["failed"] or not one["pictured"]]
    return {
        "name": recipe.get("name") or run.path.parent.name,
        "description": recipe.get("description") or "",
        "seed": recipe.get("seed"),
        "smoke": bool(recipe.get("smoke") or evaluation.get("smoke")),
        "paper": _mapping(recipe.get("paper")),
        "status": status,
        "directory": str(run.path),
        "begun": _begun(run.path.name),
        "seconds": _seconds(events, status),
        "parts": _parts(recipe),
        "numbers": numbers,
        "headlines": _headlines(numbers),
        "pictures": _pictures(run.path, records),
        "snapshots": _snapshots(run),
        "stages": _stages(recipe, rows),
        "chart_size": (WIDTH, HEIGHT),
        "events": [_event(event) for event in events],
        "troubles": sum(event.get("kind") in ("warning", "rollback", "stop") for event in events),
        "rows": len(rows),
        "recipe": read_text(run.recipe),
        "resolved": read_text(run.resolved),
        "environment": environment,
        "version": environment.get("genfw", ""),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _status(run: RunDirectory) -> Status:
    """The status, where the last thing a good run does, writing this page, counts as finished."""
    status = run.status()
    if status.state in ("running", "killed") and status.stage == "report":
        return attrs.evolve(status, state="finished")
    return status


def _begun(name: str) -> str:
    try:
        return time.strftime("%d %B %Y, %H:%M", time.strptime(name[:15], "%Y%m%d-%H%M%S")).lstrip("0")
    except ValueError:
        return ""


def _seconds(events: Sequence[Mapping[str, Any]], status: Status) -> float | None:
    times = [float(event["time"]) for event in events if isinstance(event.get("time"), int | float)]
    ends = [*times, *([status.time] if status.time else [])]
    return max(ends) - times[0] if times else None


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    moment = event.get("time")
    clock = time.strftime("%H:%M:%S", time.localtime(moment)) if isinstance(moment, int | float) else ""
    return {
        "clock": clock,
        "kind": str(event.get("kind", "")),
        "message": str(event.get("message", "")),
        "step": event.get("step"),
    }


# -- what the run is --------------------------------------------------------------------------------------------------


def _parts(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The composition in one line per role, such as ``decoder: mlp, sigma 0.2``."""
    parts = []
    for role in ("data", "prior", "decoder", "encoder", "energy", "amortizer", "train", "sample"):
        block = recipe.get(role)
        blocks = block if isinstance(block, list) else [block] if isinstance(block, Mapping) else []
        for number, one in enumerate(blocks):
            if isinstance(one, Mapping):
                label = f"{role} {number + 1}" if len(blocks) > 1 else role
                parts.append((label, _brief(one)))
    return parts


def _brief(block: Mapping[str, Any]) -> str:
    """A block in a few words: its name, and the scalars that say most."""
    words = [str(block["use"])] if "use" in block else []
    for key in ("on", "dim", "sigma", "scale", "steps", "batch", "space", "count"):
        if isinstance(block.get(key), int | float | str) and not isinstance(block.get(key), bool):
            words.append(f"{key} {block[key]}")
    hidden = block.get("hidden")
    if isinstance(hidden, list):
        words.append(f"hidden {' × '.join(str(width) for width in hidden)}")
    for key in ("sampler", "start"):
        words += _inner(key, block.get(key))
    for chain in ("negatives", "posterior"):
        inner = block.get(chain)
        if isinstance(inner, Mapping):
            words += [word for key in ("sampler", "start") for word in _inner(f"{chain} {key}", inner.get(key))]
    return ", ".join(words)


def _inner(label: str, block: Any) -> list[str]:
    blocks = block if isinstance(block, list) else [block]
    names = [str(one["use"]) for one in blocks if isinstance(one, Mapping) and "use" in one]
    return [f"{label} {' + '.join(names)}"] if names else []


# -- numbers ----------------------------------------------------------------------------------------------------------


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    value, error, paper = (_real(record.get(key)) for key in ("value", "error", "paper"))
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
        "pictured": bool(record.get("figures")),
        "protocol": protocol,
        "settings": json.dumps(settings, indent=1) if isinstance(settings, Mapping) else "",
        "seconds": _real(record.get("metric_seconds")),
    }


def _verdict(value: float | None, error: float | None, paper: float | None, better: str) -> tuple[str, str]:
    """How a number stands to the paper's in words, and ``good``, ``bad`` or neither."""
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
    """What is said in large type: numbers that the paper has too, else the first ones."""
    taken = [one for one in results if one["value"] is not None]
    compared = [one for one in taken if one["paper"]]
    return (compared or taken)[:4]


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# -- curves -----------------------------------------------------------------------------------------------------------


def _stages(recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    train = recipe.get("train")
    blocks = train if isinstance(train, list) else []
    numbers = sorted({row["stage"] for row in rows if isinstance(row.get("stage"), int)})
    stages = []
    for number in numbers:
        mine = [row for row in rows if row.get("stage") == number]
        charts, constant = make_charts(mine)
        wanted = _mapping(blocks[number]).get("steps") if number < len(blocks) else None
        stages.append(
            {
                "number": number + 1,
                "name": str(mine[-1].get("name", "")),
                "step": mine[-1].get("step"),
                "steps": wanted,
                "charts": charts,
                "constant": constant,
            }
        )
    return stages


# -- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(root: Path, records: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """The figures that results name, each once, in order; the run's own samples where no metric shows any."""
    pictures: dict[str, Picture] = {}
    for record in records:
        for figure in map(_mapping, record.get("figures") or []):
            path, title, caption = (str(figure.get(key, "")) for key in ("path", "title", "caption"))
            if path not in pictures and (picture := embed(root, path, title, caption)) is not None:
                pictures[path] = picture
    if not any(path.startswith("samples/") for path in pictures):
        caption = "Drawn from the finished model, as the recipe's section 'sample' says."
        if (picture := embed(root, "samples/samples.png", "Samples", caption)) is not None:
            pictures["samples/samples.png"] = picture
    return list(pictures.values())


def _snapshots(run: RunDirectory) -> list[Picture]:
    """Samples drawn during training, evenly thinned."""
    found = sorted(
        run.samples.glob("stage*-step*.png"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]
    )
    if len(found) > _SNAPSHOTS:
        found = [found[round(i * (len(found) - 1) / (_SNAPSHOTS - 1))] for i in range(_SNAPSHOTS)]
    pictures = []
    for path in found:
        stage, step = (int(number) for number in re.findall(r"\d+", path.stem)[:2])
        title = f"stage {stage + 1}, step {step:,}"
        if (picture := embed(run.path, f"samples/{path.name}", title, "")) is not None:
            pictures.append(picture)
    return pictures
