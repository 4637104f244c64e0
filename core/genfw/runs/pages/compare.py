"""Results of several runs side by side: ranked where their protocols agree, with the differences where they don't."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import RunError
from genfw.runs.directory import RunDirectory
from genfw.runs.files import read_mapping, read_records, real

#: Protocol keys that do not prevent ranking: a seed is a repetition, and versions change only last digits.
_RANKED_ACROSS = frozenset(
    {"seed", "genfw", "torch", "torch_fidelity", "numpy", "extract_batch", "classifier_accuracy"}
)
#: Arguments of a data set that do not change what is measured: its folder, and augmentation of training.
_NOT_MEASURED = ("root=", "download=", "flip=")


@attrs.frozen
class ComparedRun:
    """One run of a comparison.

    Arguments:
        label: Its name in the comparison: the recipe's name, with the folder where names repeat.
        path: Its directory.
        name: The recipe's name.
        description: The recipe's description.
        state: Its status, such as ``finished``.
        smoke: Whether it is a smoke run, whose numbers mean nothing.
        evaluated: Whether it has been evaluated.
    """

    label: str
    path: Path
    name: str
    description: str
    state: str
    smoke: bool
    evaluated: bool


@attrs.frozen
class Number:
    """One result of one run.

    Arguments:
        run: Index of the run in the comparison.
        value: The number; ``None`` where measuring failed.
        error: Its standard error, where known.
        group: A letter, shared by numbers whose protocols agree; empty for numbers that are not compared.
        rank: Rank within the group, from 1; ``None`` where it is not ranked.
        tied: Whether others share the rank, as they equal its first within 2 standard errors.
        note: Why there is no number, or why it does not count.
        protocol: How it was measured.
    """

    run: int
    value: float | None
    error: float | None
    group: str
    rank: int | None
    tied: bool
    note: str
    protocol: Mapping[str, Any]


@attrs.frozen
class PaperNumber:
    """A paper's number for a result. Its protocol is not recorded, so it is never ranked.

    Arguments:
        source: Paper, table and section, as the recipe names them.
        value: The number.
        runs: Indices of the runs whose recipes quote it.
    """

    source: str
    value: float
    runs: tuple[int, ...]


@attrs.frozen
class Difference:
    """A protocol key in which numbers differ.

    Arguments:
        key: Its name, such as ``decoder``.
        values: Its value for each number of the row; ``None`` where the protocol lacks it.
        bars: Whether it prevents ranking.
    """

    key: str
    values: tuple[Any, ...]
    bars: bool


@attrs.frozen
class Row:
    """One result over all runs.

    Arguments:
        name: Its name, such as ``fid``.
        unit: Its unit.
        better: ``lower``, ``higher`` or empty.
        numbers: One for each run that has it, two where a run measured it twice.
        papers: Numbers of papers.
        differences: Where the protocols differ, those that prevent ranking first.
        reason: Why the numbers are not in one ranking; empty where they are.
    """

    name: str
    unit: str
    better: str
    numbers: tuple[Number, ...]
    papers: tuple[PaperNumber, ...]
    differences: tuple[Difference, ...]
    reason: str


@attrs.frozen
class Comparison:
    """Several runs side by side.

    Arguments:
        runs: The runs.
        rows: Their results, in the recipes' order.
        across: Protocol keys that the user compares, which do not prevent ranking.
    """

    runs: tuple[ComparedRun, ...]
    rows: tuple[Row, ...]
    across: tuple[str, ...]


def compare_runs(directories: Sequence[Path | str], *, across: Sequence[str] = ()) -> Comparison:
    """Put the results of runs side by side.

    Numbers are ranked with those whose protocols agree. Seeds and versions of packages are shown but do not prevent
    ranking. Nor do the keys in ``across``, in which the runs are compared, such as ``sampler`` and ``chain_steps`` of
    two methods.

    Arguments:
        directories: Run directories.
        across: Protocol keys.

    Raises:
        RunError: A directory is no run, is named twice, or ``across`` has a key that no protocol has.
    """
    run_dirs = [RunDirectory.open(directory) for directory in directories]
    paths = [run_dir.path.resolve() for run_dir in run_dirs]
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise RunError(f"{run_dirs[index].path} is named twice")
    recipes = [read_mapping(run_dir.resolved) for run_dir in run_dirs]
    evaluations = [read_mapping(run_dir.evaluation) for run_dir in run_dirs]
    names = [str(recipe.get("name") or d.path.parent.name) for recipe, d in zip(recipes, run_dirs, strict=True)]
    labels = _labels(names, [run_dir.path.name for run_dir in run_dirs])
    compared = tuple(
        ComparedRun(
            label=label,
            path=run_dir.path,
            name=name,
            description=str(recipe.get("description") or "").strip(),
            state=run_dir.status().state,
            smoke=bool(recipe.get("smoke") or evaluation.get("smoke")),
            evaluated=bool(evaluation),
        )
        for name, label, run_dir, recipe, evaluation in zip(names, labels, run_dirs, recipes, evaluations, strict=True)
    )
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for run, evaluation in enumerate(evaluations):
        for record in read_records(evaluation.get("results")):
            # Image grids are results too, with neither a number nor a failure.
            if record.get("value") is not None or record.get("failed"):
                found.setdefault(str(record.get("name", "")), []).append((run, record))
    keys = {key for records in found.values() for _, record in records for key in _mapping(record.get("protocol"))}
    if unknown := [key for key in across if key not in keys]:
        known = ", ".join(sorted(keys - _RANKED_ACROSS)) or "none"
        raise RunError(f"no protocol of these runs has a key {', '.join(unknown)}; there are {known}")
    papers = [_mapping(recipe.get("paper")) for recipe in recipes]
    rows = tuple(
        _row(name, records, compared, _papers(name, papers), frozenset(across)) for name, records in found.items()
    )
    return Comparison(compared, rows, tuple(across))


def _labels(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The names; where they repeat, with the hash in the folder's name, or all of that name."""
    ends = [re.sub(r"^\d{8}-\d{6}-", "", folder) for folder in folders]
    short = [f"{name} {end}" for name, end in zip(names, ends, strict=True)]
    return [
        name if names.count(name) == 1 else brief if short.count(brief) == 1 else f"{name} {folder}"
        for name, brief, folder in zip(names, short, folders, strict=True)
    ]


def _row(
    name: str,
    records: Sequence[tuple[int, Mapping[str, Any]]],
    runs: Sequence[ComparedRun],
    papers: tuple[PaperNumber, ...],
    across: frozenset[str],
) -> Row:
    protocols = [_protocol(record) for _, record in records]
    values = [real(record.get("value")) for _, record in records]
    counted = [index for index, (run, _) in enumerate(records) if values[index] is not None and not runs[run].smoke]
    better = str(records[0][1].get("better") or "")
    keys = list(dict.fromkeys(key for index in counted for key in protocols[index]))
    # A time depends on the machine; other numbers only in their last digits.
    ranked_across = (
        _RANKED_ACROSS if any("hardware" in protocol for protocol in protocols) else _RANKED_ACROSS | {"device"}
    ) | across
    differing = [key for key in keys if len({str(protocols[index].get(key)) for index in counted}) > 1]
    bars = [key for key in differing if key not in ranked_across]
    groups = _groups(protocols, counted, bars)
    errors = [real(record.get("error")) for _, record in records]

    def alike(one: int, other: int) -> bool:
        noise = 2.0 * math.hypot(errors[one] or 0.0, errors[other] or 0.0)
        return abs((values[one] or 0.0) - (values[other] or 0.0)) <= noise  # a number in a group is never None

    ranks = rank([value or 0.0 for value in values], groups, better, alike)
    numbers = tuple(
        Number(
            run=run,
            value=values[index],
            error=errors[index],
            group=groups.get(index, ""),
            rank=ranks.get(index, (None, False))[0],
            tied=ranks.get(index, (None, False))[1],
            note="a smoke run: its numbers mean nothing" if runs[run].smoke else str(record.get("note") or ""),
            protocol=_mapping(record.get("protocol")),
        )
        for index, (run, record) in enumerate(records)
    )
    differences = [
        Difference(key, tuple(_mapping(record.get("protocol")).get(key) for _, record in records), key in bars)
        for key in sorted(differing, key=lambda key: key not in bars)
    ]
    reason = _reason(differences, numbers, [runs[run].label for run, _ in records])
    unit = str(records[0][1].get("unit") or "")
    return Row(name, unit, better, numbers, papers, tuple(differences), reason)


def _protocol(record: Mapping[str, Any]) -> dict[str, Any]:
    protocol = dict(_mapping(record.get("protocol")))
    data = protocol.get("data")
    if isinstance(data, str):
        last = ""
        while data != last:  # from the innermost parentheses outwards
            last, data = data, re.sub(r"\(([^()]*)\)", _arguments, data)
        protocol["data"] = data
    return protocol


def _arguments(match: re.Match[str]) -> str:
    """Arguments in the order of their names, which versions of genfw write in orders of their own."""
    said = sorted(part for part in re.split(r",\s*(?=\w+=)", match[1]) if not part.startswith(_NOT_MEASURED))
    return f"<{'; '.join(said)}>" if any(said) else ""


def _groups(protocols: Sequence[Mapping[str, Any]], counted: Sequence[int], bars: Sequence[str]) -> dict[int, str]:
    """Index of a number -> its group."""
    letters: dict[tuple[str, ...], str] = {}
    groups = {}
    for index in counted:
        key = tuple(str(protocols[index].get(bar)) for bar in bars)
        groups[index] = letters.setdefault(key, _letter(len(letters)))
    return groups


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"A{index}"


def rank(
    values: Sequence[float], groups: Mapping[int, str], better: str, alike: Callable[[int, int], bool]
) -> dict[int, tuple[int, bool]]:
    """Index of a number -> its rank within its group, and whether others share it.

    Arguments:
        values: The numbers.
        groups: Index of a number -> its group; numbers without a group, and groups of one, are not ranked.
        better: ``lower`` or ``higher``; nothing is ranked otherwise.
        alike: Whether the difference of two numbers is within the noise; a number shares the rank of the first one of
            that rank.
    """
    ranks: dict[int, tuple[int, bool]] = {}
    if better not in ("lower", "higher"):
        return ranks
    for letter in set(groups.values()):
        mine = sorted(
            (index for index, group in groups.items() if group == letter),
            key=lambda index: values[index],
            reverse=better == "higher",
        )
        if len(mine) < 2:
            continue
        first, place = mine[0], 1
        ranks[first] = (1, False)
        for count, index in enumerate(mine[1:], start=2):
            tied = alike(first, index)
            if tied:
                ranks[first] = (place, True)
            else:
                first, place = index, count
            ranks[index] = (place, tied)
    return ranks


def _reason(differences: Sequence[Difference], numbers: Sequence[Number], labels: Sequence[str]) -> str:
    bars = [difference for difference in differences if difference.bars]
    if bars:
        said = []
        for bar in bars:
            sides: dict[str, list[str]] = {}
            for value, number, label in zip(bar.values, numbers, labels, strict=True):
                if number.group:
                    sides.setdefault("not said" if value is None else str(value), []).append(label)
            said.append(f"{bar.key} is " + ", ".join(f"{value} in {' and '.join(of)}" for value, of in sides.items()))
        return "protocols differ: " + "; ".join(said)
    return ""


def _papers(name: str, papers: Sequence[Mapping[str, Any]]) -> tuple[PaperNumber, ...]:
    found: dict[tuple[str, float], list[int]] = {}
    for run, paper in enumerate(papers):
        value = real(_mapping(paper.get("expect")).get(name))
        if value is None:
            continue
        parts = [str(paper.get("id") or "paper")]
        parts += [f"{key} {paper[key]}" for key in ("section", "table") if paper.get(key)]
        found.setdefault((", ".join(parts), value), []).append(run)
    return tuple(PaperNumber(source, value, tuple(runs)) for (source, value), runs in found.items())


def badge(letter: str, rank: int | None, tied: bool) -> str:
    """A number's place among those measured alike: its group's letter, its rank, ``=`` where others share it."""
    return letter if rank is None else f"{letter}{rank}{'=' if tied else ''}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
