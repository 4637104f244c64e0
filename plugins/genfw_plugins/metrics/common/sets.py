"""Rows of data sets beside the recipe's own."""

from __future__ import annotations

import torch
from torch import Tensor

from genfw import Batch, ContractError, Dataset, Evaluation, Size, Split
from genfw.randomness import derive_seed
from genfw.training.synthetic import stand_in


def available(evaluation: Evaluation, data: Dataset) -> Dataset:
    """The data set; in a smoke run, data of its shape where its files are absent."""
    return stand_in(data) if evaluation.smoke else data


def check_shape(name: str, data: Dataset, shape: Size) -> None:
    """Refuse a set whose items are not shaped like the model's.

    Raises:
        ContractError: They are not.
    """
    if tuple(data.data_shape) != tuple(shape):
        raise ContractError(
            f"items of '{name}' have shape {tuple(data.data_shape)} and those of the model {tuple(shape)}; "
            "set its size, or name another set"
        )


def draw_index(size: int, count: int | None, *names: str) -> Tensor:
    """Numbers of rows, the same ones in every run.

    Arguments:
        size: Rows there are.
        count: Rows wanted; all where absent or larger than ``size``, else a random subset, in order.
        names: What the subset is chosen by, beside ``count``.
    """
    if count is None or count >= size:
        return torch.arange(size)
    generator = torch.Generator().manual_seed(derive_seed(0, "rows", *names, count))
    return torch.randperm(size, generator=generator)[:count].sort().values


def take_rows(split: Split, count: int | None, *names: str) -> Batch:
    """Rows of a split without augmentation; arguments as for :func:`draw_index`."""
    index = draw_index(len(split), count, *names)
    x, label = split.get(index)
    # A run in double precision sets the default type for its length.
    return Batch(x.to(torch.get_default_dtype()), index, label)
