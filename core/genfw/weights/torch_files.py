"""What ``torch.save`` wrote, in the zip format or the one before it, read without executing anything.

The pickle inside is read by :mod:`genfw.weights.pickled`; tensors are read when they are asked for.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import attrs
import torch
from torch import Tensor

from genfw.errors import DataError
from genfw.weights.pickled import Arguments, RefusedError, Storage, StoredTensor, read_pickle

__all__ = ["Published", "open_published", "read_legacy"]

#: How a file in the format before the zip format begins: a magic number and a version, each pickled.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

#: More values, or deeper ones, than any checkpoint has: a file that goes beyond is meant to exhaust the reader.
_MOST_VALUES, _DEEPEST = 2_000_000, 64
_LARGEST_PICKLE = 512 * 1024 * 1024


@attrs.frozen(eq=False)
class Published:
    """A published checkpoint, open for reading.

    Arguments:
        tensors: Every tensor by its path in the file, keys joined by ``.``; read when it is asked for.
        arguments: Its argument record, empty where it has none.
    """

    tensors: _Tensors
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls, value: Any, numbers: Callable[[str], bytes | memoryview], arguments: Mapping[str, Any] | None = None
    ) -> Published:
        """What was read of a file, made ready for importers.

        Arguments:
            value: Containers, with :class:`~genfw.weights.pickled.StoredTensor` in them, and argument records.
            numbers: Key of a storage -> its bytes.
            arguments: Further arguments, which go before those of records.
        """
        tensors: dict[str, StoredTensor] = {}
        record: dict[str, Any] = {}
        for path, item in _walk(value):
            if isinstance(item, StoredTensor):
                tensors[path] = item
            elif isinstance(item, Arguments):
                record.update(item)
        return cls(_Tensors(tensors, numbers), record | dict(arguments or {}))


class _Tensors(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for, and remembered by name as used."""

    def __init__(self, described: Mapping[str, StoredTensor], numbers: Callable[[str], bytes | memoryview]) -> None:
        self._described, self._numbers = described, numbers
        self.used: set[str] = set()

    def __len__(self) -> int:
        return len(self._described)

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __contains__(self, name: object) -> bool:
        return name in self._described  # Mapping's own would read the tensor, and count it as used

    def __getitem__(self, name: str) -> Tensor:
        described = self._described[name]
        storage = described.storage
        dtype: torch.dtype = getattr(torch, storage.dtype)
        raw = self._numbers(storage.key)
        if len(raw) != storage.count * dtype.itemsize:
            raise DataError(f"tensor '{name}' needs {storage.count} numbers, and {len(raw)} bytes are there")
        last = described.offset + sum((n - 1) * s for n, s in zip(described.size, described.stride, strict=True))
        if 0 not in described.size and (last >= storage.count or math.prod(described.size) > storage.count):
            raise DataError(f"tensor '{name}' of shape {described.size} reaches beyond its {storage.count} numbers")
        self.used.add(name)
        if 0 in described.size:
            return torch.empty(described.size, dtype=dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)
        return flat.as_strided(described.size, described.stride, described.offset).clone()


@contextlib.contextmanager
def open_published(file: str | Path) -> Iterator[Published]:
    """Open a checkpoint that ``torch.save`` has written, in either format; its tensors can be read inside the block.

    Arguments:
        file: The checkpoint.

    Raises:
        DataError: It is no checkpoint, is damaged, or wants code to run.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        with contextlib.ExitStack() as stack:
            numbers: Callable[[str], bytes | memoryview]
            if zipfile.is_zipfile(file):
                value, numbers = _open_zip(stack.enter_context(zipfile.ZipFile(file)))
            else:
                handle = stack.enter_context(open(file, "rb"))
                value, numbers = _open_legacy(handle)
            yield Published.of(value, numbers)
    except (DataError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: {error}") from error


def _open_zip(archive: zipfile.ZipFile) -> tuple[Any, Callable[[str], bytes]]:
    names = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DataError("this archive was not written by torch.save: it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def entry(name: str, most: int | None = None) -> bytes:
        info = names.get(folder + name)
        if info is None:
            raise DataError(f"the archive has no {folder}{name}")
        # torch stores and never compresses; a small file that unpacks to a huge one is no checkpoint.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > (most or info.compress_size):
            raise DataError(f"{folder}{name} is compressed or too large; torch.save writes neither")
        return archive.read(info)

    order = entry("byteorder", 64) if f"{folder}byteorder" in names else b"little"
    if order.decode("ascii", "replace") != sys.byteorder:
        raise DataError(f"its numbers are in {order!r} byte order, which this machine does not have")
    return read_pickle(io.BytesIO(entry("data.pkl", _LARGEST_PICKLE))), lambda key: entry(f"data/{key}")


def _open_legacy(handle: io.BufferedReader) -> tuple[Any, Callable[[str], memoryview]]:
    if handle.seek(0, os.SEEK_END) == 0:
        raise DataError("the file is empty")
    # Mapped, not read: a length that a damaged file states can't make us ask for that much memory.
    mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    return read_legacy(mapped, memoryview(mapped))  # type: ignore[arg-type]


def read_legacy(stream: IO[bytes], whole: memoryview) -> tuple[Any, Callable[[str], memoryview]]:
    """What ``torch.save`` wrote before the zip format: pickles, then the numbers.

    Arguments:
        stream: Opened at the first byte.
        whole: The same bytes.

    Returns:
        The value, and what gives the bytes of a storage by its key.

    Raises:
        DataError: It is no such file, is damaged, or wants code to run.
    """
    try:
        known = read_pickle(stream) == _LEGACY_MAGIC and read_pickle(stream) == _LEGACY_VERSION
    except RefusedError:
        raise
    except DataError:
        known = False
    if not known:
        raise DataError("this is no checkpoint of torch.save, neither a zip archive nor the format before it")
    system, value, keys = (read_pickle(stream) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise DataError("its numbers are in a byte order that this machine does not have")
    items = (item for _, item in _walk(value))
    storages = (item.storage if isinstance(item, StoredTensor) else item for item in items)
    counts = {item.key: item for item in storages if isinstance(item, Storage)}
    places: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys if isinstance(keys, list) else ():
        if key not in counts or position + 8 > len(whole):
            raise DataError(f"the numbers '{key}' can't be found: the file is damaged or cut short")
        (count,) = struct.unpack_from("<q", whole, position)
        size = count * getattr(torch, counts[key].dtype).itemsize
        if not 0 <= size <= len(whole) - position - 8:
            raise DataError(f"the numbers '{key}' are cut short")
        places[key] = (position + 8, size)
        position += 8 + size

    def numbers(key: str) -> memoryview:
        if key not in places:
            raise DataError(f"the file lacks the numbers '{key}'")
        start, size = places[key]
        return whole[start : start + size]

    return value, numbers


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Everything inside a value that is no container, and argument records, by path."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    visited = 0
    while waiting:
        path, item, depth = waiting.pop()
        visited += 1
        if visited > _MOST_VALUES or depth > _DEEPEST:
            raise DataError("it is nested too deep or has too many values to be a checkpoint")
        if isinstance(item, Arguments) or not isinstance(item, (dict, list, tuple)):
            yield path, item
            continue
        inside = item.items() if isinstance(item, dict) else enumerate(item)
        waiting += [(f"{path}.{key}" if path else str(key), part, depth + 1) for key, part in reversed([*inside])]
