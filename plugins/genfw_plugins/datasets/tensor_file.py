"""Arrays in one npz or safetensors file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import safetensors
import torch
from torch import Tensor

from genfw import ContractError, DataError, Dataset, Size, Split
from genfw.errors import AbsentDataError
from genfw.plugins.validators import at_least, within
from genfw_plugins.datasets._arrays import ArraySplit

#: What NumPy, zipfile and safetensors raise for damaged, encrypted and lying files.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, safetensors.SafetensorError),
)


@attrs.define(kw_only=True, eq=False, slots=False)
class TensorFile(Dataset):
    """Rows of named arrays in an ``.npz`` or ``.safetensors`` file; nothing in them is ever unpickled.

    Bytes (uint8) are pixels and become float32 in [-1, 1]; other numbers become float32 and are read as they are.

    Arguments:
        file: The file.
        shape: Shape of one row.
        train: Array of the training rows.
        test: Array of the test rows; the last ``test_fraction`` of ``train`` where absent.
        train_labels: Array of the classes of ``train``; none where absent.
        test_labels: Array of the classes of ``test``.
        test_fraction: Share of ``train`` in the test split where ``test`` is absent.
        limit: Rows kept in each split, from the first.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 512}

    file: Path
    shape: list[int]
    train: str = "train"
    test: str | None = None
    train_labels: str | None = None
    test_labels: str | None = None
    test_fraction: float = attrs.field(default=0.1, validator=within(0, 1, "()"))
    limit: int | None = attrs.field(default=None, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if Path(self.file).suffix not in (".npz", ".safetensors"):
            raise ContractError(f"the file must be an .npz or a .safetensors file, got {self.file}")

    @property
    def data_shape(self) -> Size:
        """``shape``."""
        return tuple(self.shape)

    def split(self, name: str) -> Split:
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'; there are train, test")
        if name == "test" and self.test is not None:
            rows = slice(None)
            items, labels = self._read(self.test), self._labels(self.test_labels)
        else:
            items, labels = self._read(self.train), self._labels(self.train_labels)
            tests = 0 if self.test is not None else max(1, round(self.test_fraction * len(items)))
            rows = slice(len(items) - tests) if name == "train" else slice(len(items) - tests, None)
        shape = tuple(items.shape[1:])
        if shape != self.data_shape:
            raise DataError(f"rows of {self.file} have shape {shape}, but 'shape' is {self.data_shape}")
        if labels is not None and len(labels) != len(items):
            raise DataError(f"{self.file} has {len(items)} rows but {len(labels)} labels for the split '{name}'")
        items, labels = items[rows][: self.limit], None if labels is None else labels[rows][: self.limit]
        return ArraySplit(items if items.dtype == torch.uint8 else self._float32(items), labels)

    def _float32(self, items: Tensor) -> Tensor:
        """Numbers of any kind as float32; a NaN would be blamed on the learning rate after many steps."""
        if items.is_complex():
            raise DataError(f"{self.file} holds complex numbers; store real and imaginary part as two columns")
        values = items.to(torch.float32)
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            where = tuple(bad[0].tolist())
            raise DataError(
                f"{self.file} has {len(bad):,} values that are not finite in float32, the first of them "
                f"{items[where].item()} at {list(where)}"
            )
        return values

    def _labels(self, name: str | None) -> Tensor | None:
        return None if name is None else self._read(name).to(torch.int64)

    def _read(self, name: str) -> Tensor:
        path = Path(self.file).expanduser()
        if not path.is_file():
            raise AbsentDataError(f"there is no file {path}; set 'file' to where it is")
        try:
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    there = list(arrays)
                    value = _native(arrays[name]) if name in there else None
            else:
                with safetensors.safe_open(path, "pt") as arrays:
                    there = list(arrays.keys())
                    value = arrays.get_tensor(name) if name in there else None
        except _UNREADABLE as error:
            raise DataError(f"{path} can't be read: {error}") from error
        if value is None:
            raise DataError(f"{path} has no array '{name}'; it has {', '.join(there)}")
        if not value.ndim:
            raise DataError(f"array '{name}' of {path} is one number, not rows")
        return value


def _native(member: Any) -> Tensor:
    """A member of an npz file, which may be bytes, as a tensor in this machine's byte order."""
    array = np.asarray(member)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
