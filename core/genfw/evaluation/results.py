"""What metrics give: numbers, figures, and data with their reconstructions."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from genfw.errors import GenfwError, one_line


@attrs.frozen
class Figure:
    """A picture in the run directory, which the report shows.

    Arguments:
        path: Its path in the run directory, such as ``figures/density.png``.
        title: Heading in the report.
        caption: What it shows, with units and value range.
        shows_data: Whether rows of the data can be seen in it; an exported model leaves such a picture out.
    """

    path: str
    title: str
    caption: str = ""
    shows_data: bool = False


@attrs.frozen
class Result:
    """One number (or none) with everything needed to measure it again.

    Arguments:
        name: Key in ``evaluation.json``, such as ``log-likelihood``.
        value: The number; ``None`` where measuring failed, with the reason in ``note``.
        unit: Its unit, such as ``nats``; empty for a pure number.
        protocol: Sample count, split, extractor and hash, chain length, seed, ...: JSON scalars only.
        error: Standard error of ``value``, where known.
        better: ``lower``, ``higher`` or empty.
        note: A sentence for the reader.
        figures: Its pictures.
        doubt: Why a reader should not rely on the number, in a sentence; it is shown wherever the number is.
        failed: Whether measuring failed; genfw sets it, and a metric raises an exception instead.
    """

    name: str
    value: float | None
    unit: str = ""
    protocol: Mapping[str, Any] = attrs.field(factory=dict)
    error: float | None = None
    better: str = ""
    note: str = ""
    figures: Sequence[Figure] = ()
    doubt: str = ""
    failed: bool = False


@attrs.frozen(eq=False)
class Pairs:
    r"""Data, and a metric's reconstruction of each item.

    Arguments:
        x: Data, with shape :math:`(N, *)`.
        made: Reconstructions or inversions, with the same shape.
        protocol: How they were computed.
    """

    x: Tensor
    made: Tensor
    protocol: Mapping[str, Any]


def describe_failure(error: BaseException) -> str:
    """One line on an error, with ``file:line`` unless it is an error that genfw expects."""
    if isinstance(error, GenfwError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{one_line(error)} ({Path(frame.filename).name}:{frame.lineno})"
