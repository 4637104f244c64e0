"""Pictures of samples, beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from genfw import Evaluation, Metric, Result
from genfw.evaluation.pictures import is_image
from genfw.plugins.validators import at_least


@attrs.define(kw_only=True, eq=False, slots=False)
class SampleGrid(Metric):
    """A grid of samples (a scatter for vectors), and one of the data drawn alike.

    Every image is shown on one fixed range, -1 black and 1 white, with no stretching: grids of two runs may be
    compared.

    Arguments:
        count: Samples shown.
        columns: Images in a row; about square where absent.
        split: Split that the data beside them come from; the picture of data is left out where there is no data set.
    """

    smoke: ClassVar[dict[str, Any]] = {"count": 16}

    count: int = attrs.field(default=64, validator=at_least(1))
    columns: int | None = attrs.field(default=None, validator=at_least(1))
    split: str = "test"

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        samples = evaluation.samples(self.count).x
        image = is_image(tuple(samples.shape[1:]))
        kind = "values from -1 (black) to 1 (white)" if image else "first two coordinates"
        drawn = f"{self.count} samples, not picked; {kind}."
        figures = [
            evaluation.picture("model", "Samples", drawn, samples, columns=self.columns, folder="samples"),
        ]
        if evaluation.data is not None:
            rows = evaluation.rows(self.split, self.count)
            caption = f"{len(rows)} rows of the {self.split} split, drawn alike."
            figures.append(
                evaluation.picture(
                    "data", "Data", caption, rows.x, columns=self.columns, folder="samples", shows_data=True
                )
            )
        note = "A picture, not a number."
        return [
            Result("sample-grid", None, protocol=evaluation.protocol(samples=self.count), note=note, figures=figures)
        ]
