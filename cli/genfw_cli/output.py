"""Results on stdout: a table on a terminal, tab-separated lines in a pipe, or JSON.

Everything else goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import attrs

if TYPE_CHECKING:
    from genfw.evaluation.results import Result

#: Exit code of a run that was carried out, and whose numbers are not to be relied upon.
INCOMPLETE = 6


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which drawn lines can be drawn again."""
    # A command in a notebook's cell has a terminal that can't move its cursor; Jupyter sets this for its kernels.
    return stream.isatty() and "JPY_PARENT_PID" not in os.environ


class Alarm(str):
    """A text that a terminal shows in red."""


def visible(text: object) -> str:
    """A text of a recipe, a file or a plugin with its control characters shown: a terminal must not obey them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found.group())[1:-1], str(text))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "", *, grouped: bool = False) -> None:
    """Print rows: aligned under headings on a terminal; in a pipe one line each, with tabs between cells, no headings.

    Arguments:
        columns: Headings.
        rows: Cells, one per heading in each row.
        empty: Message on stderr if there are no rows.
        grouped: On a terminal, rows with the same first cell are a group that shows it once.
    """
    if not rows:
        note(empty)
    elif on_terminal():
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            # The first column names the row: other columns wrap instead.
            drawn.add_column(column, overflow="fold", no_wrap=index == 0)
        group: str | None = None
        for row in rows:
            if grouped and group not in (None, row[0]):
                drawn.add_section()
            cells = ["", *row[1:]] if grouped and group == row[0] else row
            drawn.add_row(*(Text(visible(cell), "bold red" if isinstance(cell, Alarm) else "") for cell in cells))
            group = row[0]
        Console().print(drawn)
    else:
        lines("\t".join(" ".join(cell.split()) for cell in row) for row in rows)


def heading(text: str) -> None:
    """Print a heading, bold on a terminal."""
    print(f"\033[1m{visible(text)}\033[0m" if on_terminal() else visible(text))


def lines(texts: Any) -> None:
    """Print each text on a line of its own."""
    for text in texts:
        print(visible(text))


def note(text: str) -> None:
    """Print a line on stderr, also where nobody reads it any more; an empty text prints nothing."""
    if text:
        with contextlib.suppress(OSError, ValueError):  # a closed stderr must not end a training
            print(visible(text), file=sys.stderr, flush=True)


def write(text: str, out: Path | None) -> None:
    """Print ``text``, or write it to ``out`` and print that path."""
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
        wrote(out)


def wrote(path: Path | str) -> None:
    """Print the path of what a command has written, in full, so that it holds in every folder."""
    print(visible(Path(path).absolute()))


def show_json(value: Any) -> None:
    """Print ``value`` as JSON: records become objects, paths strings, non-finite numbers null."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """``value`` in JSON's types."""
    if attrs.has(type(value)):
        return {
            field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value)) if field.name[0] != "_"
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value.as_posix() if isinstance(value, Path) else value)


def unmarked(text: str) -> str:
    """A docstring without roles and quotes, its formulas in plain characters."""
    text = re.sub(r":math:`([^`]*)`", lambda found: formula(found[1]), text)
    text = re.sub(r":[\w:]+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", text)
    text = re.sub(
        r"^( *)\.\. math::\s*((?:.*\S.*(?:\n|$))+)",
        lambda found: f"{found[1]}    {formula(' '.join(found[2].split()))}\n",
        text,
        flags=re.MULTILINE,
    )
    return text.replace("``", "").replace("::\n", ":\n")


_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"


def formula(latex: str) -> str:
    r"""A formula for a terminal: ``e^{-E(x)} / \sqrt{2}`` becomes ``e^(-E(x)) / √(2)``."""
    from pylatexenc.latex2text import LatexNodes2Text

    # Without braces it would be open how far a fraction or a power reaches.
    latex = re.sub(rf"\\[td]?frac\s*{_GROUP}\s*{_GROUP}", lambda it: f"{_closed(it[1])}/{_closed(it[2])} ", latex)
    latex = re.sub(rf"([_^]){_GROUP}", lambda it: f"{it[1]}{{{_closed(it[2])}}}", latex)
    text = LatexNodes2Text(math_mode="text").latex_to_text(rf"\({latex}\)")
    return " ".join(re.sub(r"([←→∼≈∝=])", r" \1 ", text).split())


def _closed(latex: str) -> str:
    return latex if re.fullmatch(r"\\?\w+|\\(?:text|mathrm)\{\w+\}", latex) else f"({latex})"


def number(value: float | None, error: float | None = None) -> str:
    """A number with four figures, and its standard error where there is one."""
    if value is None:
        return "-"
    text = f"{value:.4g}"
    return text if error is None else f"{text} ± {error:.2g}"


def measured(result: Result) -> str:
    """A result's number, in red where there is none or where a reader should not rely on it."""
    if result.failed:
        return Alarm("failed")
    text = number(result.value, result.error)
    return Alarm(text) if result.doubt else text


def remark(result: Result) -> str:
    """What a table says beside a result's number: its unit, or why it is missing or doubtful."""
    if result.value is None:
        return result.note or result.doubt
    return f"{result.unit} (doubtful: {result.doubt})".strip() if result.doubt else result.unit


def tell_problems(results: Sequence[Result], problems: Sequence[str] = (), *, smoke: bool = False) -> int:
    """Say on stderr what is wrong with an evaluation.

    Arguments:
        results: All results.
        problems: What is missing besides numbers.
        smoke: Whether it is of a smoke run.

    Returns:
        The exit code: 6 where a metric failed, a number is doubtful or anything is missing, else 0. A smoke run's
        numbers are never doubted: they mean nothing.
    """
    if smoke:
        note("note: this was a smoke run; its numbers mean nothing")
    doubtful = [result.name for result in results if result.doubt and not result.failed and not smoke]
    if doubtful:
        note(f"warning: do not rely on {', '.join(doubtful)}; the table and the report say why")
    failed = [result.name for result in results if result.failed]
    if failed:
        note(f"error: {len(failed)} of {len(results)} results could not be measured: {', '.join(failed)}")
    for problem in problems:
        note(f"error: {problem}")
    return INCOMPLETE if failed or doubtful or problems else 0
