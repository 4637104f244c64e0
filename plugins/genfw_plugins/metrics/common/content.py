"""What data, weights and settings are called by: hashes of their content; and where what is kept by them lies."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genfw import DataError, Evaluation, Split
from genfw.evaluation.extent import Extent

#: Rows read at once.
_CHUNK = 2048


def cache_folder(evaluation: Evaluation, name: str) -> Path | None:
    """Where things worth keeping over runs lie: ``$GENFW_CACHE`` or ``~/.cache/genfw``, and the folder ``name`` in it.

    Arguments:
        evaluation: The evaluation; a smoke run keeps nothing, and has ``None``.
        name: What is kept, such as ``classifiers``.
    """
    if evaluation.smoke:
        return None
    return Path(os.path.expanduser(os.environ.get("GENFW_CACHE") or "~/.cache/genfw")) / name


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    seen = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        seen.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        seen.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def digest_of_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 of JSON scalars by name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_split(split: Split) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A split's rows in order without augmentation, some thousand at a time."""
    for index in torch.arange(len(split)).split(_CHUNK):
        yield split.get(index)


def digest_of_split(split: Split, extent: Extent | None = None) -> str:
    """SHA-256 of what a split's rows and labels are, wherever they come from.

    Arguments:
        split: The split.
        extent: Counts the values on the way.

    Raises:
        DataError: The split is empty.
    """
    if len(split) == 0:
        raise DataError("the data set's split is empty")
    seen = hashlib.sha256(str(len(split)).encode())
    for number, (x, label) in enumerate(read_split(split)):
        if number == 0:
            seen.update(f"{tuple(x.shape[1:])} {label is not None};".encode())
        if extent is not None:
            extent.add(x)
        seen.update(x.to(torch.float32).contiguous().numpy().data)
        if label is not None:
            seen.update(label.to(torch.int64).contiguous().numpy().data)
    return seen.hexdigest()
