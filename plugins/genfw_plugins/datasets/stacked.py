"""Stacked MNIST: a set with a thousand known modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Dataset, Size, Split
from genfw.plugins.validators import at_least
from genfw_plugins.datasets._arrays import DrawnDataset


@attrs.define(kw_only=True, eq=False, slots=False)
class Stacked(DrawnDataset):
    """Three grey images drawn at random, as the channels of one RGB image; their labels give ``100 a + 10 b + c``.

    Over MNIST this is "Stacked MNIST": 1,000 modes, counted with a digit classifier per channel.

    References:
        VEEGAN (Srivastava et al., 2017), https://arxiv.org/abs/1705.07761
        PacGAN (Lin et al., 2018), https://arxiv.org/abs/1712.04086

    Arguments:
        source: A set of grey images with labels 0 to 9.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"train": 512, "test": 256}

    source: Dataset
    train: int = attrs.field(default=60_000, validator=at_least(1))
    test: int = attrs.field(default=10_000, validator=at_least(1))
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        shape = self.source.data_shape
        if len(shape) != 3 or shape[0] != 1:
            raise ContractError(f"stacking needs images of one channel, but the source's items are {shape}")

    @property
    def data_shape(self) -> Size:
        """Three channels of the source's size."""
        return (3, *self.source.data_shape[1:])

    def examine(self) -> None:
        self.source.examine()

    def split(self, name: str) -> Split:
        count, generator = self.begin(name, "stacked")
        source = self.source.split(name)
        return _StackedSplit(source, torch.randint(len(source), (count, 3), generator=generator))


class _StackedSplit(Split):
    """Rows of three rows of another split each.

    Arguments:
        source: The split that is stacked.
        rows: Its row numbers, with shape ``(N, 3)``.
    """

    def __init__(self, source: Split, rows: Tensor) -> None:
        self.source, self.rows, self.in_memory = source, rows, source.in_memory

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        # shape: (3B, 1, H, W) -> (B, 3, H, W)
        x, label = self.source.get(self.rows[index].flatten(), generator=generator)
        if label is not None:
            label = (label.view(-1, 3) * torch.tensor([100, 10, 1])).sum(1)
        return x.view(len(index), 3, *x.shape[2:]), label
