"""What becomes of chains that run far longer than those of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Evaluation, Figure, Metric, Result, Sampler, Target, make_target, run_chain
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import SERIES, Canvas, is_image
from genfw.models.chains import chain_protocol, draw_starts
from genfw.models.freezing import frozen_for_chain
from genfw.models.sampling import preserved
from genfw.plugins.validators import at_least, distinct, within
from genfw_plugins.metrics.common.pixels import join_notes

#: Numbers of a trace that are kept at most.
_BUDGET = 2**27
#: States of a chain whose images are measured.
_LOOKS = 24


@attrs.frozen(eq=False)
class Walk:
    r"""What is kept of chains, on the CPU.

    Arguments:
        kept: Step number of each kept state.
        trace: Positions, with shape :math:`(K, B, D)`.
        potentials: Potentials in nats, with shape :math:`(K, B)`.
        norm: Squared length of the latent noise over its dimension, with shape :math:`(K, B)`.
    """

    kept: tuple[int, ...]
    trace: Tensor
    potentials: Tensor
    norm: Tensor

    @classmethod
    def join(cls, parts: Sequence[Walk]) -> Walk:
        """All chains as one bundle."""
        columns = ("trace", "potentials", "norm")
        return cls(parts[0].kept, *(torch.cat([getattr(part, name) for part in parts], dim=1) for name in columns))


def _in_order(steps: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(steps))


@attrs.define(kw_only=True, eq=False, slots=False)
class LongRun(Metric):
    r"""Chains from fresh noise, far beyond the length of training: do they keep to the data, or drift off?

    Chains of the longest of ``steps`` are looked at after each of ``steps``; every result's name ends in that number.

    - ``energy-drift``: mean potential in the last quarter of the steps less that in the second quarter, in nats, with
      its standard error over the chains. Chains that have arrived report none (a few standard errors at most);
    - ``norm-drift``: the same of :math:`|\epsilon_z|^2 / D_z`, and ``norm`` its mean over the last quarter (1 for the
      base);
    - ``diverged``: share of chains whose potential or position is no longer finite; the others are averages over the
      rest;
    - of images: ``saturation``, the share of numbers within ``margin`` of -1 or 1, less the same share of the data;
      ``contrast``, the mean over images of the standard deviation of an image's numbers, over that of the data; and
      ``variation``, the mean absolute difference of neighbouring pixels, over that of the data. Chains that
      oversaturate lift the first two.

    References:
        Yu et al., DAMC (NeurIPS 2023), Figures 4, S11 and S12 (200 and 2,500 steps); Nijkamp et al., On the anatomy of
        MCMC-based maximum likelihood learning of energy-based models (AAAI 2020), for oversaturation.

    Arguments:
        steps: Chain lengths to look after.
        sampler: Kernel; that of the recipe's ``sample:`` section where absent.
        chains: Chains.
        fresh: Begin in fresh draws of the base; otherwise where the recipe's ``sample:`` section says.
        split: Split of data that images are compared with.
        count: Rows of it.
        margin: Distance from -1 or 1 at which a number counts as saturated.
        show: Chains in the pictures.
        batch: Chains at once, all where absent; with several processes, each takes a batch in turn.
    """

    smoke: ClassVar[dict[str, Any]] = {"steps": [8, 16], "chains": 4, "count": 16, "show": 2}

    steps: tuple[int, ...] = attrs.field(default=(200, 2500), converter=_in_order, validator=[distinct, at_least(8)])
    sampler: Sampler | None = None
    chains: int = attrs.field(default=64, validator=at_least(2))
    fresh: bool = True
    split: str = "test"
    count: int = attrs.field(default=1000, validator=at_least(2))
    margin: float = attrs.field(default=0.05, validator=within(0, 1, "()"))
    show: int = attrs.field(default=6, validator=at_least(0))
    batch: int | None = attrs.field(default=None, validator=at_least(1))

    def examine(self, evaluation: Evaluation) -> None:
        if self.sampler is None and evaluation.settings.sampler is None:
            raise ContractError("the recipe samples without a chain; name one under 'sampler' of metric 'long-run'")

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        settings = evaluation.settings
        sampler = self.sampler or settings.sampler
        target = make_target(evaluation.model, settings.space)
        starts = () if self.fresh else settings.starts
        reference, said = self._reference(evaluation)
        every = self._every(target)
        batch = self.batch or self.chains
        sizes = [min(batch, self.chains - first) for first in range(0, self.chains, batch)]
        walks = evaluation.spread(self._walk, [(number, size, every) for number, size in enumerate(sizes)])
        walk = Walk.join(walks)
        with frozen_for_chain(*target.modules()), torch.no_grad():
            views = self._views(evaluation, target, walk)
        chain = chain_protocol(sampler, starts)
        protocol = evaluation.protocol(
            chains=self.chains,
            space=settings.space,
            sampler=chain["sampler"],
            start=chain["start"],
            decoder="mean",
            thinning=every,
            chain_batch=self.batch,
        )
        results = [result for steps in self.steps for result in self._drifts(walk, steps, protocol)]
        if views and reference is not None:
            protocol = {**protocol, "split": self.split, "count": self.count, "margin": self.margin}
            results += [
                result for steps in self.steps for result in self._looks(views, reference, said, steps, protocol)
            ]
        figures = self._figures(evaluation, walk, views, reference)
        return [attrs.evolve(results[0], figures=figures), *results[1:]]

    def _walk(self, evaluation: Evaluation, number: int, count: int, every: int) -> Walk:
        """Run some of the chains."""
        settings, generator = evaluation.settings, evaluation.generator(f"long-run.{number}")
        sampler, starts = self.sampler or settings.sampler, () if self.fresh else settings.starts
        assert sampler is not None  # refused in compute
        target = make_target(evaluation.model, settings.space)
        with preserved(sampler, *starts), frozen_for_chain(*target.modules()), torch.no_grad():
            position = draw_starts(target, starts, count, generator)
            chain = run_chain(target, sampler, position, generator=generator, steps=self.steps[-1], keep_every=every)
        return Walk(chain.kept, chain.trace.cpu(), chain.potentials.cpu(), _norm(target, chain.trace).cpu())

    def _every(self, target: Target) -> int:
        """Steps between kept states: a divisor of every length, some 20 states of the shortest, within the budget."""
        common = math.gcd(*self.steps)
        fit = [number for number in range(1, common + 1) if common % number == 0]
        least = self.steps[-1] * self.chains * target.layout.size / _BUDGET
        wanted = [number for number in fit if number <= max(1.0, self.steps[0] / 20)]
        return next((number for number in fit if number >= max(least, wanted[-1])), fit[-1])

    # -- drift --------------------------------------------------------------------------------------------------------

    def _drifts(self, walk: Walk, steps: int, protocol: dict[str, Any]) -> list[Result]:
        upto = walk.kept.index(steps) + 1
        potential, norm = walk.potentials[:upto].double(), walk.norm[:upto]
        finite = potential.isfinite().all(0) & norm.isfinite().all(0)
        facts = {**protocol, "chain_steps": steps}
        lost = 1.0 - float(finite.double().mean())
        results = [Result(f"diverged-{steps}", lost, "", facts, better="lower")]
        if int(finite.sum()) < 2:
            note = f"{int((~finite).sum())} of {self.chains} chains left the finite numbers; take smaller steps."
            return [Result(f"energy-drift-{steps}", None, "nats", facts, note=note), *results]
        kept = walk.kept[:upto]
        energy = drift(potential[:, finite], kept)
        spread = drift(norm[:, finite], kept)
        last = norm[:, finite][[step > 0.75 * steps for step in kept]].mean(0)
        note = "From the second to the last quarter of the steps."
        results += [
            Result(f"norm-drift-{steps}", spread[0], "", facts, spread[1], note=note),
            Result(f"norm-{steps}", float(last.mean()), "", facts, _error(last), note="1 in the base."),
        ]
        within = "no drift beyond noise" if abs(energy[0]) <= 3.0 * energy[1] else "the chains are on the move"
        note = f"{note} {abs(energy[0]) / max(energy[1], 1e-300):.1f} standard errors: {within}."
        return [Result(f"energy-drift-{steps}", energy[0], "nats", facts, energy[1], note=note), *results]

    # -- images -------------------------------------------------------------------------------------------------------

    def _views(self, evaluation: Evaluation, target: Target, walk: Walk) -> dict[int, Tensor]:
        """Images of all chains after some steps, every one of :attr:`steps` among them; none of other data."""
        if not is_image(tuple(evaluation.model.data_shape)):
            return {}
        # Early steps change most: the looks lie closer together there.
        picked = (torch.linspace(0, 1, _LOOKS).square() * (len(walk.kept) - 1)).round().long().tolist()
        numbers = sorted({*picked, *(walk.kept.index(steps) for steps in self.steps)})
        return {
            walk.kept[number]: target.to_data(walk.trace[number].nan_to_num().to(evaluation.device), mean=True).cpu()
            for number in numbers
        }

    def _reference(self, evaluation: Evaluation) -> tuple[tuple[float, ...] | None, str]:
        """How the data look, and what is to be said of their range; nothing without images."""
        if evaluation.data is None or not is_image(tuple(evaluation.model.data_shape)):
            return None, ""
        x = evaluation.rows(self.split, self.count).x
        said = Extent.of(x).of_data(f"the data (split '{self.split}')")
        return tuple(float(values.mean()) for values in look(x, self.margin)), said

    def _looks(
        self, views: dict[int, Tensor], reference: tuple[float, ...], said: str, steps: int, protocol: dict[str, Any]
    ) -> list[Result]:
        saturation, contrast, variation = look(views[steps], self.margin)
        facts = {**protocol, "chain_steps": steps}
        share = f"Share of the images {float(saturation.mean()):.4f}, of the data {reference[0]:.4f}."
        beyond = Extent.of(views[steps]).say_beyond("the images")
        results = [
            Result(
                f"saturation-{steps}",
                float(saturation.mean()) - reference[0],
                "",
                facts,
                _error(saturation),
                note=join_notes(said, share, beyond),
            )
        ]
        for name, values, base in (("contrast", contrast, reference[1]), ("variation", variation, reference[2])):
            if base == 0.0:
                results.append(Result(f"{name}-{steps}", None, "×", facts, note="The data have none."))
                continue
            note = f"Images {float(values.mean()):.4f}, data {base:.4f}."
            results.append(
                Result(f"{name}-{steps}", float(values.mean()) / base, "×", facts, _error(values) / base, note=note)
            )
        return results

    # -- figures ------------------------------------------------------------------------------------------------------

    def _figures(
        self,
        evaluation: Evaluation,
        walk: Walk,
        views: dict[int, Tensor],
        reference: tuple[float, ...] | None,
    ) -> list[Figure]:
        lengths = " and ".join(f"{steps:,}" for steps in self.steps)
        caption = (
            f"Potential (nats) and squared length of the latent noise over its dimension, along {self.chains} chains: "
            f"median and the middle 90 %. Dotted lines stand after {lengths} steps."
        )
        curves = {
            "potential (nats)": walk.potentials.double(),
            "|ε|² / D": walk.norm,
        }
        figures = [
            evaluation.figure(
                "long-run-trace", "Long chains", caption, lambda canvas: self._draw(canvas, walk.kept, curves),
                size=(6.4, 4.4),
            )
        ]  # fmt: skip
        if not views:
            return figures
        if reference is not None:
            measured = {step: [float(values.mean()) for values in look(x, self.margin)] for step, x in views.items()}
            caption = (
                f"Images along {self.chains} chains against {self.count:,} of the data (dashed): share of saturated "
                "numbers, standard deviation within an image, mean difference of neighbouring pixels."
            )
            figures.append(
                evaluation.figure(
                    "long-run-looks", "Saturation and contrast along the chain", caption,
                    lambda canvas: _draw_looks(canvas, measured, reference), size=(6.4, 2.6),
                )
            )  # fmt: skip
        for steps in self.steps if self.show else ():
            shown = [step for step in views if step <= steps]
            picked = [shown[number] for number in torch.linspace(0, len(shown) - 1, min(10, len(shown))).round().int()]
            x = torch.stack([views[step][: self.show] for step in picked], dim=1)
            listed = ", ".join(str(step) for step in picked)
            caption = f"One chain per row, after {listed} steps. Values from -1 (black) to 1 (white)."
            figures.append(
                evaluation.picture(
                    f"long-run-{steps}", f"{steps:,} steps", caption, x.flatten(0, 1), columns=len(picked)
                )
            )
        return figures

    def _draw(self, canvas: Canvas, kept: Sequence[int], curves: dict[str, Tensor]) -> None:
        panels = canvas.subplots(len(curves), 1, sharex=True)
        shares = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
        for panel, (name, values) in zip(panels, curves.items(), strict=True):
            # What left the finite numbers would swallow the axis.
            seen = values.clamp(-1e12, 1e12).nan_to_num()
            low, middle, high = seen.quantile(shares, dim=1).numpy()
            panel.fill_between(kept, low, high, color=SERIES[0], alpha=0.15, linewidth=0)
            panel.plot(kept, middle, color=SERIES[0])
            for steps in self.steps[:-1]:
                panel.axvline(steps, color=SERIES[1], linestyle=":", linewidth=1.0)
            panel.set(ylabel=name, xlim=(kept[0], kept[-1]))
        panels[-1].set(xlabel="chain step")


def drift(values: Tensor, kept: Sequence[int]) -> tuple[float, float]:
    r"""Mean of the last quarter of the steps less that of the second quarter, and its standard error over chains.

    The first quarter is left to arrive in. The chains are independent of each other, so that the error is right
    whatever the correlation along a chain.

    Arguments:
        values: A quantity along chains, with shape :math:`(K, B)`.
        kept: Step numbers of its rows.
    """
    last = kept[-1]
    early = torch.tensor([0.25 * last < step <= 0.5 * last for step in kept])
    late = torch.tensor([step > 0.75 * last for step in kept])
    moved = values[late.to(values.device)].mean(0) - values[early.to(values.device)].mean(0)
    return float(moved.mean()), _error(moved)


def look(x: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Saturation, contrast and variation of images :math:`(B, C, H, W)`, each with shape :math:`(B,)`.

    Arguments:
        x: Images in [-1, 1].
        margin: Distance from -1 or 1 at which a number counts as saturated.
    """
    x = x.double()
    saturation = (x.abs() >= 1.0 - margin).double().flatten(1).mean(1)
    across, down = x.diff(dim=-1).abs(), x.diff(dim=-2).abs()
    variation = 0.5 * (across.flatten(1).mean(1) + down.flatten(1).mean(1))
    return saturation, x.flatten(1).std(1), variation


def _norm(target: Target, trace: Tensor) -> Tensor:
    """Squared length of the latent part of positions over its dimension, with shape ``(K, B)``."""
    width = sum(group.size for group in target.layout.groups if group.name.startswith("z.")) or target.layout.size
    # The latent groups come first in every layout that has any.
    return trace[..., :width].double().square().mean(-1)


def _error(values: Tensor) -> float:
    return float(values.double().std()) / math.sqrt(len(values))


def _draw_looks(canvas: Canvas, measured: dict[int, list[float]], reference: tuple[float, ...]) -> None:
    panels: Sequence[Any] = canvas.subplots(1, 3)
    names = ("saturated share", "contrast", "variation")
    for number, (panel, name) in enumerate(zip(panels, names, strict=True)):
        panel.plot(list(measured), [values[number] for values in measured.values()], color=SERIES[0])
        panel.axhline(reference[number], color="#8c959f", linestyle="--", linewidth=1.0)
        panel.set(title=name, xlabel="chain step", xlim=(min(measured), max(measured)))
