"""Data from Python: arrays, torch data sets and files, as what a recipe's ``data:`` section builds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from genfw.errors import AbsentDataError, ContractError, DataError
from genfw.interfaces.dataset import Dataset, Split
from genfw.interfaces.values import Size

#: The component that stands in a resolved recipe for data that were given in Python.
GIVEN = "given"
_TESTS = 0.1


class TensorData(Dataset):
    r"""Rows of arrays, split into ``train`` and ``test``.

    Bytes (uint8) are pixels and become float32 in [-1, 1]; other numbers become float32 and are taken as they are.

    Arguments:
        x: Items, a tensor or what NumPy makes an array of, with shape :math:`(N, *)`; images are :math:`(N, C, H, W)`.
        y: Their classes, with shape :math:`(N,)`, or ``None``.
        test: Items of the test split; the last ``test_fraction`` of ``x`` where absent.
        test_y: Their classes.
        test_fraction: Share of ``x`` in the test split where ``test`` is absent.

    Raises:
        DataError: There are too few rows, numbers that are not finite, or labels that do not fit.
    """

    def __init__(
        self, x: Any, y: Any = None, *, test: Any = None, test_y: Any = None, test_fraction: float = _TESTS
    ) -> None:
        rows = _Rows(_items(x, "x"), _labels(y), "x")
        self._shape = tuple(rows.x.shape[1:])
        if test is None:
            train, held = _cut(len(rows), test_fraction)
            self._splits = {"train": rows.part(train), "test": rows.part(held)}
        else:
            others = _Rows(_items(test, "test"), _labels(test_y), "test")
            if tuple(others.x.shape[1:]) != self._shape:
                raise DataError(f"items of test have shape {tuple(others.x.shape[1:])}, and those of x {self._shape}")
            self._splits = {"train": rows, "test": others}

    @property
    def data_shape(self) -> Size:
        return self._shape

    def split(self, name: str) -> Split:
        return _named(self._splits, name)


class MapData(Dataset):
    """Rows of map-style torch data sets, whose items are ``x``, or ``(x, y)`` and more that is not read.

    Tensors and arrays are taken as :class:`TensorData` takes them. Pictures of PIL become pixels in [-1, 1].

    Arguments:
        train: Items of the training split.
        test: Items of the test split; the last tenth of ``train`` where absent.

    Raises:
        ContractError: A data set has no length, or can't be read by number.
    """

    def __init__(self, train: Any, test: Any = None) -> None:
        for data in (train, *([] if test is None else [test])):
            if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
                raise ContractError(
                    f"{type(data).__name__} is no map-style data set: genfw reads rows by number, so it needs "
                    "__getitem__ and __len__; collect a stream of rows in genfw.TensorData"
                )
        kept, held = (range(len(train)), None) if test is not None else _cut(len(train), _TESTS)
        self._splits = {
            "train": _Items(train, kept),
            "test": _Items(train, held) if held is not None else _Items(test, range(len(test))),
        }
        self._shape = tuple(_item(train[0])[0].shape)

    @property
    def data_shape(self) -> Size:
        return self._shape

    def split(self, name: str) -> Split:
        return _named(self._splits, name)


def as_data(data: Any) -> Dataset | Mapping[str, Any]:
    """What ``data=`` may be, as a data set or as a block of a recipe.

    Arguments:
        data: A :class:`Dataset`; a map-style torch data set, or a pair ``(train, test)`` of them; a tensor or an array;
            a file (``.pt`` with one tensor, or what the component ``tensor-file`` reads); or a block such as
            ``{"use": "image-folder", "root": "photos", "size": 64}``.

    Raises:
        ContractError: It is none of these.
        DataError: A file is absent or can't be read.
    """
    if isinstance(data, Dataset | Mapping):
        return data
    if isinstance(data, str | Path):
        path = Path(os.path.expanduser(data))
        return (
            TensorData(_torch_file(path))
            if path.suffix in (".pt", ".pth")
            else {
                "use": "tensor-file",
                "file": str(path),
            }
        )
    if isinstance(data, tuple) and len(data) == 2:
        if all(isinstance(part, Tensor | np.ndarray) for part in data):
            raise ContractError(
                "a pair of arrays may be (train, test) or (x, y): write genfw.TensorData(x, y, test=...)"
            )
        return MapData(*data)
    if isinstance(data, Tensor | np.ndarray | list):
        return TensorData(data)
    if isinstance(data, TorchDataset) or hasattr(data, "__getitem__"):
        return MapData(data)
    raise ContractError(
        f"data is a genfw or torch data set, an array, a file or a recipe's block; got {type(data).__name__}"
    )


# -- splits -----------------------------------------------------------------------------------------------------------


class _Rows(Split):
    """Rows of a tensor in memory, with their classes."""

    def __init__(self, x: Tensor, y: Tensor | None, name: str) -> None:
        if y is not None and y.shape != x.shape[:1]:
            raise DataError(f"{name} has {len(x)} items, and its labels have shape {tuple(y.shape)}")
        self.x, self.y, self.name = x, y, name

    def part(self, rows: range) -> _Rows:
        where = slice(rows.start, rows.stop)
        return _Rows(self.x[where], None if self.y is None else self.y[where], self.name)

    def __len__(self) -> int:
        return len(self.x)

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        return _values(self.x[index]), None if self.y is None else self.y[index]


class _Items(Split):
    """Some rows of a torch data set."""

    in_memory = False

    def __init__(self, data: Any, rows: range) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        items = [_item(self.data[self.rows[row]]) for row in index.tolist()]
        labels = [label for _, label in items if label is not None]
        x = torch.stack([_values(item) for item, _ in items]) if items else torch.empty(0)
        return x, torch.tensor(labels) if items and len(labels) == len(items) else None


def _named(splits: Mapping[str, Split], name: str) -> Split:
    if name not in splits:
        raise DataError(f"there is no split '{name}'; there are {', '.join(splits)}")
    return splits[name]


def _cut(count: int, fraction: float) -> tuple[range, range]:
    """Rows of the training split and of the test split."""
    if not 0.0 < fraction < 1.0:
        raise ContractError(f"test_fraction lies between 0 and 1, got {fraction}")
    tests = max(1, round(fraction * count))
    if count - tests < 1:
        raise DataError(f"{count} row(s) can't be split into training and test rows; give more")
    return range(count - tests), range(count - tests, count)


# -- values -----------------------------------------------------------------------------------------------------------


def _values(x: Tensor) -> Tensor:
    return x.to(torch.float32).div_(127.5).sub_(1.0) if x.dtype == torch.uint8 else x.to(torch.float32)


def _items(x: Any, name: str) -> Tensor:
    """Rows as uint8 or float32, finite."""
    array = x.detach().cpu() if isinstance(x, Tensor) else _array(x)
    if array.ndim < 2:
        raise DataError(f"{name} needs rows of one shape, (N, *), got shape {tuple(array.shape)}")
    if array.is_complex():
        raise DataError(f"{name} holds complex numbers; give real and imaginary part as two columns")
    if array.dtype == torch.uint8:
        return array
    array = array.to(torch.float32)
    if not (finite := array.isfinite()).all():
        place = (~finite).nonzero()[0].tolist()
        raise DataError(f"{name} has {int((~finite).sum()):,} values that are not finite, the first at {place}")
    return array


def _labels(y: Any) -> Tensor | None:
    return None if y is None else (y.detach().cpu() if isinstance(y, Tensor) else _array(y)).to(torch.int64)


def _array(x: Any) -> Tensor:
    try:
        return torch.from_numpy(np.require(x, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise DataError(f"{type(x).__name__} can't be made an array of numbers: {error}") from error


def _item(item: Any) -> tuple[Tensor, int | None]:
    """One item of a torch data set and its class; bytes stay bytes."""
    x, label = (item[0], item[1] if len(item) > 1 else None) if isinstance(item, tuple | list) else (item, None)
    if not isinstance(x, Tensor):
        picture = hasattr(x, "getbands")  # one of PIL's
        x = _array(x)
        if picture:
            x = x[None] if x.ndim == 2 else x.movedim(-1, 0)
    whole = isinstance(label, int | np.integer) or (isinstance(label, Tensor) and label.ndim == 0)
    return x.detach().cpu(), int(label) if whole and label is not None else None


def _torch_file(path: Path) -> Tensor:
    if not path.is_file():
        raise AbsentDataError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise DataError(f"{path} can't be read as tensors alone: {error}") from error
    if not isinstance(content, Tensor):
        raise DataError(f"{path} holds {type(content).__name__}, not one tensor; give genfw.TensorData(x, y)")
    return content
