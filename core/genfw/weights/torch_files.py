"""What ``torch.save`` wrote, in the zip format or the one before it, read without executing anything.

The pickle inside is read by :mod:`genfw.weights.pickled`; tensors are read when they are asked for. ``torch.load`` is
not used: mapped into memory it reads on behind numbers that are cut short, and it knows one protocol of pickles.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import attrs
import torch
from torch import Tensor

from genfw.errors import DataError, shown
from genfw.weights.archives import Archive
from genfw.weights.pickled import Arguments, RefusedError, StoredTensor, read_pickle

#: How a file in the format before the zip format begins: this number and a version, each pickled.
LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

#: More values, deeper ones or longer names than any checkpoint has: such a file is meant to exhaust the reader.
_MOST_VALUES, _DEEPEST, _LONGEST_NAME = 1_000_000, 64, 300
_LARGEST_PICKLE = 512 * 1024 * 1024

#: Where a value lies: the place of what holds it, and its key there; None for the whole.
_Place = tuple[Any, Any] | None


class Tensors(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for.

    Attributes:
        used: Names of those that were read.
        picks: Networks that the user has picked, by their place in the file.
        networks: Places of the networks that importers have found (:func:`genfw.weights.importing.choose`).
    """

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self._stored = stored
        self.used: set[str] = set()
        self.picks: Sequence[str] = ()
        self.networks: list[str] = []

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # Mapping's own would read the tensor, and count it as used

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the file states for a tensor, which is not read."""
        return self._stored[name].size

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._stored[name].read(name)
        self.used.add(name)
        return tensor


@attrs.frozen(eq=False)
class Published:
    """A published checkpoint, open for reading.

    Arguments:
        tensors: Every tensor by its path in the file, keys joined by ``.``; read when it is asked for.
        arguments: Its argument record, empty where it has none.
    """

    tensors: Tensors
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any) -> Published:
        """What was read of a file, made ready for importers.

        Arguments:
            value: Containers with tensors and argument records in them.

        Raises:
            DataError: It is larger or deeper than any checkpoint, or has a tensor without a proper name.
        """
        tensors: dict[str, StoredTensor] = {}
        record: dict[str, Any] = {}
        for place, item in _walk(value):
            if isinstance(item, Arguments):
                record.update(item)
            elif isinstance(item, StoredTensor):
                tensors[_name(place)] = item
        return cls(Tensors(tensors), record)


@contextlib.contextmanager
def open_published(file: str | Path) -> Iterator[Published]:
    """Open a checkpoint that ``torch.save`` has written, in either format; its tensors can be read inside the block.

    Arguments:
        file: The checkpoint.

    Raises:
        DataError: It is no checkpoint, is damaged, or wants code to run.
    """
    file = Path(file)
    mapped = map_file(file)
    try:
        with contextlib.ExitStack() as stack:
            if zipfile.is_zipfile(file):
                value = _read_zip(stack.enter_context(Archive(file)))
            else:
                value = read_legacy(mapped, memoryview(mapped))
            yield Published.of(value)
    except DataError as error:
        if str(file) in str(error):
            raise
        raise DataError(f"{file}: {error}") from error


def map_file(file: Path) -> Any:
    """A file's bytes, mapped and not read: a length that a damaged file states can't make us ask for that much memory.

    Arguments:
        file: The file.

    Raises:
        DataError: It is not there, or empty.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty")
    with open(file, "rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def _read_zip(archive: Archive) -> Any:
    names = archive.entries
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DataError("this archive was not written by torch.save: it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def entry(name: str, most: int | None = None) -> bytes:
        info = names.get(folder + name)
        if info is None:
            raise DataError(f"the archive has no {shown(folder + name)}")
        # torch stores and never compresses; a small file that unpacks to a huge one is no checkpoint.
        stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not stored or info.file_size > (most or info.compress_size):
            raise DataError(f"{shown(folder + name)} is compressed or too large; torch.save writes neither")
        return archive.read(info.filename)

    order = entry("byteorder", 64) if f"{folder}byteorder" in names else b"little"
    if order.decode("ascii", "replace") != sys.byteorder:
        raise DataError(f"its numbers are in {order!r} byte order, which this machine does not have")

    def store(key: str, dtype: torch.dtype, count: int) -> StoredTensor:
        return StoredTensor(dtype, count, lambda: entry(f"data/{key}"))

    return read_pickle(io.BytesIO(entry("data.pkl", _LARGEST_PICKLE)), store=store)


def read_legacy(stream: IO[bytes], whole: memoryview) -> Any:
    """What ``torch.save`` wrote before the zip format: pickles, then the numbers.

    Arguments:
        stream: Opened at the first byte, of a mapped file or of bytes in memory.
        whole: The same bytes.

    Returns:
        The value, as :func:`~genfw.weights.pickled.read_pickle` gives it.

    Raises:
        DataError: It is no such file, is damaged, or wants code to run.
    """
    dtypes: dict[str, torch.dtype] = {}
    numbers: dict[str, memoryview] = {}

    def find(key: str) -> memoryview:
        if key not in numbers:
            raise DataError(f"the file lacks the numbers '{shown(key)}'")
        return numbers[key]

    def store(key: str, dtype: torch.dtype, count: int) -> StoredTensor:
        dtypes[key] = dtype
        return StoredTensor(dtype, count, lambda: find(key))

    try:
        known = all(read_pickle(stream, most=10) == number for number in (LEGACY_MAGIC, _LEGACY_VERSION))
    except RefusedError:
        raise
    except DataError:
        known = False
    if not known:
        raise DataError("this is no checkpoint of torch.save, neither a zip archive nor the format before it")
    system, value, keys = (read_pickle(stream, store=store) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise DataError("its numbers are in a byte order that this machine does not have")
    position = stream.tell()
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in dtypes or position + 8 > len(whole):
            raise DataError(f"the numbers '{shown(key)}' can't be found: the file is damaged or cut short")
        (count,) = struct.unpack_from("<q", whole, position)
        size = count * dtypes[key].itemsize
        if not 0 <= size <= len(whole) - position - 8:
            raise DataError(f"the numbers '{shown(key)}' are cut short")
        numbers[key] = whole[position + 8 : position + 8 + size]
        position += 8 + size
    return value


def _walk(value: Any) -> Iterator[tuple[_Place, Any]]:
    """Every argument record and every tensor inside a value, with its place."""
    waiting: list[tuple[_Place, Any, int]] = [(None, value, 0)]
    visited = 0
    while waiting:
        place, item, depth = waiting.pop()
        visited += 1
        if visited > _MOST_VALUES or depth > _DEEPEST:
            raise DataError("it is nested too deep or has too many values to be a checkpoint")
        if isinstance(item, (Arguments, StoredTensor)):
            yield place, item
        if isinstance(item, (dict, list, tuple)):
            inside = item.items() if isinstance(item, dict) else enumerate(item)
            wanted = [(key, part) for key, part in inside if isinstance(part, (dict, list, tuple, StoredTensor))]
            waiting += [((place, key), part, depth + 1) for key, part in reversed(wanted)]


def _name(place: _Place) -> str:
    keys = []
    while place is not None:
        place, key = place
        keys.append(str(key))
    name = ".".join(reversed(keys))
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise DataError(f"'{shown(name)}' is no name of a tensor: it is too long or can't be printed")
    return name
