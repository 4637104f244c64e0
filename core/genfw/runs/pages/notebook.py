"""What objects show of themselves: one line in a terminal, a small table in a notebook. Imports no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any


def html_table(title: str, rows: Iterable[tuple[str, object]], *, picture: bytes = b"") -> str:
    """A title, a table of two columns, and a PNG; every text is escaped.

    Arguments:
        title: The first line.
        rows: Label and value of each row.
        picture: The PNG's content; none where empty.
    """
    cell = "<td style='text-align:left'>{}</td>"
    cells = "".join(
        f"<tr>{cell.format(escape(str(label)))}{cell.format(escape(str(value)))}</tr>" for label, value in rows
    )
    image = ""
    if picture:
        data = base64.b64encode(picture).decode()
        image = f"<img src='data:image/png;base64,{data}' style='max-width:100%' alt='{escape(title)}'>"
    return f"<div><b>{escape(title)}</b><table>{cells}</table>{image}</div>"


class Plot:
    """A matplotlib figure that a notebook shows by itself; nothing else draws into it.

    Arguments:
        draw: Fills an empty figure.
        size: Width and height in inches.
    """

    def __init__(self, draw: Callable[[Any], None], size: tuple[float, float] = (7.0, 3.2)) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(self.figure)
        draw(self.figure)

    def save(self, path: str | Path, dpi: int = 160) -> Path:
        """Write the figure; the file's ending says how.

        Arguments:
            path: The file.
            dpi: Pixels per inch.
        """
        self.figure.savefig(path, dpi=dpi)
        return Path(path)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.figure.savefig(content, format="png", dpi=110)
        return content.getvalue()

    def __repr__(self) -> str:
        return f"Plot of {len(self.figure.axes)} panel(s); .save(path) writes it"


def curves_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of ``metrics.jsonl`` as columns of one length, ``nan`` where a row lacks a scalar.

    ``pandas.DataFrame`` takes them as they are. The columns are ``stage`` (from 0), ``name`` of the stage, ``step``,
    ``time`` in seconds, and every scalar that a stage logs.

    Arguments:
        rows: The rows, in order.
    """
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    absent = float("nan")
    return {name: [absent if row.get(name) is None else row[name] for row in rows] for name in names}


def plot_curves(columns: Mapping[str, list[Any]], names: Iterable[str] = ()) -> Plot:
    """Scalars over the steps of all stages, one panel each.

    Arguments:
        columns: What :func:`curves_of` gives.
        names: Scalars to draw; by default all that change, the first six.
    """
    steps, offset, before = [], 0, (0, 0)
    for stage, step in zip(columns.get("stage", ()), columns.get("step", ()), strict=True):
        if stage != before[0]:
            offset += before[1]
        before = (stage, step)
        steps.append(offset + step)
    moving = [
        name
        for name, values in columns.items()
        if name not in ("stage", "name", "step", "time") and len(set(values)) > 1
    ]
    chosen = list(names) or moving[:6]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, max(len(chosen), 1), squeeze=False)[0]
        for panel, name in zip(panels, chosen, strict=False):
            points = [(step, value) for step, value in zip(steps, columns[name], strict=True) if value == value]
            panel.plot([step for step, _ in points], [value for _, value in points], linewidth=1.4)
            panel.set(title=name, xlabel="step")

    return Plot(draw, (3.2 * max(len(chosen), 1), 2.8))
