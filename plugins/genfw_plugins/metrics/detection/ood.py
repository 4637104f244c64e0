"""Whether a model tells the data it was trained on from others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Dataset, Evaluation, Figure, Metric, Model, Result
from genfw.evaluation.pictures import Canvas
from genfw.plugins.validators import at_least
from genfw_plugins.metrics.common.sets import available, check_shape, take_rows
from genfw_plugins.metrics.detection.detection import detect, draw_scores
from genfw_plugins.metrics.likelihood.density import importance_log_prob

Score = Literal["log-h", "log-p", "energy", "elbo", "reconstruction"]
Derived = Literal["interpolation", "upside-down", "constant", "noise"]

#: What each score is, for the report.
_MEANING: Mapping[str, str] = {
    "log-h": "log p(x) - E(x), unnormalised, nats",
    "log-p": "log p(x) of the generator alone, nats",
    "energy": "-E(x), nats",
    "elbo": "evidence lower bound, nats",
    "reconstruction": "minus the mean squared error",
}


def derive(x: Tensor, how: Derived, generator: torch.Generator) -> Tensor:
    """Items that are made from data and are none.

    Arguments:
        x: Data, with shape ``(N, *)``.
        how: ``interpolation``, half of each item and half of another one; ``upside-down``, mirrored top to bottom;
            ``constant``, each channel its mean everywhere; ``noise``, uniform in [-1, 1].
        generator: Source of partners and noise, on the CPU.
    """
    if how in ("upside-down", "constant") and x.ndim != 4:
        raise ContractError(f"'{how}' is made of images, and items have shape {tuple(x.shape[1:])}")
    match how:
        case "interpolation":
            # A turn by a random amount leaves no item beside itself.
            shift = int(torch.randint(1, max(len(x), 2), (1,), generator=generator))
            return 0.5 * (x + x.roll(shift, 0))
        case "upside-down":
            return x.flip(-2)
        case "constant":
            return x.mean(dim=(2, 3), keepdim=True).expand_as(x).contiguous()
        case "noise":
            return 2.0 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1.0


def score_items(
    model: Model, x: Tensor, scores: Sequence[Score], importance: int, generator: torch.Generator, batch: int
) -> dict[str, Tensor]:
    r"""Scores that are high where the model would have data; float64, on the CPU, each with shape :math:`(B,)`.

    Arguments:
        model: The model.
        x: Items, with shape :math:`(B, *)`, on the model's device.
        scores: Which of them.
        importance: Encoder draws per item for ``log-h`` and ``log-p``.
        generator: Source of the draws.
        batch: Items and draws taken at once.
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        energy = torch.cat([model.data_energy(part) for part in x.split(batch)]).cpu().double()
        if "energy" in scores:
            found["energy"] = -energy
        if {"log-h", "log-p"} & set(scores):
            plain, tilted = importance_log_prob(model, x, importance, generator, batch=batch)
            found |= {"log-p": plain, "log-h": tilted - energy}
        if {"elbo", "reconstruction"} & set(scores):
            assert model.encoder is not None  # refused in compute
            bounds, errors = [], []
            for part in x.split(batch):
                posterior = model.encoder(part, generator=generator)
                likelihood = model.likelihood(posterior.latent)
                if "elbo" in scores:
                    bounds.append(likelihood.log_prob(part) - posterior.kl.sum(1))
                errors.append(-(part - likelihood.mean).flatten(1).square().mean(1))
            found["reconstruction"] = torch.cat(errors).cpu().double()
            if bounds:
                found["elbo"] = torch.cat(bounds).cpu().double()
    return {score: found[score] for score in scores}


def _on_cpu(evaluation: Evaluation, name: str) -> torch.Generator:
    """The stream of that name, wherever the model is."""
    return torch.Generator().manual_seed(evaluation.generator(name).initial_seed())


def _sets(others: dict[str, Dataset] | None) -> dict[str, Dataset]:
    return others or {}


def _kinds(derived: list[Derived] | None) -> list[Derived]:
    return derived or []


@attrs.define(kw_only=True, eq=False, slots=False)
class OutOfDistribution(Metric):
    r"""AUROC, AUPRC and FPR95 of a score that is to be low on other data, which count as positive.

    ``log-h`` is the model's own, :math:`\log h(x) = \log p(x) - E(x)` up to a constant, with the generator's
    :math:`\log p(x)` importance-weighted by the encoder; ``log-p`` leaves the energy out, which shows what it adds.
    Beside them: the mean score of training and test items, which lie together where nothing is overfitted, and their
    histograms.

    References:
        VAEBM (Xiao et al., 2021), Table 6 and Fig. 6. Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136

    Arguments:
        others: Sets of other data by name, their ``test`` split read.
        derived: Further ones made from test items: ``interpolation``, ``upside-down``, ``constant``, ``noise``.
        scores: Which scores; by default ``log-h`` and ``log-p`` with an energy on data, else ``log-p``.
        count: Items of each set; all where absent.
        importance: Encoder draws per item for ``log-h`` and ``log-p``.
        batch: Items and draws taken at once.
        noise: Standard deviation of normal noise added to the items of all sets, for a model that was trained on data
            with such noise.
    """

    smoke: ClassVar[dict[str, Any]] = {"count": 8, "importance": 2}

    others: dict[str, Dataset] = attrs.field(default=None, converter=_sets)
    derived: list[Derived] = attrs.field(default=None, converter=_kinds)
    scores: list[Score] | None = None
    count: int | None = attrs.field(default=10_000, validator=at_least(2))
    importance: int = attrs.field(default=10, validator=at_least(1))
    batch: int = attrs.field(default=500, validator=at_least(1))
    noise: float = attrs.field(default=0.0, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        if not self.others and not self.derived:
            raise ContractError("name what to tell the data from: others (data sets by name), derived, or both")
        if both := [name for name in self.derived if name in self.others]:
            raise ContractError(f"'{both[0]}' is both a set of its own and derived; give the set another name")

    def examine(self, evaluation: Evaluation) -> None:
        self._scores(evaluation.model)
        for name, data in self.others.items():
            check_shape(name, data, evaluation.model.data_shape)

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        scores = self._scores(evaluation.model)
        names = ["test", "train", *self.others, *self.derived]
        # Those first that may be absent or not fit: the data's own are the ones that have been trained on.
        tasks = [(name, tuple(scores)) for name in reversed(names)]
        values = dict(zip(names, reversed(evaluation.spread(self._score, tasks)), strict=True))
        weighted = {"log-h", "log-p"} & set(scores)
        results: list[Result] = []
        for score in scores:
            facts: dict[str, Any] = {"score": _MEANING[score], "noise": self.noise or None}
            facts["importance"] = self.importance if score in weighted else None
            named = {name: found[score] for name, found in values.items()}
            results += self._level(evaluation, score, named, facts)
            for name in (*self.others, *self.derived):
                results += self._detection(evaluation, score, name, named, facts)
        return results

    def _scores(self, model: Model) -> list[Score]:
        scores: list[Score] = self.scores or (["log-h", "log-p"] if model.data_energies else ["log-p"])
        if model.encoder is None and set(scores) != {"energy"}:
            raise ContractError(
                "all scores but 'energy' need an encoder, and the recipe has none; set scores: [energy]"
            )
        if not model.data_energies and {"energy", "log-h"} & set(scores):
            raise ContractError("the scores 'energy' and 'log-h' need an energy on data, and the recipe has none")
        return list(dict.fromkeys(scores))

    def _score(self, evaluation: Evaluation, name: str, scores: Sequence[Score]) -> dict[str, Tensor]:
        """Scores of the items of one set."""
        x = self._items(evaluation, name)
        if self.noise:
            generator = _on_cpu(evaluation, f"ood/{name}/noise")
            x = x + self.noise * torch.randn(x.shape, generator=generator)
        x, generator = x.to(evaluation.device), evaluation.generator(f"ood/{name}")
        return score_items(evaluation.model, x, scores, self.importance, generator, self.batch)

    def _items(self, evaluation: Evaluation, name: str) -> Tensor:
        if name in self.others:
            return take_rows(available(evaluation, self.others[name]).split("test"), self.count, "ood", name).x
        test = evaluation.row_numbers("test", self.count)[1]
        if name == "train":
            return evaluation.rows("train", len(test)).x
        x = evaluation.rows("test", self.count).x
        return x if name == "test" else derive(x, cast(Derived, name), _on_cpu(evaluation, f"ood/{name}/items"))

    def _level(
        self, evaluation: Evaluation, score: Score, named: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> list[Result]:
        """Mean score of the data themselves, train and test, with the histograms."""
        pair = {name: named[name] for name in ("train", "test")}
        figures = [self._figure(evaluation, score, pair, {key: one for key, one in named.items() if key != "train"})]
        results = []
        for name, values in pair.items():
            error = float(values.std()) / math.sqrt(len(values))
            protocol = evaluation.protocol(split=name, count=len(values), **facts)
            shown = figures if name == "test" else []
            unit = "" if score == "reconstruction" else "nats"
            results.append(Result(f"{score}-{name}", float(values.mean()), unit, protocol, error, figures=shown))
        return results

    @staticmethod
    def _figure(evaluation: Evaluation, score: Score, pair: dict[str, Tensor], others: dict[str, Tensor]) -> Figure:
        label = f"{score}: {_MEANING[score]}"

        def draw(canvas: Canvas) -> None:
            halves = cast(Sequence[Canvas], canvas.subfigures(1, 2))
            for half, sets in zip(halves, (pair, others), strict=True):
                draw_scores(half, sets, label)

        sizes = ", ".join(f"{len(values):,} of {key}" for key, values in {**pair, **others}.items())
        caption = (
            f"Left: the data the model was trained on and those held out. Right: those and others. Items: {sizes}. "
            "Beyond the middle 99 %, values are counted in the outermost bins."
        )
        return evaluation.figure(f"ood-{score}", f"{score} of other data", caption, draw, size=(9.0, 3.2))

    def _detection(
        self,
        evaluation: Evaluation,
        score: Score,
        name: str,
        named: Mapping[str, Tensor],
        facts: Mapping[str, Any],
    ) -> list[Result]:
        found = detect(-named["test"], -named[name])
        counts = {"count": len(named["test"]), "others": len(named[name])}
        protocol = evaluation.protocol(split="test", **counts, **facts)
        what = f"{_MEANING[score]}, test items against '{name}'."
        return [
            Result(f"auroc-{score}-{name}", found.auroc, "", protocol, better="higher", note=what),
            Result(f"auprc-{score}-{name}", found.auprc, "", protocol, better="higher", note=what),
            Result(
                f"fpr95-{score}-{name}",
                found.fpr95,
                "",
                protocol,
                better="lower",
                note=f"Share of test items taken for others where 95 % of those are found. {what}",
            ),
        ]
