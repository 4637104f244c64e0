"""Items of a class that training never saw, told from the others by their likelihood."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw import Batch, Chain, ContractError, Evaluation, Figure, Metric, PosteriorTarget, Result
from genfw.models.sampling import preserved
from genfw.plugins.validators import at_least, distinct, positive, within
from genfw.runs.directory import RunDirectory
from genfw_plugins.metrics.detection.detection import Detection, detect, draw_scores, least_auprc

Score = Literal["log-joint", "reconstruction", "energy", "tilt", "prior", "elbo"]

_MEANING: dict[str, str] = {
    "log-joint": "negative un-normalised log joint (nats)",
    "reconstruction": "squared error",
    "energy": "un-normalised latent potential (nats)",
    "tilt": "energy alone (nats)",
    "prior": "half the squared norm of the latent's noise (nats)",
    "elbo": "negative ELBO (nats)",
}


@attrs.define(kw_only=True, eq=False, slots=False)
class Anomaly(Metric):
    r"""Unsupervised anomaly detection: outliers are the positive class, and a high score calls an item an outlier.

    With :math:`z` from a posterior chain, or from the encoder where there is none, the scores are

    - ``log-joint``: :math:`-\log p(x \mid z) + E(z) + |\epsilon_z|^2/2`, DAMC's decision function turned round (the log
      prior in noise space, without its constants); with ``weight`` :math:`w`, :math:`w \|x - \mu(z)\|^2` in place of
      :math:`-\log p(x \mid z)`;
    - ``reconstruction``: :math:`\|x - \mu(z)\|^2`;
    - ``energy``: :math:`E(z) + |\epsilon_z|^2/2`; its parts alone are ``tilt``, :math:`E(z)`, and ``prior``;
    - ``elbo``: :math:`-\log p(x \mid z) + KL + E(z)`, always with the encoder's draw.

    The first score's results are ``auprc`` (average precision), ``auroc`` and ``fpr95`` (false positives where 95 % of
    the outliers are found); those of a further score end in its name, as in ``auprc-energy``. The published code of
    DAMC takes 5 noiseless steps and ``weight: 1``, its paper 10 steps and the likelihood.

    AUPRC depends on the prevalence, the share of outliers, and AUROC does not. Even a ranking with all outliers last
    has some AUPRC; the note says how much. ``prevalence`` gives AUPRC as it would be at other shares, ``auprc-at-0.1``,
    by weighing the outliers.

    Each trial has its own randomness. With ``checkpoints`` the trials are repeated with the raw weights of the run's
    newest checkpoints, the paper's average over the last evaluations; weights that a stage averages over its steps
    are in none of them. Beside that mean there is ``auprc-best-checkpoint`` then. It chooses the checkpoint by the test
    set, as the published code does, and is too good by that choice.

    References:
        Yu et al., DAMC (NeurIPS 2023), section 4.2 and Table 3; Pang et al., LEBM (NeurIPS 2020).

    Arguments:
        chain: Posterior chain, one per item; with ``sampler: null`` the latent is its start's own draw. The encoder is
            asked where absent.
        scores: Scores to take.
        weight: :math:`w`; absent, the likelihood as the decoder has it, :math:`1/(2\sigma^2)` for a Gaussian.
        trials: Repetitions with one set of weights.
        checkpoints: Newest checkpoints of the last stage to take weights from; 1 takes the finished model.
        split: Split of inliers.
        outliers: Split of outliers.
        prevalence: Further shares of outliers that AUPRC is given at.
        count: Rows of each split; all where absent.
        batch: Items at once.
    """

    smoke: ClassVar[dict[str, Any]] = {"trials": 1, "checkpoints": 1, "count": 16}

    chain: Chain | None = None
    scores: tuple[Score, ...] = attrs.field(default=("log-joint",), validator=distinct)
    weight: float | None = attrs.field(default=None, validator=positive)
    trials: int = attrs.field(default=10, validator=at_least(1))
    checkpoints: int = attrs.field(default=1, validator=at_least(1))
    split: str = "test"
    outliers: str = "held-out"
    prevalence: tuple[float, ...] = attrs.field(default=(), validator=within(0, 1, "()"))
    count: int | None = None
    batch: int = attrs.field(default=500, validator=at_least(1))

    def examine(self, evaluation: Evaluation) -> None:
        model = evaluation.model
        if model.decoder is None:
            raise ContractError("metric 'anomaly' scores p(x|z); the recipe has no decoder")
        if model.encoder is None and (self.chain is None or "elbo" in self.scores):
            raise ContractError(
                "these scores need an encoder; without one, give a posterior chain (chain: {sampler: ..., start: ...}) "
                "and leave out 'elbo'"
            )

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        inliers = evaluation.rows(self.split, self.count)
        outliers = evaluation.rows(self.outliers, self.count)
        weights = self._weights(evaluation)
        trials = [(name, trial) for name in weights for trial in range(self.trials)]
        scored = evaluation.spread(self._try, trials)
        taken: list[dict[str, Detection]] = [
            {score: detect(inside[score], outside[score], self.prevalence) for score in self.scores}
            for inside, outside in scored
        ]
        inside, outside = scored[-1]
        figures = [self._figure(evaluation, inside[self.scores[0]], outside[self.scores[0]])]
        return self._results(evaluation, inliers, outliers, taken, weights, figures)

    # -- weights ------------------------------------------------------------------------------------------------------

    def _weights(self, evaluation: Evaluation) -> list[str]:
        """Names of checkpoints, or ``finished``."""
        if self.checkpoints == 1:
            return ["finished"]
        found = RunDirectory(evaluation.directory).checkpoints.all()
        found = [one for one in found if one.stage == found[-1].stage][-self.checkpoints :]
        if not found:
            raise ContractError(
                f"{evaluation.directory} has no checkpoints to take weights from; set checkpoints to 1 to measure the "
                "model as it is"
            )
        return [one.name for one in found]

    # -- scores -------------------------------------------------------------------------------------------------------

    def _try(self, evaluation: Evaluation, weights: str, trial: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Scores of inliers and of outliers in one trial."""
        generator = evaluation.generator(f"anomaly-{weights}-{trial}")
        with _holding(evaluation, weights):
            inside, outside = (
                self._score(evaluation, evaluation.rows(split, self.count), generator)
                for split in (self.split, self.outliers)
            )
        return inside, outside

    @torch.no_grad()
    def _score(self, evaluation: Evaluation, rows: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        pieces: list[dict[str, Tensor]] = []
        with preserved(*([] if self.chain is None else [self.chain])):
            for x, index in zip(rows.x.split(self.batch), rows.index.split(self.batch), strict=True):
                on_device, place = x.to(evaluation.device), index.to(evaluation.device)
                pieces.append(self._score_batch(evaluation, on_device, place, generator))
        return {score: torch.cat([piece[score] for piece in pieces]).cpu().double() for score in self.scores}

    def _score_batch(
        self, evaluation: Evaluation, x: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        model = evaluation.model
        target = PosteriorTarget(model, x)
        drawn = None
        if model.encoder is not None and (self.chain is None or "elbo" in self.scores):
            drawn = model.encoder(x, generator=generator)
        if self.chain is None:
            assert drawn is not None  # refused in compute
            position = drawn.noise
        else:
            ends = self.chain.run(target, len(x), generator=generator, x=x, index=index, end_potential=False)
            position = ends.position[: len(x)]
        latent = model.latent(position)
        likelihood = model.likelihood(latent)
        error = (x - likelihood.mean).flatten(1).square().sum(1)
        base = target.base(position)
        tilt = model.latent_energy(latent)
        values: dict[str, Tensor] = {"reconstruction": error, "energy": tilt + base, "tilt": tilt, "prior": base}
        if "log-joint" in self.scores:
            values["log-joint"] = values["energy"] + (
                -likelihood.log_prob(x) if self.weight is None else self.weight * error
            )
        if "elbo" in self.scores:
            assert drawn is not None  # refused in compute
            misfit = -model.likelihood(drawn.latent).log_prob(x)
            values["elbo"] = misfit + drawn.kl.sum(1) + model.latent_energy(drawn.latent)
        return {score: values[score] for score in self.scores}

    # -- report -------------------------------------------------------------------------------------------------------

    def _results(
        self,
        evaluation: Evaluation,
        inliers: Batch,
        outliers: Batch,
        taken: Sequence[dict[str, Detection]],
        weights: Sequence[str],
        figures: Sequence[Figure],
    ) -> list[Result]:
        chain = self.chain
        protocol = evaluation.protocol(
            inliers=f"{self.split} ({len(inliers)})",
            outliers=f"{self.outliers} ({len(outliers)})",
            latent="encoder" if chain is None else "posterior chain",
            **({} if chain is None else chain.protocol()),
            error_weight="likelihood" if self.weight is None else self.weight,
            trials=self.trials,
            weights="finished model" if weights == ["finished"] else ", ".join(weights),
        )
        share = len(outliers) / (len(inliers) + len(outliers))
        protocol["prevalence"] = round(share, 4)
        chance = {"auprc": share, "auroc": 0.5, "fpr95": 0.95}
        results: list[Result] = []
        for score in self.scores:
            ending = "" if score == self.scores[0] else f"-{score}"
            said = {**protocol, "score": score}
            for name, better in (("auprc", "higher"), ("auroc", "higher"), ("fpr95", "lower")):
                note = f"Score: {_MEANING[score]}. Chance: {chance[name]:.3f}."
                if name == "auprc":
                    note += f" Least possible: {least_auprc(share):.3f}."
                values = [getattr(one[score], name) for one in taken]
                shown = figures if not results else ()
                results.append(_summary(f"{name}{ending}", values, said, better, note, shown))
            for at in self.prevalence:
                values = [one[score].auprc_at[at] for one in taken]
                note = f"Score: {_MEANING[score]}. Outliers weigh as {at:.3g} of all items. Chance: {at:.3f}. "
                note += f"Least possible: {least_auprc(at):.3f}."
                results.append(_summary(f"auprc-at-{at:.4g}{ending}", values, said, "higher", note))
            if len(weights) > 1:
                best = max(
                    (statistics.fmean(one[score].auprc for one in taken[k : k + self.trials]), name)
                    for k, name in zip(range(0, len(taken), self.trials), weights, strict=True)
                )
                note = (
                    f"Score: {_MEANING[score]}. Chosen by the test set (checkpoint {best[1]}): too good by that choice."
                )
                results.append(Result(f"auprc-best-checkpoint{ending}", best[0], "", said, None, "higher", note))
        return results

    def _figure(self, evaluation: Evaluation, inside: Tensor, outside: Tensor) -> Figure:
        label = _MEANING[self.scores[0]]
        sets = {f"inliers ({self.split})": inside, f"outliers ({self.outliers})": outside}
        caption = (
            f"Scores of {len(inside):,} inliers and {len(outside):,} outliers in the last trial: {label}. Each "
            "histogram has area 1; the outermost 0.5 % on either side are counted in the last bins."
        )
        return evaluation.figure(
            "anomaly", "Inliers and outliers", caption, lambda canvas: draw_scores(canvas, sets, label), size=(6.4, 3.0)
        )


def _summary(
    name: str,
    values: Sequence[float],
    protocol: Mapping[str, Any],
    better: str,
    note: str,
    figures: Sequence[Figure] = (),
) -> Result:
    """Mean of a number over the trials, with its standard error where there are several."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    if spread is not None:
        note += f" Standard deviation over {len(values)} trials: {spread:.4f}."
    error = None if spread is None else spread / math.sqrt(len(values))
    return Result(name, statistics.fmean(values), "", protocol, error, better, note, figures)


@contextmanager
def _holding(evaluation: Evaluation, weights: str) -> Iterator[None]:
    """Put a checkpoint's weights into the model, and its own back on the way out."""
    if weights == "finished":
        yield
        return
    model, checkpoints = evaluation.model, RunDirectory(evaluation.directory).checkpoints
    own = copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(checkpoints.load(checkpoints.find(weights), device=evaluation.device)["model"])
        yield
    finally:
        model.load_state_dict(own)
