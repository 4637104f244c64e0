"""Stand-in data for smoke runs: smooth, labelled, reproducible, in any shape."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn import functional

from genfw.errors import AbsentDataError, ContractError, DataError
from genfw.interfaces.dataset import Dataset, Split
from genfw.interfaces.values import Size
from genfw.randomness import derive_seed

_log = logging.getLogger("genfw")

_SPLITS = ("train", "test", "validation", "held-out", "all")


class Synthetic(Dataset):
    r"""Random fields of any shape in [-1, 1].

    Row :math:`i` of a split depends only on the split's name and :math:`i`: coarse noise, enlarged smoothly where the
    shape is that of an image, plus its label's pattern, squashed by tanh.

    Arguments:
        data_shape: Shape of one item, without batch.
        rows: Rows in the training split; other splits have a quarter of them.
        classes: Count of labels.
    """

    def __init__(self, data_shape: Size, rows: int = 256, classes: int = 10) -> None:
        if not data_shape or min(data_shape) < 1:
            raise ContractError(f"data_shape needs positive sizes, got {tuple(data_shape)}")
        if rows < 4 or classes < 1:
            raise ContractError(f"rows is at least 4 and classes at least 1, got {rows} and {classes}")
        self._shape, self.rows, self.classes = tuple(data_shape), rows, classes

    @property
    def data_shape(self) -> Size:
        return self._shape

    def split(self, name: str) -> Split:
        """Open ``train``, ``test``, ``validation``, ``all``, or ``held-out``, which has classes that are held out."""
        if name not in _SPLITS:
            raise DataError(f"synthetic data has no split '{name}'; there are {', '.join(_SPLITS)}")
        return _Split(self, name, self.rows if name == "train" else self.rows // 4)


def stand_in(data: Dataset) -> Dataset:
    """The data set; or, where its files are absent, synthetic data of its shape, with a warning.

    Arguments:
        data: The data set of a smoke run.

    Raises:
        DataError: The files are there, and wrong.
    """
    try:
        data.split("train")
        try:
            data.split("test")
        except AbsentDataError:
            raise
        except DataError:
            pass  # a set may lack this split; what reads it says so
    except AbsentDataError as error:
        _log.warning("genfw: synthetic rows stand in for data in this smoke run: %s", error)
        return Synthetic(data.data_shape)
    return data


class _Split(Split):
    def __init__(self, data: Synthetic, name: str, rows: int) -> None:
        self.data, self.name, self.count = data, name, rows

    def __len__(self) -> int:
        return self.count

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= self.count):
            raise DataError(f"split '{self.name}' has rows 0 to {self.count - 1}")
        label = index % self.data.classes
        pairs = zip(index.tolist(), label.tolist(), strict=True)
        rows = [self._field(self.name, row) + self._field("class", each) for row, each in pairs]
        x = torch.stack(rows) if rows else torch.empty(0, *self.data.data_shape)
        return torch.tanh(x), label

    def _field(self, *names: str | int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(0, "synthetic", *names))
        shape = self.data.data_shape
        if len(shape) != 3:
            return torch.randn(shape, generator=generator) * 0.5
        coarse = torch.randn(1, shape[0], min(4, shape[1]), min(4, shape[2]), generator=generator)
        return functional.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=False)[0] * 0.5
