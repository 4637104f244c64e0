"""Scikit-learn's handwritten digits: real images with nothing to download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from genfw import DataError, Dataset, Size, Split
from genfw.plugins.validators import at_least, within
from genfw_plugins.datasets._arrays import ArraySplit, keep_rows


@attrs.define(kw_only=True, eq=False, slots=False)
class Digits(Dataset):
    """The 1,797 grey 8x8 digits that come with scikit-learn; levels 0 to 16 are read as ``level / 8 - 1``.

    The rows are put in one fixed order, drawn once; the last ``test_fraction`` of it is the test split.

    References:
        Optical recognition of handwritten digits (Alpaydin and Kaynak, 1998), https://doi.org/10.24432/C50P49

    Arguments:
        size: Height and width; above 8 the images are enlarged bilinearly.
        classes: Digits kept; all where absent.
        exclude: Digits left out of ``train`` and ``test``; those of the test rows are the split ``held-out``.
        limit: Rows kept in each split, from the first.
        test_fraction: Share of the rows in the test split.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 256}

    size: int = attrs.field(default=8, validator=at_least(8))  # the digits are 8x8 and are not shrunk
    classes: list[int] | None = None
    exclude: list[int] | None = None
    limit: int | None = attrs.field(default=None, validator=at_least(1))
    test_fraction: float = attrs.field(default=0.2, validator=within(0, 1, "()"))

    @property
    def data_shape(self) -> Size:
        """One grey channel."""
        return (1, self.size, self.size)

    def split(self, name: str) -> Split:
        if name not in ("train", "test", "held-out"):
            raise DataError(f"there is no split '{name}'; there are train, test, held-out")
        items, labels = self._read()
        tests = round(self.test_fraction * len(items))
        part = slice(None, -tests) if name == "train" else slice(-tests, None)
        items, labels = items[part], labels[part]
        if name == "held-out":
            rows = keep_rows(labels, classes=self.exclude or [], count=len(items))
        else:
            rows = keep_rows(labels, classes=self.classes, exclude=self.exclude, count=len(items))
        rows = rows[: self.limit]
        items = items[rows]
        if self.size != 8:
            items = functional.interpolate(items, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return ArraySplit(items, labels[rows])

    @staticmethod
    def _read() -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # A fixed order of its own: the file is sorted by writer, so a plain cut would test on unseen writers only.
        order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
        items = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1) / 8.0 - 1.0
        return items[order], torch.from_numpy(digits.target).to(torch.int64)[order]
