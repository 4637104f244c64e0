"""A measurement of a trained model, with the protocol it was taken under."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.results import Result

__all__ = ["Metric"]


class Metric(abc.ABC):
    """Something to measure after training.

    A subclass guarantees that it leaves the model as it found it, draws randomness from the evaluation's generators
    alone, and records in each result's protocol whatever would change the number.

    Where a run is evaluated by several processes, the first one alone runs ``compute``. Samples are shared out without
    the metric's doing; what else takes long can be, by :meth:`~genfw.evaluation.evaluation.Evaluation.spread`.
    """

    @abc.abstractmethod
    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        """Measure; a failure of one metric is recorded, and the others go on."""
