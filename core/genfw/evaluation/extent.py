"""Which values images have, and what follows where they are not genfw's, which lie in [-1, 1]."""

from __future__ import annotations

import math

import attrs
from torch import Tensor

from genfw.errors import ContractError

#: What rounding may add to 1.
_SLACK = 1e-3
#: Normal noise of standard deviation 1 takes a sixth of the values beyond the first, and none beyond the second.
_WIDE, _FAR = 2.0, 10.0
#: Shares beyond them from which samples are on another scale. The second finds bytes that are zero for the most part.
_WIDE_SHARE, _FAR_SHARE = 0.5, 0.01


@attrs.define
class Extent:
    """Counts and extremes of the values of images.

    Arguments:
        count: Values.
        cut: Values beyond [-1, 1], by more than rounding.
        wide: Values beyond [-2, 2].
        far: Values beyond [-10, 10].
        lost: Values that are not finite; no other field counts them but ``count``.
        low: The smallest value.
        high: The largest value.
    """

    count: int = 0
    cut: int = 0
    wide: int = 0
    far: int = 0
    lost: int = 0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, *images: Tensor) -> Extent:
        """The extent of tensors that are at hand."""
        extent = cls()
        for x in images:
            extent.add(x)
        return extent

    def add(self, x: Tensor) -> None:
        """Count the values of ``x`` too."""
        if not x.numel():
            return
        self.count += x.numel()
        x = x.detach()
        finite = x.isfinite()
        if not finite.all():
            x = x[finite]
            self.lost += finite.numel() - x.numel()
            if not x.numel():
                return
        low, high = (float(end) for end in x.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if max(-low, high) > 1.0 + _SLACK:
            size = x.abs()
            self.cut += int((size > 1.0 + _SLACK).sum())
            self.wide += int((size > _WIDE).sum())
            self.far += int((size > _FAR).sum())

    def of_data(self, what: str = "the data") -> str:
        """Judge data, which are where they belong or were stored wrongly.

        Arguments:
            what: What they are, for the message.

        Returns:
            A note on data that lie in [0, 1]; empty where there is nothing to say.

        Raises:
            ContractError: Values are not finite, or lie beyond [-1, 1].
        """
        self._check_finite(what)
        if self.cut:
            advice = "x / 127.5 - 1, or store whole numbers as uint8" if self.low >= 0 and self.high <= 255 else ""
            raise ContractError(
                f"{what} have values from {self.low:.4g} to {self.high:.4g}, and genfw's images lie in [-1, 1]: "
                f"bring them there before they are stored{f' ({advice})' if advice else ''}"
            )
        if self.count and self.low >= 0.0:
            return "All data lie in [0, 1]: half of the levels are unused; genfw's images lie in [-1, 1]."
        return ""

    def of_samples(self, what: str = "the samples") -> str:
        """Judge samples, which noise takes beyond the ends by right.

        Arguments:
            what: What they are, for note and message.

        Returns:
            A note on the values that are cut; empty where none is.

        Raises:
            ContractError: Values are not finite, or the samples are on another scale.
        """
        self._check_finite(what)
        for count, share, bound in ((self.wide, _WIDE_SHARE, _WIDE), (self.far, _FAR_SHARE, _FAR)):
            if count > share * self.count:
                raise ContractError(
                    f"{what} have values from {self.low:.4g} to {self.high:.4g}, {_percent(count, self.count)} of them "
                    f"beyond [-{bound:g}, {bound:g}]: they are on another scale than genfw's images, which lie in "
                    "[-1, 1]; train on data in that range"
                )
        return self.say_beyond(what, "and were cut")

    def say_beyond(self, what: str, done: str = "") -> str:
        """A sentence on the values that are not those of an image; empty where there are none.

        Arguments:
            what: What the images are.
            done: What has been done to the values, such as ``and were cut``.
        """
        said = []
        if self.lost:
            said.append(f"{_percent(self.lost, self.count)} of the values of {what} are not finite.")
        if self.cut:
            beyond = f"{_percent(self.cut, self.count)} of the values of {what} lie beyond [-1, 1]"
            said.append(f"{' '.join((beyond, done)).strip()}; they reach from {self.low:.4g} to {self.high:.4g}.")
        return " ".join(said)

    def _check_finite(self, what: str) -> None:
        if self.lost:
            raise ContractError(f"{what} have {self.lost:,} values that are not finite, of {self.count:,}")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"
