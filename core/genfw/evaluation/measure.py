"""Measure a trained model, each number with its protocol and the paper's value; write its samples."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from genfw.errors import ContractError, LostProcessError, RunError, is_disk_fault
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.metric import Metric
from genfw.evaluation.pictures import is_image, save_samples
from genfw.evaluation.results import Result, describe_failure
from genfw.models.freezing import frozen
from genfw.models.sampling import count_batches, join_batches
from genfw.randomness import isolated_rng
from genfw.runs.directory import RunDirectory
from genfw.runs.files import read_mapping, read_records, write_atomically
from genfw.runs.tensors import save_tensors

#: Most images in a picture of samples.
_SHOWN = 1024
#: Begins the part of a number's note about a failed attempt to measure it again.
_FAILED = "A later attempt failed: "


def measure(evaluation: Evaluation, metrics: Sequence[tuple[str, Metric]], *, only: Sequence[str] = ()) -> list[Result]:
    """Compute metrics one after the other; a failure is recorded with its reason, and the others go on.

    Arguments:
        evaluation: What they measure.
        metrics: ``(name, metric)`` pairs.
        only: Names of metrics; all where empty. Earlier results of the others stay, and those of a metric that fails.

    Returns:
        The new results; ``evaluation.json`` has all.

    Raises:
        ContractError: ``only`` names a metric that the recipe does not have.
    """
    names = [name for name, _ in metrics]
    if unknown := [name for name in only if name not in names]:
        raise ContractError(
            f"the recipe does not evaluate {', '.join(unknown)}; it has {', '.join(names) or 'no metrics'}"
        )
    results: list[Result] = []
    records: list[dict[str, Any]] = []
    blocks = evaluation.recipe.get("evaluate") or [None] * len(metrics)
    for (name, metric), block in zip(metrics, blocks, strict=True):
        if only and name not in only:
            continue
        began = time.perf_counter()
        evaluation.label = name.partition("@")[2]
        taken = _take(evaluation, name, metric)
        seconds = time.perf_counter() - began
        results.extend(taken)
        records.extend(_record(evaluation, name, result, seconds, block) for result in taken)
    path = RunDirectory(evaluation.directory).evaluation
    if only:
        records = _merge(path, records, only)
    _write(path, {"format": 1, "smoke": evaluation.smoke, "paper": dict(evaluation.paper), "results": records})
    return results


def add_problem(directory: Path, problem: str) -> None:
    """Note in ``evaluation.json`` what an evaluation lacks besides the numbers of metrics that failed.

    Arguments:
        directory: The run directory.
        problem: A sentence.
    """
    path = RunDirectory(directory).evaluation
    content = dict(read_mapping(path))
    _write(path, {**content, "problems": [*(content.get("problems") or ()), problem]})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")


def write_samples(
    evaluation: Evaluation, folder: Path, *, count: int | None = None, seed: int, share: tuple[int, int] = (0, 1)
) -> None:
    """Draw from the model and write the samples; see :func:`~genfw.engine.finished.sample_run`.

    Arguments:
        evaluation: The trained model, and the workers.
        folder: Folder of the files.
        count: Count of samples; the recipe's count by default.
        seed: Source of all randomness.
        share: See :func:`~genfw.engine.finished.sample_run`.

    Raises:
        RunError: The share is empty.
    """
    settings, (index, shares) = evaluation.settings, share
    count = count or settings.count
    if index >= (most := count_batches(settings, count)):
        raise RunError(
            f"share {index + 1} of {shares} is empty: {count} samples in batches of {settings.batch} make "
            f"{most} shares at most; take fewer, or set a smaller sample.batch"
        )
    own = torch.cat(torch.arange(count).split(settings.batch)[index::shares])
    drawn = join_batches(evaluation.sample_batches(count, seed=seed, share=share), len(own), folder)
    tensors = {"x": drawn.x, "position": drawn.position, "potential": drawn.potential}
    stem = "samples"
    if shares > 1:
        stem = f"samples-{index + 1}of{shares}"
        tensors["index"] = own
    save_tensors(folder / f"{stem}.safetensors", tensors)
    save_samples(folder / f"{stem}.png", drawn.x[:_SHOWN] if is_image(tuple(drawn.x.shape[1:])) else drawn.x)


def _take(evaluation: Evaluation, name: str, metric: Metric) -> list[Result]:
    try:
        with frozen(evaluation.model), isolated_rng(evaluation.device):
            taken = [_finite(result) for result in metric.compute(evaluation)]
            if evaluation.label:
                taken = [attrs.evolve(result, name=f"{result.name}@{evaluation.label}") for result in taken]
            return taken
    except LostProcessError:
        raise  # not this metric's failure, and the other metrics would fail too
    except Exception as error:
        if is_disk_fault(error):
            raise  # the run can be resumed when there is room, and then measures this too
        return [Result(name, None, protocol=evaluation.protocol(), note=describe_failure(error), failed=True)]


def _finite(result: Result) -> Result:
    """Replace a non-finite value or error by ``None`` with a note: JSON has no infinities, and NaN is no number."""
    if result.value is not None and not math.isfinite(result.value):
        said = f"The value is {result.value}."
        result = attrs.evolve(
            result,
            value=None,
            error=None,
            note=f"{result.note} {said}".strip(),
            doubt=result.doubt or said,
            failed=math.isnan(result.value),
        )
    if result.error is not None and not math.isfinite(result.error):
        result = attrs.evolve(result, error=None)
    return result


def _record(
    evaluation: Evaluation, metric: str, result: Result, seconds: float, block: Mapping[str, Any] | None
) -> dict[str, Any]:
    expected = evaluation.expected(result.name)
    both = expected is not None and result.value is not None
    return {
        "name": result.name,
        "metric": metric,
        "value": result.value,
        "error": result.error,
        "unit": result.unit,
        "better": result.better,
        "paper": expected,
        "difference": result.value - expected if both else None,  # type: ignore[operator]
        "note": result.note,
        "failed": result.failed,
        "doubt": result.doubt,
        "protocol": {key: _scalar(value) for key, value in result.protocol.items()},
        "settings": block,
        "figures": [attrs.asdict(figure) for figure in result.figures],
        "metric_seconds": round(seconds, 3),
    }


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


def _merge(path: Path, records: list[dict[str, Any]], only: Sequence[str]) -> list[dict[str, Any]]:
    """Merge new records with those of an earlier evaluation; earlier numbers survive a failed attempt."""
    earlier = [dict(record) for record in read_records(read_mapping(path).get("results"))]
    valid = {str(record["metric"]) for record in earlier if record.get("metric") in only and not record.get("failed")}
    failed = {record["metric"]: record["note"] for record in records if record["failed"] and record["metric"] in valid}
    result = [record for record in earlier if record.get("metric") not in only or record.get("metric") in failed]
    for record in result:
        if record.get("metric") in failed:
            note = str(record.get("note") or "").split(_FAILED)[0].rstrip()
            record["note"] = f"{note} {_FAILED}{failed[record['metric']]}".strip()
    return result + [record for record in records if record["metric"] not in failed]
