"""The interface of a measurement of a trained model."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.results import Result


class Metric(abc.ABC):
    """Something to measure after training.

    A subclass guarantees that it does not change the model, draws randomness only from the evaluation's generators, and
    records in each result's protocol everything that would change the number.

    With several processes only the first one runs ``compute``. The workers draw samples without the metric's doing;
    :meth:`~genfw.evaluation.evaluation.Evaluation.spread` distributes other work.
    """

    @abc.abstractmethod
    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        """Measure; a failure of one metric is recorded, and the others go on."""
