"""Sets of draws beside a long-run reference: distances as multiples of what two reference sets are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from genfw.interfaces.target import Target
from genfw.models.distances import kernel_stein, median_distance, mmd, sliced_wasserstein
from genfw.models.freezing import frozen_for_chain

#: Draws per group that the distances of quadratic cost look at.
_PAIRS = 2000
#: Bandwidths of the MMD's kernel, over the median distance of the reference.
_FACTORS = (0.25, 0.5, 1.0, 2.0)


@attrs.frozen
class Gap:
    """One distance of one set.

    Arguments:
        distance: ``sliced-wasserstein``, ``mmd``, ``stein`` or ``energy-gap``.
        contender: The set's name; ``floor`` for what two reference sets are apart.
        value: In the distance's own unit.
        floor: What two reference sets are apart.
        error: Standard error of ``value``, where it is known.
    """

    distance: str
    contender: str
    value: float
    floor: float
    error: float | None = None

    @property
    def multiple(self) -> float:
        """Absolute value over the floor."""
        return abs(self.value) / self.floor if self.floor > 0 else math.inf


@attrs.frozen(eq=False)
class View:
    r"""Sets of positions of one target that are compared, row by row for the same item.

    Arguments:
        target: Its potential is defined on all rows at once.
        references: Independent sets of long-run chains, at least two, each with shape :math:`(N, D)`.
        contenders: Sets by name, with the same shape.
        draws: Rows that belong to one item, one after the other; distances are taken within, and averaged.
        one_law: Whether the rows of a group have one law, of which the target knows the gradient.
    """

    target: Target
    references: Sequence[Tensor]
    contenders: Mapping[str, Tensor]
    draws: int
    one_law: bool


def gaps(view: View, along: Tensor, order: int) -> list[Gap]:
    """Every distance of every contender from the references, and each distance's floor.

    Arguments:
        view: The sets.
        along: Directions of the sliced Wasserstein distance.
        order: Its order.
    """
    first, *others = view.references
    pairs = [(a, b) for number, a in enumerate(view.references) for b in view.references[number + 1 :]]
    groups = first.split(view.draws)
    bandwidths = [[factor * median_distance(group) for factor in _FACTORS] for group in groups]

    def wasserstein(a: Tensor, b: Tensor) -> float:
        parts = zip(a.split(view.draws), b.split(view.draws), strict=True)
        return _mean([float(sliced_wasserstein(u, v, along, order)) for u, v in parts])

    def discrepancy(a: Tensor, b: Tensor) -> float:
        parts = zip(a.split(view.draws), b.split(view.draws), bandwidths, strict=True)
        return _mean([float(mmd(u[:_PAIRS], v[:_PAIRS], widths)) for u, v, widths in parts])

    found: list[Gap] = []
    for name, measure in (("sliced-wasserstein", wasserstein), ("mmd", discrepancy)):
        floor = _mean([measure(a, b) for a, b in pairs])
        found.append(Gap(name, "floor", floor, floor))
        for contender, drawn in view.contenders.items():
            found.append(Gap(name, contender, _mean([measure(drawn, one) for one in view.references]), floor))
    if view.one_law:
        found += _stein(view, [widths[2] for widths in bandwidths])
    return found + _energy(view, first, others[0])


def _stein(view: View, bandwidths: Sequence[float]) -> list[Gap]:
    def measure(points: Tensor) -> float:
        with frozen_for_chain(*view.target.modules()):
            _, gradient = view.target.potential_and_grad(points)
        parts = zip(points.split(view.draws), gradient.split(view.draws), bandwidths, strict=True)
        return _mean([float(kernel_stein(u[:_PAIRS], slope[:_PAIRS], width)) for u, slope, width in parts])

    floor = _mean([measure(one) for one in view.references])
    return [
        Gap("stein", "floor", floor, floor),
        *(Gap("stein", name, measure(drawn), floor) for name, drawn in view.contenders.items()),
    ]


def _energy(view: View, first: Tensor, second: Tensor) -> list[Gap]:
    """Mean potential minus that of the first reference; the floor is the mean absolute value for equal laws."""
    root = math.sqrt(len(first))
    with frozen_for_chain(*view.target.modules()), torch.no_grad():
        base = view.target.potential(first).double()
        # Rows of two sets belong to the same item, so that the items' own spread drops out of the difference.
        spread = float((view.target.potential(second).double() - base).std()) / root
        floor = math.sqrt(2.0 / math.pi) * spread
        found = [Gap("energy-gap", "floor", floor, floor)]
        for name, drawn in view.contenders.items():
            apart = view.target.potential(drawn).double() - base
            found.append(Gap("energy-gap", name, float(apart.mean()), floor, float(apart.std()) / root))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
