"""Results of several runs side by side: ranked where their protocols agree; where they do not, in what they differ."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import RunError
from genfw.runs.directory import RunDirectory
from genfw.runs.files import read_mapping

__all__ = ["ComparedRun", "Comparison", "Difference", "Number", "PaperNumber", "Row", "compare_runs"]

#: Part of a protocol, but no bar: another seed is another draw of the same experiment, and versions move last digits.
_NO_BAR = frozenset({"seed", "genfw", "torch", "torch_fidelity", "numpy", "extract_batch", "classifier_accuracy"})
#: Where data lie and how training mirrors them is not what is measured.
_PLACES = ("root=", "download=", "flip=")


@attrs.frozen
class ComparedRun:
    """One run of a comparison.

    Arguments:
        label: What it is called in the comparison: the recipe's name, with the folder where names repeat.
        path: Its directory.
        name: The recipe's name.
        description: The recipe's description.
        state: How far it came, such as ``finished``.
        smoke: A smoke run, whose numbers mean nothing.
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
        run: Place of the run in the comparison.
        value: The number; ``None`` where it could not be taken.
        error: Its standard error, where it is known.
        group: Numbers of one letter have protocols that agree; empty for those that are not compared at all.
        rank: Place within the group, from 1; ``None`` where it is not ranked.
        tied: Whether others have the same rank, being equal to the first of them within 2 standard errors.
        note: Why there is no number, or why it counts for nothing.
        protocol: How it was taken.
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
    """What a paper says of a result; its protocol is not recorded, so it is shown and never ranked.

    Arguments:
        source: Paper, table and section, as the recipe names them.
        value: The number.
        runs: Places of the runs whose recipes quote it.
    """

    source: str
    value: float
    runs: tuple[int, ...]


@attrs.frozen
class Difference:
    """A part of the protocol in which numbers differ.

    Arguments:
        key: Its name, such as ``decoder``.
        values: For each number of the row, what it is there; ``None`` where it is not said.
        bars: Whether it bars numbers from one ranking.
    """

    key: str
    values: tuple[Any, ...]
    bars: bool


@attrs.frozen
class Row:
    """One result over all runs.

    Arguments:
        name: Such as ``fid``.
        unit: Its unit.
        better: ``lower``, ``higher`` or empty.
        numbers: One for each run that has it, two where a run measured it twice.
        papers: What papers say.
        differences: Where the protocols differ, those that bar first.
        reason: Why not all numbers are in one ranking; empty where they are.
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
        rows: Their results, in the order in which recipes ask for them.
        across: Parts of the protocol that the caller said are what is compared, and no bar.
    """

    runs: tuple[ComparedRun, ...]
    rows: tuple[Row, ...]
    across: tuple[str, ...]


def compare_runs(directories: Sequence[Path | str], *, across: Sequence[str] = ()) -> Comparison:
    """Put the results of runs side by side.

    Numbers whose protocols agree are ranked. Where they differ in a key, numbers are ranked only with those that they
    agree with; seeds and versions of packages are told and bar nothing. A key in ``across`` bars nothing either: it
    is what the runs are compared in, such as ``sampler`` and ``chain_steps`` of two methods.

    Arguments:
        directories: Run directories.
        across: Keys of protocols.

    Raises:
        RunError: A directory is no run, is named twice, or ``across`` has a key that no protocol has.
    """
    runs = [RunDirectory.open(directory) for directory in directories]
    places = [run.path.resolve() for run in runs]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise RunError(f"{runs[number].path} is named twice")
    recipes = [read_mapping(run.resolved) for run in runs]
    evaluations = [read_mapping(run.evaluation) for run in runs]
    names = [str(recipe.get("name") or run.path.parent.name) for recipe, run in zip(recipes, runs, strict=True)]
    labels = _labels(names, [run.path.name for run in runs])
    compared = tuple(
        ComparedRun(
            label=label,
            path=run.path,
            name=name,
            description=str(recipe.get("description") or "").strip(),
            state=run.status().state,
            smoke=bool(recipe.get("smoke") or evaluation.get("smoke")),
            evaluated=bool(evaluation),
        )
        for name, label, run, recipe, evaluation in zip(names, labels, runs, recipes, evaluations, strict=True)
    )
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, evaluation in enumerate(evaluations):
        for record in evaluation.get("results") or []:
            # Grids of pictures are results too, without a number and without a failure.
            if isinstance(record, Mapping) and (record.get("value") is not None or record.get("failed")):
                found.setdefault(str(record.get("name", "")), []).append((number, record))
    keys = {key for records in found.values() for _, record in records for key in _mapping(record.get("protocol"))}
    if unknown := [key for key in across if key not in keys]:
        known = ", ".join(sorted(keys - _NO_BAR)) or "none"
        raise RunError(f"no protocol of these runs has a key {', '.join(unknown)}; there are {known}")
    papers = [_mapping(recipe.get("paper")) for recipe in recipes]
    rows = tuple(
        _row(name, records, compared, _papers(name, papers), frozenset(across)) for name, records in found.items()
    )
    return Comparison(compared, rows, tuple(across))


def _labels(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Names; where they repeat, with the hash in the folder's name, or all of it."""
    ends = [re.sub(r"^\d{8}-\d{6}-", "", folder) for folder in folders]
    short = [f"{name} {end}" for name, end in zip(names, ends, strict=True)]
    return [
        name if names.count(name) == 1 else one if short.count(one) == 1 else f"{name} {folder}"
        for name, one, folder in zip(names, short, folders, strict=True)
    ]


def _row(
    name: str,
    records: Sequence[tuple[int, Mapping[str, Any]]],
    runs: Sequence[ComparedRun],
    papers: tuple[PaperNumber, ...],
    across: frozenset[str],
) -> Row:
    protocols = [_protocol(record) for _, record in records]
    values = [_real(record.get("value")) for _, record in records]
    counted = [place for place, (run, _) in enumerate(records) if values[place] is not None and not runs[run].smoke]
    better = str(records[0][1].get("better") or "")
    keys = list(dict.fromkeys(key for place in counted for key in protocols[place]))
    # A time depends on the machine; other numbers only in their last digits.
    no_bar = (_NO_BAR if any("hardware" in one for one in protocols) else _NO_BAR | {"device"}) | across
    differing = [key for key in keys if len({str(protocols[place].get(key)) for place in counted}) > 1]
    bars = [key for key in differing if key not in no_bar]
    groups = _groups(protocols, counted, bars)
    errors = [_real(record.get("error")) for _, record in records]
    ranks = _ranks(values, errors, groups, better)
    numbers = tuple(
        Number(
            run=run,
            value=values[place],
            error=errors[place],
            group=groups.get(place, ""),
            rank=ranks.get(place, (None, False))[0],
            tied=ranks.get(place, (None, False))[1],
            note="a smoke run: its numbers mean nothing" if runs[run].smoke else str(record.get("note") or ""),
            protocol=_mapping(record.get("protocol")),
        )
        for place, (run, record) in enumerate(records)
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
    said = sorted(part for part in re.split(r",\s*(?=\w+=)", match[1]) if not part.startswith(_PLACES))
    return f"<{'; '.join(said)}>" if any(said) else ""


def _groups(protocols: Sequence[Mapping[str, Any]], counted: Sequence[int], bars: Sequence[str]) -> dict[int, str]:
    """Place of a number -> the letter it shares with those whose protocols agree."""
    letters: dict[tuple[str, ...], str] = {}
    groups = {}
    for place in counted:
        key = tuple(str(protocols[place].get(bar)) for bar in bars)
        groups[place] = letters.setdefault(key, _letter(len(letters)))
    return groups


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"A{number}"


def _ranks(
    values: Sequence[float | None], errors: Sequence[float | None], groups: Mapping[int, str], better: str
) -> dict[int, tuple[int, bool]]:
    """Place of a number -> its rank within its group, and whether others have it too."""
    ranks: dict[int, tuple[int, bool]] = {}
    if better not in ("lower", "higher"):
        return ranks
    for letter in set(groups.values()):
        # Places in a group have values; the sort's other way round is for 'higher'.
        mine = [(values[place] or 0.0, place) for place, group in groups.items() if group == letter]
        if len(mine) < 2:
            continue
        mine.sort(reverse=better == "higher")
        first, rank = mine[0], 1
        ranks[first[1]] = (1, False)
        for number, one in enumerate(mine[1:], start=2):
            noise = 2.0 * math.hypot(errors[first[1]] or 0.0, errors[one[1]] or 0.0)
            tied = abs(one[0] - first[0]) <= noise
            if tied:
                ranks[first[1]] = (rank, True)
            else:
                first, rank = one, number
            ranks[one[1]] = (rank, tied)
    return ranks


def _reason(differences: Sequence[Difference], numbers: Sequence[Number], labels: Sequence[str]) -> str:
    bars = [one for one in differences if one.bars]
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
    for number, paper in enumerate(papers):
        value = _real(_mapping(paper.get("expect")).get(name))
        if value is None:
            continue
        parts = [str(paper.get("id") or "paper")]
        parts += [f"{key} {paper[key]}" for key in ("section", "table") if paper.get(key)]
        found.setdefault((", ".join(parts), value), []).append(number)
    return tuple(PaperNumber(source, value, tuple(runs)) for (source, value), runs in found.items())


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
