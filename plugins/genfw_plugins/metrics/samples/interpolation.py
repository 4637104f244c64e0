"""The way from one sample to another through the noise: what is seen on it, and what energies climb."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import ContractError, DataTarget, Evaluation, Figure, JointTarget, Metric, NoiseLayout, Result, make_target
from genfw.evaluation.pictures import is_image
from genfw.models.freezing import frozen_for_chain
from genfw.plugins.validators import at_least


def on_sphere(layout: NoiseLayout, first: Tensor, last: Tensor, points: int) -> Tensor:
    r"""Points on the way from one position to another, each noise group along its great circle.

    A straight line between two draws of :math:`N(0, I_D)` runs through norms that no draw has. Here the direction of a
    group turns by equal angles and its norm goes evenly from the first to the last.

    Arguments:
        layout: Groups of a position.
        first: Where ways begin, with shape :math:`(B, D)`.
        last: Where they end, with shape :math:`(B, D)`.
        points: Points on each way, its ends among them.

    Returns:
        Positions, with shape :math:`(B, points, D)`.
    """
    t = torch.linspace(0.0, 1.0, points, dtype=first.dtype, device=first.device)[:, None]
    parts = []
    for _, where in layout.slices():
        a, b = first[:, None, where], last[:, None, where]
        lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
        u, v = (side / length.clamp_min(1e-12) for side, length in zip((a, b), lengths, strict=True))
        angle = (u * v).sum(-1, keepdim=True).clamp(-1.0, 1.0).acos()
        # Where there is no angle, or no one way around, the straight line is as good.
        flat = angle.sin() < 1e-4
        sine = torch.where(flat, torch.ones_like(angle), angle.sin())
        turned = (((1 - t) * angle).sin() * u + (t * angle).sin() * v) / sine
        direction = torch.where(flat, (1 - t) * u + t * v, turned)
        parts.append(((1 - t) * lengths[0] + t * lengths[1]) * direction)
    return torch.cat(parts, dim=-1)


@attrs.define(kw_only=True, eq=False, slots=False)
class Interpolation(Metric):
    r"""Great circles in noise space between pairs of samples, decoded.

    ``interpolation-barrier`` is how far the energies climb above an even passage from end to end,
    :math:`\max_t E(\epsilon_t) - (1 - t) E(\epsilon_0) - t E(\epsilon_1)` in nats, :math:`E` being what they add to
    the base; 0 where nothing parts the two. The base itself does not climb on a great circle.
    ``interpolation-jump`` is a way's longest step in data space over its mean step: 1 where data change evenly, and
    near the count of steps where one sample turns into the other at once.

    Arguments:
        pairs: Pairs of samples, not picked.
        points: Points on a way, its ends among them.
        show: Ways in the picture.
    """

    smoke: ClassVar[dict[str, Any]] = {"pairs": 2, "points": 5}

    pairs: int = attrs.field(default=50, validator=at_least(1))
    points: int = attrs.field(default=11, validator=at_least(3))
    show: int = attrs.field(default=6, validator=at_least(0))

    def examine(self, evaluation: Evaluation) -> None:
        target = make_target(evaluation.model, evaluation.settings.space)
        if isinstance(target, DataTarget | JointTarget):
            raise ContractError(
                "interpolation goes through noise, and positions in the recipe's sample.space "
                f"'{evaluation.settings.space}' are data"
            )

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        target = make_target(evaluation.model, evaluation.settings.space)
        position = evaluation.samples(2 * self.pairs).position.to(evaluation.device)
        ways = on_sphere(target.layout, position[: self.pairs], position[self.pairs :], self.points)
        with frozen_for_chain(*target.modules()), torch.no_grad():
            # One way at a time: as many points as a small batch has.
            tilt = torch.stack([target.tilt(way) for way in ways]).double().cpu()
            x = torch.stack([target.to_data(way, mean=True) for way in ways]).cpu()
        t = torch.linspace(0.0, 1.0, self.points, dtype=torch.float64)
        barrier = (tilt - (1 - t) * tilt[:, :1] - t * tilt[:, -1:]).amax(1)
        steps = (x[:, 1:] - x[:, :-1]).double().flatten(2).norm(dim=-1)
        # Two samples that are the same have a way of no length, which has no jump.
        jump = torch.where(steps.sum(1) > 0, steps.amax(1) / steps.mean(1).clamp_min(1e-300), torch.ones(len(steps)))
        # Ways are drawn with the decoder's mean, whatever samples are shown with.
        protocol = evaluation.protocol(samples=2 * self.pairs, pairs=self.pairs, points=self.points) | {
            "decoder": "mean"
        }
        figures: list[Figure] = []
        if self.show and is_image(tuple(x.shape[2:])):
            caption = "Each row leads from one sample to another along a great circle of the noise; decoder's mean."
            shown = x[: self.show].flatten(0, 1)
            title = "Interpolations"
            figures = [evaluation.picture("interpolation", title, caption, shown, columns=self.points)]
        climbs = "Energies above an even passage from end to end, mean over pairs."
        even = "Longest step over mean step; 1 is even."
        return [
            Result("interpolation-barrier", *_mean(barrier, "nats", protocol), note=climbs, figures=figures),
            Result("interpolation-jump", *_mean(jump, "×", protocol), note=even),
        ]


def _mean(values: Tensor, unit: str, protocol: dict[str, Any]) -> tuple[float, str, dict[str, Any], float | None]:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), unit, protocol, error
