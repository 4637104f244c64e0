"""Data that a program gave."""

from __future__ import annotations

import attrs

from genfw import DataError, Dataset, Size, Split


@attrs.define(kw_only=True, eq=False, slots=False)
class Given(Dataset):
    """Data that were given in Python, as in ``genfw.run(recipe, data=x)``: the shape of an item, and no rows.

    It stands in the resolved recipe of such a run. You can sample from the run without its data, and give them again to
    resume it: ``genfw.resume(directory, data=x)``.

    Arguments:
        shape: Shape of one item, without batch.
    """

    shape: list[int]

    @property
    def data_shape(self) -> Size:
        return tuple(self.shape)

    def split(self, name: str) -> Split:
        raise DataError(
            "this recipe's data were given in Python, so its rows are not here; give them again, as in "
            "genfw.run(recipe, data=x) or genfw.resume(directory, data=x)"
        )
