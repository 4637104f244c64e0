"""How well a score tells two sets of items apart; scikit-learn computes the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.evaluation.pictures import SERIES, Canvas


@attrs.frozen
class Detection:
    """Numbers of one score, outliers being the positive class.

    Arguments:
        auprc: Area under the precision-recall curve, as average precision (no interpolation).
        auroc: Area under the ROC curve.
        fpr95: Share of inliers called outliers where at least 95 % of the outliers are found.
        auprc_at: The first number at other shares of outliers, by share.
    """

    auprc: float
    auroc: float
    fpr95: float
    auprc_at: Mapping[float, float] = attrs.field(factory=dict)


def least_auprc(prevalence: float) -> float:
    r"""AUPRC where all outliers are ranked last, of very many items: :math:`1 + \frac{1 - \pi}{\pi} \log(1 - \pi)`.

    References:
        Boyd et al. 2012, "Unachievable region in precision-recall space" (arXiv 1206.4667), Theorem 2.

    Arguments:
        prevalence: :math:`\pi`, the share of outliers, in (0, 1).
    """
    return 1.0 + (1.0 - prevalence) / prevalence * math.log1p(-prevalence)


def detect(inliers: Tensor, outliers: Tensor, prevalences: Sequence[float] = ()) -> Detection:
    r"""Rank outliers above inliers by a score that is high for outliers.

    Arguments:
        inliers: Scores of inliers, with shape :math:`(N,)`.
        outliers: Scores of outliers, with shape :math:`(M,)`.
        prevalences: Other shares of outliers that ``auprc`` is given at: each outlier then weighs
            :math:`\pi / (1 - \pi) \cdot N / M` inliers.

    Raises:
        ContractError: A set is empty, or a score is not a number.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # slow to import; recipes are checked

    scores = torch.cat([inliers, outliers]).cpu().double()
    if not len(inliers) or not len(outliers):
        raise ContractError(
            f"detection needs items of both kinds, got {len(inliers)} inliers and {len(outliers)} outliers"
        )
    if scores.isnan().any():
        raise ContractError(f"{int(scores.isnan().sum())} of {len(scores)} scores are not numbers; the chains diverged")
    # An infinite score is a rank like any other, but scikit-learn takes finite ones only.
    values = scores.clamp(-torch.finfo(torch.float64).max, torch.finfo(torch.float64).max).numpy()
    truth = np.concatenate([np.zeros(len(inliers), dtype=int), np.ones(len(outliers), dtype=int)])
    false_rate, true_rate, _ = roc_curve(truth, values, drop_intermediate=False)
    odds = len(inliers) / len(outliers)
    weighed = {
        each: float(
            average_precision_score(truth, values, sample_weight=np.where(truth, each / (1.0 - each) * odds, 1.0))
        )
        for each in prevalences
    }
    return Detection(
        float(average_precision_score(truth, values)),
        float(roc_auc_score(truth, values)),
        float(false_rate[np.argmax(true_rate >= 0.95)]),
        weighed,
    )


def draw_scores(canvas: Canvas, sets: dict[str, Tensor], label: str) -> None:
    """Histograms of scores, one colour or line per set, over the middle 99 % of all of them.

    Arguments:
        canvas: Empty figure.
        sets: Name -> scores.
        label: What the axis shows, with its unit.
    """
    everything = torch.cat([scores.cpu().double() for scores in sets.values()])
    everything = everything[everything.isfinite()]
    low, high = everything.quantile(everything.new_tensor([0.005, 0.995])).tolist() if len(everything) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1.0, 61)
    axes = canvas.subplots()
    for number, (name, scores) in enumerate(sets.items()):
        values = scores.cpu().double().clamp(low, high).numpy()
        look: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "label": name}
        # One outline a set: sixty bars of each would take seconds to draw. When colours begin anew, they are lines.
        if number < len(SERIES):
            look |= {"histtype": "stepfilled", "alpha": 0.55}
        else:
            look |= {"histtype": "step", "linestyle": "--", "linewidth": 1.5}
        axes.hist(values, bins=bins.tolist(), density=True, **look)
    axes.set(xlabel=label, ylabel="density", xlim=(bins[0], bins[-1]))
    axes.legend(loc="best")
