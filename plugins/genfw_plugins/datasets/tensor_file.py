"""Arrays in one file: npz, npy, csv, safetensors, or tensors that torch.save has written."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import attrs
import numpy as np
import safetensors
import torch
from torch import Tensor

from genfw import ContractError, DataError, Dataset, Size, Split
from genfw.errors import AbsentDataError, quoted, readable, shown
from genfw.plugins.validators import at_least, within
from genfw.weights.archives import Archive
from genfw.weights.torch_files import open_published
from genfw_plugins.datasets._arrays import ArraySplit


@attrs.define(kw_only=True, eq=False, slots=False)
class TensorFile(Dataset):
    """Rows of an array in a ``.npz``, ``.npy``, ``.csv``, ``.safetensors``, ``.pt`` or ``.pth`` file.

    Nothing in the file is executed: pickled objects in ``.npz`` and ``.npy`` are refused, and of what ``torch.save``
    wrote only tensors are read. A ``.npy`` file, a ``.csv`` file and a lone tensor have one array, called ``train``.
    A ``.csv`` file has one row a line, with commas, semicolons or tabs between its numbers; names of columns may stand
    in its first line.

    Bytes (uint8) are pixels and become float32 in [-1, 1]; other numbers become float32 and are read as they are.

    Arguments:
        file: The file.
        shape: Shape of one row; that of the array's rows where absent. The columns of a ``.csv`` file are put into it.
        train: Array of the training rows.
        test: Array of the test rows; the last ``test_fraction`` of ``train`` where absent.
        train_labels: Array of the classes of ``train``; none where absent.
        test_labels: Array of the classes of ``test``.
        test_fraction: Share of ``train`` in the test split where ``test`` is absent.
        limit: Rows kept in each split, from the first.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 512}

    file: Path
    shape: list[int] | None = attrs.field(default=None, validator=at_least(1))
    train: str = "train"
    test: str | None = None
    train_labels: str | None = None
    test_labels: str | None = None
    test_fraction: float = attrs.field(default=0.1, validator=within(0, 1, "()"))
    limit: int | None = attrs.field(default=None, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if self._ending not in _OPENERS:
            raise ContractError(f"the file must end in {quoted(_OPENERS)}; got {self.file}")

    @functools.cached_property
    def data_shape(self) -> Size:
        """``shape``, or that of the rows of ``train``, for which the file is opened but the rows are not read."""
        if self.shape is not None:
            return tuple(self.shape)
        with self._arrays() as arrays:
            array = self._array(arrays, self.train)
            with readable(self.file):
                return self._row_shape(array.shape(), self.train)

    def examine(self) -> None:
        with self._arrays() as arrays:
            for name in (self.train, self.test):
                if name is None:
                    continue
                array = self._array(arrays, name)
                with readable(self.file):
                    shape = self._row_shape(array.shape(), name)
                self._check_rows(shape)
            for name in (self.train_labels, self.test_labels):
                if name is not None:
                    self._array(arrays, name)

    def split(self, name: str) -> Split:
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'; there are train, test")
        apart = name == "test" and self.test is not None
        array = self.test if name == "test" and self.test is not None else self.train
        names = self.test_labels if apart else self.train_labels
        with self._arrays() as arrays:
            items = self._rows(arrays, array)
            labels = None if names is None else self._labels(arrays, names)
        if labels is not None and len(labels) != len(items):
            raise DataError(f"{self.file} has {len(items)} rows but {len(labels)} labels for the split '{name}'")
        if self.test is None:
            first = len(items) - max(1, round(self.test_fraction * len(items)))
            rows = slice(first) if name == "train" else slice(max(first, 0), None)
            items, labels = items[rows], None if labels is None else labels[rows]
        if not len(items):
            raise DataError(f"{self.file} has no rows for the split '{name}'")
        items, labels = items[: self.limit], None if labels is None else labels[: self.limit]
        return ArraySplit(items if items.dtype == torch.uint8 else self._float32(items, array), labels)

    @property
    def _ending(self) -> str:
        return Path(self.file).suffix.lower()

    @contextlib.contextmanager
    def _arrays(self) -> Iterator[Mapping[str, _Array]]:
        path = Path(os.path.expanduser(self.file))
        if not path.is_file():
            raise AbsentDataError(
                f"there is no file {path}; set 'file' to where it is, and 'shape' where a smoke run is to do without it"
            )
        with _OPENERS[self._ending](path) as arrays:
            yield arrays

    def _array(self, arrays: Mapping[str, _Array], name: str) -> _Array:
        if name not in arrays:
            there = [shown(each) for each in arrays]
            raise DataError(f"{self.file} has no array '{name}'; it has {quoted(there[:12])}")
        return arrays[name]

    def _rows(self, arrays: Mapping[str, _Array], name: str) -> Tensor:
        array = self._array(arrays, name)
        with readable(self.file):
            shape = self._row_shape(array.shape(), name)
        self._check_rows(shape)
        with readable(self.file):
            items = array.read()
        return items.reshape(len(items), *self.data_shape)

    def _check_rows(self, shape: Size) -> None:
        wide = self._ending == ".csv" and math.prod(shape) == math.prod(self.data_shape)
        if shape != self.data_shape and not wide:
            raise DataError(f"rows of {self.file} have shape {shape}, but 'shape' is {self.data_shape}")

    def _row_shape(self, shape: tuple[int, ...], name: str) -> Size:
        if len(shape) < 2 or 0 in shape[1:]:
            what = "is one number" if not shape else f"has shape {shape}"
            raise DataError(f"array '{name}' of {self.file} {what}; rows of numbers have shape (N, ...)")
        return shape[1:]

    def _labels(self, arrays: Mapping[str, _Array], name: str) -> Tensor:
        array = self._array(arrays, name)
        with readable(self.file):
            labels = array.read()
        if labels.ndim != 1 or labels.is_complex():
            raise DataError(
                f"array '{name}' of {self.file} has shape {tuple(labels.shape)}; classes are one number each"
            )
        return labels.to(torch.int64)

    def _float32(self, items: Tensor, name: str) -> Tensor:
        """Numbers of any kind as float32; a NaN would be blamed on the learning rate after many steps."""
        if items.is_complex():
            raise DataError(f"{self.file} holds complex numbers; store real and imaginary part as two columns")
        values = items.to(torch.float32)
        bad = ~values.isfinite()
        if bad.any():
            row, *at = bad.nonzero()[0].tolist()
            column = f"column {at[0]}" if len(at) == 1 else f"position {at}"
            good = values[~bad]
            span = f"the others lie in [{good.min():g}, {good.max():g}]" if len(good) else "and no other is"
            raise DataError(
                f"array '{name}' of {self.file} has {int(bad.sum()):,} values that are not finite in float32; the "
                f"first is {items[row][tuple(at)].item()} in row {row}, {column}, counted from 0; {span}"
            )
        return values


# -- kinds of files ---------------------------------------------------------------------------------------------------


@attrs.frozen
class _Array:
    """One array of an open file.

    Arguments:
        shape: Gives its shape, and reads none of its numbers.
        read: Gives the array.
    """

    shape: Callable[[], tuple[int, ...]]
    read: Callable[[], Tensor]


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Mapping[str, _Array]]:
    with Archive(path) as archive:
        yield {
            name.removesuffix(".npy"): _npy_array(functools.partial(archive.open, name), info.file_size)
            for name, info in archive.entries.items()
            if name.endswith(".npy")
        }


@contextlib.contextmanager
def _npy(path: Path) -> Iterator[Mapping[str, _Array]]:
    yield {"train": _npy_array(lambda: path.open("rb"), path.stat().st_size)}


def _npy_array(opened: Callable[[], IO[bytes]], size: int) -> _Array:
    def shape() -> tuple[int, ...]:
        with opened() as stream:
            return _npy_shape(stream, size)

    def read() -> Tensor:
        shape()
        with opened() as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))

    return _Array(shape, read)


def _npy_shape(stream: IO[bytes], size: int) -> tuple[int, ...]:
    """What the header says, if that is as long as the file; NumPy asks for as much memory as any header says."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"arrays have no names of fields, as format {version} is for")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and nothing is ever unpickled")
    stated = math.prod(shape) * dtype.itemsize
    if stated != size - stream.tell():
        raise ValueError(f"the header says {stated:,} bytes of numbers, and {size - stream.tell():,} are there")
    return tuple(shape)


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Mapping[str, _Array]]:
    with readable(path):
        with open(path, encoding="utf-8-sig") as lines:
            first = lines.readline()
        separator = next((mark for mark in ",;\t" if mark in first), ",")
        cells = first.strip().lstrip("#").split(separator)
        numbers = [_is_number(cell) for cell in cells]
        if any(numbers) and not all(numbers):
            raise ValueError(
                f"the first line has both numbers and texts, such as '{shown(cells[numbers.index(False)], 40)}'"
            )

    def read(most: int | None = None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a file without numbers is a warning to NumPy
            array = np.loadtxt(
                path,
                delimiter=separator,
                ndmin=2,
                encoding="utf-8-sig",
                quotechar='"',
                skiprows=0 if all(numbers) else 1,
                max_rows=most,
            )
        return torch.from_numpy(array)

    yield {"train": _Array(lambda: tuple(read(1).shape), read)}


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _safe(path: Path) -> Iterator[Mapping[str, _Array]]:
    with readable(path):
        opened = safetensors.safe_open(path, "pt")
    with opened as arrays:
        yield {
            name: _Array(
                lambda name=name: tuple(arrays.get_slice(name).get_shape()),  # type: ignore[misc]
                functools.partial(arrays.get_tensor, name),
            )
            for name in arrays.keys()  # noqa: SIM118 - not a mapping
        }


@contextlib.contextmanager
def _torch(path: Path) -> Iterator[Mapping[str, _Array]]:
    with open_published(path) as published:
        tensors = published.tensors
        yield {
            name or "train": _Array(
                functools.partial(tensors.shape, name), functools.partial(tensors.__getitem__, name)
            )
            for name in tensors
        }


_OPENERS: Mapping[str, Callable[[Path], contextlib.AbstractContextManager[Mapping[str, _Array]]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".safetensors": _safe,
    ".pt": _torch,
    ".pth": _torch,
}
