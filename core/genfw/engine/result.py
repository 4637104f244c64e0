"""What a run leaves to its caller: its directory, its numbers, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.evaluation.results import Figure, Result
from genfw.runs.directory import PICTURES, RunDirectory
from genfw.runs.files import read_mapping, read_records
from genfw.runs.pages.layout import digits
from genfw.runs.pages.notebook import Plot, curves_of, html_table, plot_curves


@attrs.frozen(repr=False)
class RunResult:
    """The outcome of a run.

    Arguments:
        directory: The run directory.
        status: ``finished``; other outcomes raise exceptions.
        results: The results of its metrics.
        problems: What its evaluation lacks besides the numbers of metrics that failed.
        smoke: Whether it is a smoke run, whose numbers mean nothing.
    """

    directory: Path
    status: str
    results: tuple[Result, ...]
    problems: tuple[str, ...] = ()
    smoke: bool = False

    def curves(self) -> dict[str, list[Any]]:
        """The logged rows as columns, for ``pandas.DataFrame``; see :func:`genfw.runs.pages.notebook.curves_of`."""
        return curves_of(RunDirectory(self.directory).read_metrics())

    def plot(self, *names: str) -> Plot:
        """Curves over the steps, one panel each.

        Arguments:
            names: Scalars to draw; by default the first six that change.
        """
        return plot_curves(self.curves(), names)

    def _facts(self) -> list[tuple[str, str]]:
        return [
            (item.name, f"{digits(item.value, item.error)} {item.unit}".strip())
            for item in self.results
            if item.value is not None
        ]

    def __repr__(self) -> str:
        numbers = "".join(f"; {name}: {value}" for name, value in self._facts())
        return f"RunResult({self.status}, {self.directory}{numbers})"

    def _repr_html_(self) -> str:
        pictures = [self.directory / name for name in PICTURES]
        picture = next((path.read_bytes() for path in pictures if path.is_file()), b"")
        return html_table(f"{self.status}: {self.directory}", self._facts(), picture=picture)


def finished(run_dir: RunDirectory, results: Sequence[Result] | None = None) -> RunResult:
    """The outcome of a run that is finished.

    Arguments:
        run_dir: The run directory.
        results: Its results, where they are at hand; they are read otherwise.
    """
    results = tuple(_read_results(run_dir) if results is None else results)
    evaluation = read_mapping(run_dir.evaluation)
    problems = evaluation.get("problems")
    told = tuple(str(problem) for problem in problems) if isinstance(problems, list) else ()
    return RunResult(run_dir.path, "finished", results, told, bool(evaluation.get("smoke")))


def _read_results(run_dir: RunDirectory) -> Iterator[Result]:
    names = {field.name for field in attrs.fields(Result)}
    pictured = {field.name for field in attrs.fields(Figure)}
    needed = pictured - {"shows_data"}  # which files of an earlier genfw lack
    for record in read_records(read_mapping(run_dir.evaluation).get("results")):
        # An earlier evaluation may have left records of any form.
        found = read_records(record.get("figures"))
        figures = [Figure(**figure) for figure in found if needed <= figure.keys() <= pictured]
        known = {key: value for key, value in record.items() if key in names}
        yield Result(**{"name": "", "value": None, **known, "figures": figures})
