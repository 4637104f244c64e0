"""Measure a finished model: each number with the protocol it was taken under, the paper's value beside it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import torch
from torch import Tensor

import genfw
from genfw.checkpoint import write_atomically
from genfw.describe import describe
from genfw.errors import ContractError, LostProcessError
from genfw.freeze import frozen
from genfw.hands import Draw, Hands, describe_failure
from genfw.interfaces.dataset import Dataset, Split
from genfw.interfaces.metric import Figure, Metric, Result
from genfw.model import Model
from genfw.plots import Canvas, save_figure, save_samples
from genfw.randomness import kept_apart
from genfw.rundir import RunDirectory
from genfw.sampling import Samples, count_batches, join_batches
from genfw.seeding import derive_seed
from genfw.settings import SampleSettings
from genfw.types import Batch

if TYPE_CHECKING:
    from genfw.compose import Composition

__all__ = ["Evaluation", "Pairs", "describe", "evaluate", "measure", "prepare"]

T = TypeVar("T")

#: Begins what the note of a number says of an attempt to take it again.
_FAILED = "A later attempt failed: "


@attrs.frozen(eq=False)
class Pairs:
    r"""Data, and what a metric has made of each.

    Arguments:
        x: Data, with shape :math:`(N, *)`.
        made: Reconstructions or inversions, with the same shape.
        protocol: How they were made.
    """

    x: Tensor
    made: Tensor
    protocol: Mapping[str, Any]


class Evaluation:
    """What a metric may use: the model, the data, samples that all metrics share, generators, a place for figures.

    Arguments:
        model: The model; held in eval mode with frozen parameters while metrics run.
        data: The data set, or ``None``.
        settings: How the model is sampled from.
        directory: The run directory; figures are written below it.
        device: Where the model's weights are.
        seed: Source of all randomness.
        smoke: Whether this is a smoke run, whose numbers mean nothing.
        paper: The recipe's ``paper:`` section.
        recipe: The resolved recipe as plain dicts and lists, where there is one; it says in full what objects say in
            part.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset | None = None,
        settings: SampleSettings | None = None,
        directory: Path | str = ".",
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        smoke: bool = False,
        paper: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.data = model, data
        self.settings = SampleSettings() if settings is None else settings
        self.directory = Path(directory)
        self.device = torch.device(device)
        self.seed, self.smoke = seed, smoke
        self.paper: Mapping[str, Any] = paper or {}
        self.recipe: Mapping[str, Any] = recipe or {}
        #: The processes that sampling and :meth:`spread` deal their work out to; this one alone, unless given others.
        self.hands = Hands()
        #: Data and what a metric has made of them, under its name, for metrics after it that compare the two otherwise.
        self.pairs: dict[str, Pairs] = {}
        self._samples: dict[int, Samples] = {}

    def samples(self, count: int | None = None) -> Samples:
        """Draw from the model as its recipe says; asked for the same count again, the same samples.

        With several processes each draws its share, with the weights that the evaluation began with.

        Arguments:
            count: Samples; the recipe's ``sample.count`` where absent.
        """
        count = self.settings.count if count is None else count
        if count not in self._samples:
            began = time.perf_counter()
            batches = list(self.sample_batches(count))
            self._samples[count] = join_batches(batches, time.perf_counter() - began)
        return self._samples[count]

    def sample_batches(
        self, count: int, *, seed: int | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Samples]:
        """The samples of :meth:`samples` batch by batch, with no more than one batch of each process in memory.

        Arguments:
            count: Samples in all.
            seed: Source of all randomness; the one that all metrics share where absent.
            share: Number ``k`` and count ``n`` of shares: batches ``k``, ``k + n``, ... are drawn.
        """
        seed = derive_seed(self.seed, "evaluate") if seed is None else seed
        numbers = range(share[0], count_batches(self.settings, count), share[1])
        yield from self.hands.deal(self, [Draw(count, number, seed) for number in numbers])

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """Call a metric's method for every task, dealt out over the processes of the evaluation.

        In a further process ``self`` is the metric as the recipe describes it, and the first argument that process's
        own evaluation. What the method gives must depend on its task alone, whichever tasks came before: it takes its
        randomness from a generator named after the task, puts back the state of chains
        (:func:`~genfw.sampling.preserved`) and writes no files.

        Arguments:
            method: Bound method of a metric, called with an evaluation and a task's arguments. It gives numbers and
                tensors on the CPU.
            tasks: Arguments of each call: numbers, names, tensors on the CPU.

        Returns:
            What each call gave, in the order of the tasks.
        """
        return self.hands.spread(self, method, tasks)

    def rows(self, split: str = "test", count: int | None = None) -> Batch:
        """Rows of the data set without augmentation, on the CPU.

        Arguments:
            split: ``train``, ``test``, ...
            count: Rows; all where absent or larger than the split, else a random subset that depends on ``count`` and
                the split alone, so that runs with other seeds are measured on the same rows.

        Raises:
            ContractError: The recipe has no data set.
        """
        rows, index = self.row_numbers(split, count)
        x, label = rows.get(index)
        # A run in double precision sets the default type for its length.
        return Batch(x.to(torch.get_default_dtype()), index, label)

    def row_numbers(self, split: str = "test", count: int | None = None) -> tuple[Split, Tensor]:
        """The split that :meth:`rows` reads, and the numbers of the rows it takes, for those who read bit by bit."""
        if self.data is None:
            raise ContractError("this metric compares with data, and the recipe has no 'data:' section")
        rows = self.data.split(split)
        index = torch.arange(len(rows))
        if count is not None and count < len(rows):
            generator = torch.Generator().manual_seed(derive_seed(0, "rows", split, count))
            index = torch.randperm(len(rows), generator=generator)[:count].sort().values
        return rows, index

    def generator(self, name: str) -> torch.Generator:
        """A fresh generator on the model's device; the same name gives the same stream."""
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, "evaluate", name))

    def protocol(self, *, samples: int | None = None, **extra: Any) -> dict[str, Any]:
        """What would change a number, as JSON scalars.

        Arguments:
            samples: Samples of :meth:`samples` that went into it; how they were drawn is then part of the protocol.
            extra: The metric's own settings and counts.
        """
        facts: dict[str, Any] = {}
        if samples is not None:
            facts |= {"samples": samples, **self._sampling()}
        facts |= extra
        if self.data is not None:
            facts["data"] = describe(self.recipe.get("data") or self.data)
        facts |= {"seed": self.seed, "device": str(self.device)}
        facts |= {"genfw": genfw.__version__, "torch": str(torch.__version__)}
        if self.smoke:
            facts["smoke"] = True
        return {key: value for key, value in facts.items() if value is not None}

    def _sampling(self) -> dict[str, Any]:
        settings = self.settings
        written = self.recipe.get("sample") or {}
        facts: dict[str, Any] = {"space": settings.space, "sampler": "none"}
        if settings.sampler is not None:
            facts["sampler"] = describe(written.get("sampler") or settings.sampler)
            facts["chain_steps"] = settings.sampler.steps
        starts = written.get("start") or settings.starts
        starts = starts if isinstance(starts, list) else [starts]
        facts["start"] = ", ".join(describe(start) for start in starts) or "fresh draws of the base"
        facts["decoder"] = "mean" if settings.mean else "sample"
        facts["temperature"] = settings.temperature
        facts["sample_batch"] = settings.batch
        return facts

    def expected(self, name: str) -> float | None:
        """The paper's value of a result, from the recipe's ``paper.expect``; ``None`` where it gives none."""
        expect = self.paper.get("expect")
        value = expect.get(name) if isinstance(expect, Mapping) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def figure(
        self,
        name: str,
        title: str,
        caption: str,
        draw: Callable[[Canvas], None],
        *,
        size: tuple[float, float] = (6.4, 3.6),
    ) -> Figure:
        """Draw a picture into the run directory.

        Arguments:
            name: File name without ending; letters, digits, ``-`` and ``_``.
            title: Heading in the report.
            caption: What is seen, with units and value range.
            draw: Fills an empty matplotlib figure.
            size: Width and height in inches.
        """
        path = f"figures/{_checked(name)}.png"
        save_figure(self.directory / path, draw, size=size)
        return Figure(path, title, caption)

    def picture(
        self,
        name: str,
        title: str,
        caption: str,
        x: torch.Tensor,
        *,
        columns: int | None = None,
        folder: str = "figures",
    ) -> Figure:
        """Write data as a grid (images) or scatter (vectors); arguments as for :meth:`figure`."""
        path = f"{_checked(folder)}/{_checked(name)}.png"
        save_samples(self.directory / path, x, columns=columns, title=title)
        return Figure(path, title, caption)


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ContractError(f"a figure's name is made of letters, digits, '-' and '_', got '{name}'")
    return name


def prepare(composition: Composition, directory: Path | str) -> Evaluation:
    """What the metrics of a run are given.

    Arguments:
        composition: The run; its model's weights are those to be measured.
        directory: The run directory.
    """
    parameter = next(composition.model.parameters(), None)
    return Evaluation(
        composition.model,
        composition.data,
        composition.sample,
        directory,
        device="cpu" if parameter is None else parameter.device,
        seed=composition.seed,
        smoke=composition.smoke,
        paper=composition.paper,
        recipe=composition.resolved.plain(),
    )


def evaluate(composition: Composition, directory: Path | str, *, only: Sequence[str] = ()) -> list[Result]:
    """Measure a composed and trained model with its recipe's metrics and write ``evaluation.json``.

    Arguments:
        composition: See :func:`prepare`.
        directory: The run directory.
        only: Names of metrics; all where empty. Results of the others stay as an earlier evaluation left them, and so
            do those of a metric that now fails.

    Returns:
        The results that were taken now.

    Raises:
        ContractError: ``only`` names a metric that the recipe does not have.
    """
    return measure(prepare(composition, directory), composition.metrics, only=only)


def measure(evaluation: Evaluation, metrics: Sequence[tuple[str, Metric]], *, only: Sequence[str] = ()) -> list[Result]:
    """Take metrics one after the other; a failure is recorded with its reason, and the others go on.

    Arguments:
        evaluation: What they measure.
        metrics: ``(name, metric)`` pairs.
        only: See :func:`evaluate`.
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
        taken, failed = _take(evaluation, name, metric)
        seconds = time.perf_counter() - began
        results.extend(taken)
        records.extend(_record(evaluation, name, result, failed, seconds, block) for result in taken)
    path = RunDirectory(evaluation.directory).evaluation
    if only:
        records = _merge(path, records, only)
    content = {"format": 1, "smoke": evaluation.smoke, "paper": dict(evaluation.paper), "results": records}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")
    return results


def _take(evaluation: Evaluation, name: str, metric: Metric) -> tuple[list[Result], bool]:
    try:
        with frozen(evaluation.model), kept_apart(evaluation.device):
            return [_finite(result) for result in metric.compute(evaluation)], False
    except LostProcessError:
        raise  # not this metric's failure, and no other could be taken
    except Exception as error:
        return [Result(name, None, protocol=evaluation.protocol(), note=describe_failure(error))], True


def _finite(result: Result) -> Result:
    """A value or error that is not a finite number becomes ``None`` with a note: JSON has no infinities."""
    if result.value is not None and not math.isfinite(result.value):
        note = f"{result.note} The value is {result.value}.".strip()
        result = attrs.evolve(result, value=None, error=None, note=note)
    if result.error is not None and not math.isfinite(result.error):
        result = attrs.evolve(result, error=None)
    return result


def _record(
    evaluation: Evaluation, metric: str, result: Result, failed: bool, seconds: float, block: Mapping[str, Any] | None
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
        "failed": failed,
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
    """Put new records beside those of an earlier evaluation; a failed attempt leaves the numbers there were."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))["results"]
    except (OSError, ValueError, KeyError):
        return records
    stood = {record["metric"] for record in earlier if record.get("metric") in only and not record.get("failed")}
    failed = {record["metric"]: record["note"] for record in records if record["failed"] and record["metric"] in stood}
    kept = [record for record in earlier if record.get("metric") not in only or record.get("metric") in failed]
    for record in kept:
        if record.get("metric") in failed:
            said = (record.get("note") or "").split(_FAILED)[0].rstrip()
            record["note"] = f"{said} {_FAILED}{failed[record['metric']]}".strip()
    return kept + [record for record in records if record["metric"] not in failed]
