"""Groups of runs that differ in their seed alone: mean, standard deviation and count of every number, and ranks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from genfw.errors import RunError
from genfw.runs.pages.compare import Comparison, Number, PaperNumber, compare_runs, rank
from genfw.runs.sweep import Sweep

#: Differences that pure noise would make more often than this are within the noise.
_LEVEL = 0.05


@attrs.frozen
class Group:
    """Runs that differ in their seed alone.

    Arguments:
        label: Its name.
        runs: Indices of its runs in the comparison.
    """

    label: str
    runs: tuple[int, ...]


@attrs.frozen
class Mean:
    """One result of one group, over its seeds.

    Arguments:
        group: Index of the group.
        mean: Mean over the runs; ``None`` where none has the number.
        deviation: Standard deviation over the runs (with n - 1); ``None`` for a single run.
        count: Count of runs.
        error: The number's own standard error, for a single run that gives it.
        letter: Shared by numbers whose protocols agree.
        rank: Rank among those, from 1; ``None`` where it is not ranked.
        tied: Whether others share the rank: the difference from the first of them is within the noise.
        note: Why a number is missing or does not count.
    """

    group: int
    mean: float | None
    deviation: float | None
    count: int
    error: float | None
    letter: str
    rank: int | None = None
    tied: bool = False
    note: str = ""


@attrs.frozen
class SeedRow:
    """One result over all groups.

    Arguments:
        name: Its name, such as ``fid``.
        unit: Its unit.
        better: ``lower``, ``higher`` or empty.
        means: One for each group that has it; several where its runs were measured differently.
        papers: Numbers of papers.
        reason: Why the numbers are not in one ranking; empty where they are.
    """

    name: str
    unit: str
    better: str
    means: tuple[Mean, ...]
    papers: tuple[PaperNumber, ...]
    reason: str


@attrs.frozen
class SeedComparison:
    """Groups of runs side by side.

    Arguments:
        groups: The groups.
        rows: Their results.
        comparison: The runs themselves.
    """

    groups: tuple[Group, ...]
    rows: tuple[SeedRow, ...]
    comparison: Comparison


def compare_sweeps(
    sweeps: Sequence[Path | str], runs: Sequence[Path | str] = (), *, across: Sequence[str] = ()
) -> SeedComparison:
    """Put the groups of sweeps side by side, and further runs, each as a group of its own.

    Numbers are ranked with those whose protocols agree, by their means. Two means are within the noise where Welch's
    t-test does not tell them apart at 5 %; of single runs, where they differ by less than 2 of their own standard
    errors. A single run without standard error says nothing about noise, so it shares the rank above it.

    Arguments:
        sweeps: Folders of sweeps.
        runs: Run directories.
        across: See :func:`~genfw.runs.pages.compare.compare_runs`.

    Raises:
        RunError: See :func:`~genfw.runs.pages.compare.compare_runs`; or no run of a sweep has begun.
    """
    members: dict[str, list[Path]] = {}
    for path in sweeps:
        sweep = Sweep.open(path)
        prefix = f"{sweep.path.name}: " if len(sweeps) > 1 else ""
        for run in sweep.runs:
            members.setdefault(prefix + run.group, []).append(sweep.path / run.name)
    for path in runs:
        members.setdefault(Path(path).name, []).append(Path(path))
    directories = [path for paths in members.values() for path in paths]
    comparison = compare_runs(directories, across=across)
    groups, first = [], 0
    for label, paths in members.items():
        groups.append(Group(label, tuple(range(first, first + len(paths)))))
        first += len(paths)
    rows = tuple(
        SeedRow(row.name, row.unit, row.better, _means(groups, row.numbers, row.better), row.papers, row.reason)
        for row in comparison.rows
    )
    return SeedComparison(tuple(groups), rows, comparison)


def _means(groups: Sequence[Group], numbers: Iterable[Number], better: str) -> tuple[Mean, ...]:
    of_run = {run: index for index, group in enumerate(groups) for run in group.runs}
    gathered: dict[tuple[int, str], list[Number]] = {}
    for number in numbers:
        gathered.setdefault((of_run[number.run], number.group), []).append(number)
    means = []
    for (group, letter), mine in sorted(gathered.items()):
        values = [number.value for number in mine if number.value is not None]
        notes = dict.fromkeys(number.note for number in mine if number.note and (number.value is None or not letter))
        means.append(
            Mean(
                group,
                statistics.fmean(values) if values else None,
                statistics.stdev(values) if len(values) > 1 else None,
                len(values),
                mine[0].error if len(values) == 1 else None,
                letter,
                note="; ".join(notes),
            )
        )
    letters = {index: mean.letter for index, mean in enumerate(means) if mean.letter}
    ranks = rank(
        [mean.mean or 0.0 for mean in means], letters, better, lambda one, other: within_noise(means[one], means[other])
    )
    return tuple(
        attrs.evolve(mean, rank=ranks[index][0], tied=ranks[index][1]) if index in ranks else mean
        for index, mean in enumerate(means)
    )


def within_noise(one: Mean, other: Mean) -> bool:
    """Whether the spread over seeds explains the difference of two means; see :func:`compare_sweeps`.

    Arguments:
        one: A mean.
        other: Another one.
    """
    if one.mean is None or other.mean is None:
        raise RunError("a missing number has no mean to compare")
    difference = abs(one.mean - other.mean)
    if one.deviation is None or other.deviation is None:
        errors = [
            mean.error if mean.deviation is None else mean.deviation / math.sqrt(mean.count) for mean in (one, other)
        ]
        return any(error is None for error in errors) or difference <= 2.0 * math.hypot(*(e or 0.0 for e in errors))
    if one.deviation == other.deviation == 0.0:
        return difference == 0.0
    from scipy.stats import ttest_ind_from_stats

    test = ttest_ind_from_stats(
        one.mean, one.deviation, one.count, other.mean, other.deviation, other.count, equal_var=False
    )
    return bool(test.pvalue > _LEVEL)
