"""Data sets: rows by number, in named splits."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from genfw.interfaces.values import Size


class Split(abc.ABC):
    """Rows of one split, by number.

    A subclass guarantees that ``get`` is a pure function of its arguments and may be called from a background thread.
    """

    #: False where ``get`` reads files or decodes images: the engine then reads ahead in a background thread.
    in_memory: bool = True
    #: False where ``get`` leaves the generator alone, so that none need be made.
    random: bool = True

    @abc.abstractmethod
    def __len__(self) -> int:
        """Count of rows."""

    @abc.abstractmethod
    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        r"""Read rows.

        Arguments:
            index: Row numbers, int64, with shape :math:`(B,)`, on the CPU.
            generator: Source of random augmentation; ``None`` reads the rows as they are.

        Returns:
            Items (float32, images in [-1, 1]), with shape :math:`(B, *)`, and labels :math:`(B,)` or ``None``.
        """


class TensorSplit(Split):
    r"""Rows of a tensor, without labels.

    Arguments:
        x: Items, with shape :math:`(N, *)`, on the CPU.
    """

    random = False

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        return self.x[index], None


class Dataset(abc.ABC):
    """A data set with named splits.

    A subclass guarantees that its constructor reads and downloads nothing, that ``data_shape`` depends only on the
    constructor's arguments, and that ``split`` raises a :class:`~genfw.errors.DataError` for an absent file and names
    where it looked.
    """

    @property
    @abc.abstractmethod
    def data_shape(self) -> Size:
        """Shape of one item, without batch."""

    @abc.abstractmethod
    def split(self, name: str) -> Split:
        """Open a split: ``train`` and ``test`` always exist, a data set may have more.

        Raises:
            DataError: The files are absent or damaged, or there is no such split.
        """

    def examine(self) -> None:
        """Look at the headers of the files, as far as that is quick; read no rows and fetch nothing.

        ``genfw check`` calls it, and every run before its first step. It does nothing by default.

        Raises:
            AbsentDataError: The files are not there.
            DataError: They are not what the constructor's arguments say.
        """

    def log_prob(self, x: Tensor) -> Tensor | None:
        r"""Exact log density of the data's law in nats, with shape :math:`(B,)`; ``None`` where it is unknown."""
        return None
