"""Zip archives that others have written: every entry is looked at before it is read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import IO, Any

from genfw.errors import DataError, readable, shown

#: Bytes that any small file may unpack to.
_SMALL = 64 * 2**20
#: Times that a larger one may grow. Zeros grow 1,000 times, and data seldom 20 times.
_GROWTH = 200


def check_growth(what: str, packed: int, unpacked: int) -> None:
    """Refuse what is small on the disk and would fill the memory.

    Arguments:
        what: The file or entry, for the message.
        packed: Its size as it lies there, in bytes.
        unpacked: The size that it says it has, in bytes.

    Raises:
        DataError: It would grow by more than data does.
    """
    if unpacked > max(_SMALL, _GROWTH * packed):
        raise DataError(
            f"{what} would grow from {packed:,} bytes to {unpacked:,}, which no data does; unpack it yourself if you "
            "trust it"
        )


class Archive:
    """A zip archive, open for reading.

    Whatever is wrong with it is a :class:`~genfw.errors.DataError`: Python's own reader raises ten kinds of exception
    over damaged archives.

    Arguments:
        file: The archive.

    Raises:
        DataError: It is no zip archive, or its directory is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with readable(file):
            self._zip = zipfile.ZipFile(file)
            self._size = os.path.getsize(file)
        self.entries = {info.filename: info for info in self._zip.infolist()}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def open(self, name: str) -> IO[bytes]:
        """One entry as a stream, which yields no more bytes than its record says.

        Raises:
            DataError: It is encrypted, damaged, or grows by more than data does.
        """
        info, what = self.entries[name], f"entry {shown(name)}"
        if info.flag_bits & 1:
            raise DataError(f"{what} is encrypted")
        check_growth(what, min(info.compress_size, self._size), info.file_size)
        with readable(what):
            return self._zip.open(info)

    def read(self, name: str) -> bytes:
        """The bytes of one entry; see :meth:`open`."""
        with self.open(name) as stream, readable(f"entry {shown(name)}"):
            content: Any = stream.read()
        return bytes(content)
