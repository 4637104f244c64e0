"""Reading and writing the files of a run; no torch, so that listing runs is quick."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """A file's text; empty where it is absent or can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is none, or nests deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_mapping(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML (``.yaml``) or JSON file; empty where it is absent, damaged or no mapping."""
    text = read_text(path)
    try:
        value = yaml.load(text, yaml.CSafeLoader) if path.suffix == ".yaml" else parse_json(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def read_records(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list that a file of a run holds; what is no list, or no mapping in it, is left out."""
    return [record for record in value if isinstance(record, Mapping)] if isinstance(value, list) else []


def without_home(text: str) -> str:
    """A text for others to read: ``~`` for the user's home folder, the usual folder of data for ``$GENFW_DATA``."""
    for folder, usual in ((os.environ.get("GENFW_DATA") or "", "~/.cache/genfw"), (str(Path.home()), "~")):
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder.rstrip('/'))}(?![\w.-])", usual, text)
    return text


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a fault of the disk say which file it struck: the error of writing to an open file does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Replace a file in one step: readers find the old file or the new one complete, after a crash too.

    Arguments:
        path: The file; its folder must exist.
        durable: Wait until it is on the disk.

    Yields:
        The path for the new content. After an exception the old file stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield part
            if durable:
                sync_file(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def real(value: Any) -> float | None:
    """A finite number that a file of a run holds; ``None`` for whatever else stands there."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def is_like(blank: Any, value: Any) -> bool:
    """Whether a value is of the kind of a blank one; as a number, finite and such as a clock or counter gives."""
    if isinstance(blank, str):
        return isinstance(value, str)
    number = isinstance(value, int if isinstance(blank, int) else (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < 1e11


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file by ``text``; see :func:`replacing`. Half a surrogate pair, which UTF-8 lacks, becomes ``?``."""
    with replacing(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8", errors="replace")


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    if os.name == "nt":  # Windows can't open folders, and its renames are durable without it
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_difference(old: Any, new: Any, path: str = "") -> tuple[str, str, str] | None:
    """The first path at which two trees differ, and both values there as text; ``None`` where they are equal.

    Arguments:
        old: Mappings, lists and scalars.
        new: The same.
        path: Path of both within larger trees.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys: Iterable[Any] = {**old, **new}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        keys = range(len(old))
    else:
        return None if old == new else (path, json.dumps(old, default=str), json.dumps(new, default=str))
    for key in keys:
        before, now = (side.get(key) if isinstance(side, dict) else side[key] for side in (old, new))
        if (found := first_difference(before, now, f"{path}.{key}" if path else str(key))) is not None:
            return found
    return None
