"""The interface of a measurement of a trained model."""

from __future__ import annotations

import abc
import re
from collections.abc import Sequence
from typing import Any

import attrs

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.results import Result


def _is_label(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", value):
        raise ContractError(f"a label is made of letters, digits, '-' and '_', got '{value}'")


@attrs.define(kw_only=True, eq=False, slots=False)
class Metric(abc.ABC):
    """Something to measure after training.

    A subclass guarantees that it does not change the model, draws randomness only from the evaluation's generators, and
    records in each result's protocol everything that would change the number.

    With several processes only the first one runs ``compute``. All draw samples without the metric's doing;
    :meth:`~genfw.evaluation.evaluation.Evaluation.spread` distributes other work.

    Arguments:
        label: Tells entries of one metric apart: results are called ``auprc@label``, and ``--only`` takes
            ``anomaly@label``.
    """

    label: str = attrs.field(default="", validator=_is_label)

    def examine(self, evaluation: Evaluation) -> None:
        """Refuse a model or data that this metric can't measure; does nothing by default.

        ``genfw check`` calls it, and every run before its first step, so look at shapes and at which parts there are.
        The model has no numbers yet, and the data may be absent: call no network and read no rows.

        Arguments:
            evaluation: The model, the data set and how samples are drawn.

        Raises:
            GenfwError: What does not fit, and what would.
        """

    @abc.abstractmethod
    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        """Measure; a failure of one metric is recorded, and the others go on."""
