"""Scalars of a run as small line charts: the numbers that a template draws as SVG."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from genfw.runs.files import real

WIDTH, HEIGHT = 340, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
#: Most points of a line, more than its pixels.
_POINTS = 400
#: Endings of names that share a chart: ``energy/data`` and ``energy/negatives``.
_PAIRED = ("data", "negatives")
_ROW_KEYS = ("stage", "name", "step", "time")


@attrs.frozen
class Tick:
    """A mark on an axis: its offset in the drawing, and its text."""

    offset: float
    text: str


@attrs.frozen
class Line:
    """One scalar over the steps.

    Arguments:
        name: The scalar.
        path: SVG path data.
        last: Its last value, as text.
        points: ``[[step, value], ...]`` as JSON, for readers who hover.
        band: SVG path data of the area around it; empty without.
    """

    name: str
    path: str
    last: str
    points: str
    band: str = ""


@attrs.frozen
class Chart:
    """One small chart.

    Arguments:
        title: Its title.
        lines: Its lines.
        x_ticks: Marks along the steps.
        y_ticks: Marks along the values.
        cut: Note on outliers beyond the scale; empty without.
        zero: Height of the value 0 where the scale contains it, else ``None``.
        steps: First and last step of the scale.
        values: Lowest and highest value of the scale.
    """

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    cut: str
    zero: float | None
    steps: tuple[float, float]
    values: tuple[float, float]


def make_charts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Chart], list[tuple[str, str]]]:
    """Charts of one stage's rows of ``metrics.jsonl``.

    Arguments:
        rows: The rows, in order.

    Returns:
        The charts, losses and energies first; and ``(name, value)`` of constant scalars.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = real(row.get("step"))
        for name, value in row.items():
            number = real(value)
            if name not in _ROW_KEYS and number is not None and step is not None:
                series.setdefault(str(name), []).append((step, number))
    constant = [
        (name, short(points[0][1])) for name, points in series.items() if len({value for _, value in points}) == 1
    ]
    moving = {name: points for name, points in series.items() if name not in dict(constant)}
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in sorted(moving.items(), key=lambda item: _rank(item[0])):
        prefix, _, ending = name.rpartition("/")
        groups.setdefault(prefix if prefix and ending in _PAIRED else name, {})[name] = points
    return [_chart(title, lines) for title, lines in groups.items()], constant


def make_band_charts(groups: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> list[Chart]:
    """Charts of one stage of several groups of runs: each group's mean, and one standard deviation around it.

    Arguments:
        groups: Label of a group -> the rows of each of its runs.
    """
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for label, runs in groups.items():
        for row in itertools.chain.from_iterable(runs):
            step = real(row.get("step"))
            for name, value in row.items():
                number = real(value)
                if name not in _ROW_KEYS and number is not None and step is not None:
                    found.setdefault(name, {}).setdefault(label, {}).setdefault(step, []).append(number)
    charts = []
    for name in sorted(found, key=_rank):
        means = {
            label: [(step, statistics.fmean(values)) for step, values in sorted(steps.items())]
            for label, steps in found[name].items()
        }
        spreads = {
            label: [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in sorted(steps.items())]
            for label, steps in found[name].items()
        }
        charts.append(_chart(name, means, spreads))
    return charts


def _rank(name: str) -> tuple[int, str]:
    first = ("loss", "elbo", "reconstruction", "kl")
    if name in first:
        return first.index(name), name
    return len(first) + (0 if name.startswith("energy") else 1 if name.startswith("chain") else 2), name


def _chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    spreads: Mapping[str, Sequence[float]] | None = None,
) -> Chart:
    spreads = spreads or {}
    edges = {
        (name, sign): [(step, value + sign * s) for (step, value), s in zip(series[name], around, strict=True)]
        for name, around in spreads.items()
        for sign in (-1, 1)
    }
    steps = [step for points in series.values() for step, _ in points]
    low, high, cut = _range([*series.values(), *edges.values()])
    first, last = min(steps), max(steps)

    def across(step: float) -> float:
        return LEFT + (step - first) / max(last - first, 1e-12) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def through(points: Sequence[tuple[float, float]]) -> list[str]:
        # The drawing is clipped: values far beyond the scale need no exact position.
        pixels = [(across(step), min(max(up(value), -9999.0), 9999.0)) for step, value in _thinned(points)]
        return [f"{x:.1f} {y:.1f}" for x, y in pixels]

    lines = []
    for name, points in series.items():
        area = [*through(edges[name, 1]), *reversed(through(edges[name, -1]))] if name in spreads else []
        band = f"M{'L'.join(area)}Z" if area else ""
        figures = ",".join(f"[{step:.10g},{value:.6g}]" for step, value in _thinned(points))
        lines.append(Line(name, "M" + "L".join(through(points)), short(points[-1][1]), f"[{figures}]", band))
    marks = ticks(low, high, 4)
    decimals = _decimals(marks)
    return Chart(
        title=title,
        lines=tuple(lines),
        x_ticks=tuple(Tick(across(mark), short(mark)) for mark in ticks(first, last, 5)),
        y_ticks=tuple(Tick(up(mark), _fixed(mark, decimals)) for mark in marks),
        cut=cut,
        zero=up(0.0) if low < 0.0 < high else None,
        steps=(first, last),
        values=(low, high),
    )


def _range(series: Iterable[Sequence[tuple[float, float]]]) -> tuple[float, float, str]:
    """Ends of the value axis.

    The first tenth of the steps and the outermost 2 % of the values are left out where they would flatten the rest; the
    note says so.
    """
    lines = list(series)
    values = sorted(value for points in lines for _, value in points)
    later = sorted(value for points in lines for _, value in points[len(points) // 10 :])
    edge = len(later) // 50
    inner_low, inner_high = later[edge], later[-1 - edge]
    low, high, cut = values[0], values[-1], ""
    if inner_high > inner_low and high - low > 4.0 * (inner_high - inner_low):
        cut = f"beyond the scale: {short(low)} to {short(high)} in all"
        low, high = inner_low, inner_high
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.5
    return low - margin, high + margin, cut


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most :data:`_POINTS` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= _POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _POINTS)
    result = []
    for begin in range(0, len(points), size):
        stretch = points[begin : begin + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        result += sorted(ends)
    return result


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between ``low`` and ``high``: at least two, at most one more than ``count``, which is 4 or more."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    magnitude = 10.0 ** math.floor(math.log10(span / count))
    # The first step that is wide enough; even the one before it is at least 0.4 of it.
    for factor in (0.5, 1, 2, 5, 10):
        step = factor * magnitude
        indices = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(indices) <= count + 1:
            break
    return [index * step + 0.0 for index in indices]


def _decimals(marks: Sequence[float]) -> int:
    if len(marks) < 2:
        return 2
    return max(0, min(8, -math.floor(math.log10(marks[1] - marks[0]) - 1e-9 + 1e-6)))


def _fixed(value: float, decimals: int) -> str:
    if abs(value) >= 1e5 or (value and decimals > 5):
        return f"{value:.1e}"
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.replace("-", "")


def short(value: float) -> str:
    """A number in few characters, with a real minus sign."""
    if value == int(value) and abs(value) < 1e7:
        text = f"{int(value):,}"
    elif 1000.0 <= abs(value) < 1e7:
        text = f"{value:,.0f}"
    elif value and (abs(value) >= 1e7 or abs(value) < 1e-3):
        text = f"{value:.2e}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−")
