"""Where data lies, and how to say that it does not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from genfw.errors import DataError

__all__ = ["absent", "data_home", "find_file"]


def data_home() -> Path:
    """The folder that holds one folder per data set: ``$GENFW_DATA``, or ``~/.cache/genfw``."""
    return Path(os.environ.get("GENFW_DATA") or "~/.cache/genfw").expanduser()


def find_file(folders: Iterable[Path], *names: str) -> Path | None:
    """The first of ``names`` that is a file in the first of ``folders`` that has one."""
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def absent(what: str, looked: Iterable[Path], remedy: str) -> DataError:
    """The error for files that are not there: what, where it was looked for, what to do."""
    places = ", ".join(dict.fromkeys(str(place) for place in looked))
    return DataError(f"{what} is absent; looked in {places}. {remedy}")
