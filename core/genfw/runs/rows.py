"""Rows of JSON, one a line, in the logs of a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genfw.runs.files import naming, parse_json, read_records


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a log, with null for numbers that are not finite."""
    line = json.dumps(_finite(row), default=str) + "\n"
    # A single write of a whole line: a reader sees all of a row or none of it.
    with naming(path), open(path, "ab") as file:
        file.write(line.encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without an incomplete last line and without what is no row."""
    if not path.exists():
        return []
    rows: list[Any] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            rows += read_records([parse_json(line)])
    return rows


def tail_of(path: Path, size: int) -> bytes:
    """What a log has beyond a size, in whole lines."""
    if not path.exists():
        return b""
    tail = path.read_bytes()[size:]
    return tail[: tail.rfind(b"\n") + 1]


def cut_rows(path: Path, size: int, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Cut a log to a size, but for the rows after it that ``keep`` wants."""
    if not path.exists():
        return
    kept = []
    for line in tail_of(path, size).splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if all(keep(dict(row)) for row in read_records([parse_json(line)])):
                kept.append(line)
    with naming(path), open(path, "rb+") as file:
        # After a crash of the machine the file may be shorter than its recorded size; never grow it.
        file.seek(min(size, path.stat().st_size))
        file.write(b"".join(kept))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
