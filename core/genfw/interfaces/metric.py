"""A measurement of a trained model, with the protocol it was taken under."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from genfw.evaluate import Evaluation

__all__ = ["Figure", "Metric", "Result"]


@attrs.frozen
class Figure:
    """A picture that a metric leaves in the run directory and the report shows.

    Arguments:
        path: Relative to the run directory, such as ``figures/density.png``.
        title: Heading in the report.
        caption: What is seen, with units and value range.
    """

    path: str
    title: str
    caption: str = ""


@attrs.frozen
class Result:
    """One number (or none) with everything needed to take it again.

    Arguments:
        name: Key in ``evaluation.json``, such as ``log-likelihood``.
        value: The number; ``None`` where it could not be taken, with the reason in ``note``.
        unit: Such as ``nats``; empty for a pure number.
        protocol: Sample count, split, extractor and hash, chain length, seed, ...: JSON scalars only.
        error: Standard error of ``value``, where it is known.
        better: ``lower``, ``higher`` or empty.
        note: A sentence for the reader.
        figures: Pictures that belong to it.
    """

    name: str
    value: float | None
    unit: str = ""
    protocol: Mapping[str, Any] = attrs.field(factory=dict)
    error: float | None = None
    better: str = ""
    note: str = ""
    figures: Sequence[Figure] = ()


class Metric(abc.ABC):
    """Something to measure after training.

    A subclass guarantees that it leaves the model as it found it, draws randomness from the evaluation's generators
    alone, and records in each result's protocol whatever would change the number.

    Where a run is evaluated by several processes, the first one alone runs ``compute``. Samples are shared out without
    the metric's doing; what else takes long can be, by :meth:`~genfw.evaluate.Evaluation.spread`.
    """

    @abc.abstractmethod
    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        """Measure; a failure of one metric is recorded, and the others go on."""
