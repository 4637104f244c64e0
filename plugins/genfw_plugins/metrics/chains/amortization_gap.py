"""How far an amortizer's draws are from where long chains end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from genfw.errors import ContractError, GenfwError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.metric import Metric
from genfw.evaluation.pictures import SERIES, Canvas, draw_samples_2d
from genfw.evaluation.results import Figure, Result
from genfw.interfaces.amortizer import Amortizer
from genfw.interfaces.sampler import Sampler
from genfw.interfaces.target import Target
from genfw.interfaces.values import Stateful
from genfw.models.chains import Chain, run_chain
from genfw.models.distances import directions, sliced_wasserstein
from genfw.models.freezing import frozen
from genfw.models.sampling import preserved
from genfw.models.targets import PosteriorTarget, PriorTarget
from genfw.plugins.signature import summarise
from genfw.plugins.validators import at_least
from genfw.recipes.compose import compose
from genfw.runs.directory import RunDirectory
from genfw_plugins.metrics.chains.gap import Gap, View, gaps

_SAID = {
    "amortizer": "Draws of the amortizer.",
    "refined": "Draws of the amortizer, then the steps of 'refine'.",
    "short-run": "The steps of 'refine' from fresh noise.",
    "untrained": "Draws of the amortizer as it was before training.",
    "floor": "Between independent sets of the reference: what no sampler can be below.",
}
_UNITS = {"sliced-wasserstein": "", "mmd": "", "stein": "", "energy-gap": "nats"}


@attrs.define(kw_only=True, eq=False, slots=False)
class AmortizationGap(Metric):
    r"""Distances of amortizer, refinement and short-run chains from a long-run reference, over the noise floor.

    The reference is drawn ``references`` times; what two of its sets are apart is the floor. ``NAME-floor`` is the
    floor itself, and ``NAME-amortizer`` and so on are multiples of it (``energy-gap`` in nats, its multiple in the
    note); 1 is a perfect sampler. Names are ``sliced-wasserstein`` (in units of the noise), ``mmd``, ``energy-gap``
    (mean potential minus the reference's) and, where many draws share one law, ``stein``.

    In space ``posterior`` one position is drawn for each of ``count`` rows: sets over the data as a whole, as in the
    paper's pictures. With ``items``, ``draws`` positions for each of as many rows besides: distances within each item,
    averaged, under names that end in ``-given-x``. These are the stricter ones: a sampler that ignored x could pass
    the first.

    Nothing here can tell whether the reference has mixed. Plain Langevin chains stay in the mode they fall into;
    where that matters use ``ex2`` or ``tempered-langevin``.

    References:
        DAMC (arXiv 2310.03218), App. E.1.

    Arguments:
        reference: Long chains: kernel with its number of steps, and start.
        refine: Kernel of the refinement and of the short-run chains; absent, neither is measured.
        space: ``posterior`` or ``prior``.
        split: Split whose rows are conditioned on.
        count: Rows, one draw each; draws, in space ``prior``.
        items: Rows that get many draws each; 0 leaves them out.
        draws: Draws for each of them.
        references: Independent reference sets.
        projections: Directions of the sliced Wasserstein distance.
        order: Its order. That of order 2 grows with the root of the mass that lies in the wrong mode, so that its floor
            is mostly chance where modes are far apart.
        untrained: Measure the amortizer before training too; it is built anew from the recipe.
        history: Draw the amortizer of the run's checkpoints, as many as are kept.
        show: Points per picture; 0 draws none.
    """

    smoke: ClassVar[dict[str, Any]] = {
        "count": 16, "items": 2, "draws": 8, "projections": 4, "show": 0, "untrained": False,
    }  # fmt: skip

    reference: Chain
    refine: Sampler | None = None
    space: Literal["posterior", "prior"] = "posterior"
    split: str = "test"
    count: int = attrs.field(default=5000, validator=at_least(2))
    items: int = attrs.field(default=0, validator=at_least(0))
    draws: int = attrs.field(default=500, validator=at_least(2))
    references: int = attrs.field(default=2, validator=at_least(2))
    projections: int = attrs.field(default=128, validator=at_least(1))
    order: int = attrs.field(default=1, validator=at_least(1))
    untrained: bool = True
    history: bool = True
    show: int = attrs.field(default=2000, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        if self.reference.count is not None:
            raise ContractError("count, items and draws say how many reference chains there are, not reference.count")
        if self.items and self.space == "prior":
            raise ContractError("items are rows to condition on, and space 'prior' has none; leave items out")

    def examine(self, evaluation: Evaluation) -> None:
        if evaluation.model.amortizer is None:
            raise ContractError("amortization-gap measures an amortizer, and the recipe has none")

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        fresh, trouble = self._fresh(evaluation) if self.untrained else (None, "")
        generator = evaluation.generator("amortization-gap")
        along = directions(evaluation.model.latent_layout.size, self.projections, generator)
        endings = ["", "-given-x"] if self.items and self.space == "posterior" else [""]
        tasks = [(ending, number) for ending in endings for number in range(self.references)]
        ends = list(zip(tasks, evaluation.spread(self._reference, tasks), strict=True))
        references = {ending: [end for (name, _), end in ends if name == ending] for ending in endings}
        kernels: list[Stateful] = [] if self.refine is None else [self.refine]
        with preserved(*kernels), torch.no_grad():
            views = [
                (ending, self._view(evaluation, ending, references[ending], fresh, generator)) for ending in endings
            ]
            measured = [(ending, gaps(view, along, self.order)) for ending, view in views]
            figures = self._figures(evaluation, views, measured, along) if self.show else []
        results = []
        for ending, found in measured:
            protocol = self._protocol(evaluation, ending)
            results += [self._result(gap, ending, protocol, trouble) for gap in found]
        if results and figures:
            results[0] = attrs.evolve(results[0], figures=figures)
        return results

    # -- draws --------------------------------------------------------------------------------------------------------

    def _target(self, evaluation: Evaluation, ending: str) -> tuple[Target, Tensor | None, int]:
        """What is drawn from, the data it is conditioned on, and how many draws there are."""
        if self.space == "prior":
            return PriorTarget(evaluation.model), None, self.count
        x = evaluation.rows(self.split, self.items if ending else self.count).x.to(evaluation.device)
        x = x.repeat_interleave(self.draws, 0) if ending else x
        return PosteriorTarget(evaluation.model, x), x, len(x)

    @torch.no_grad()
    def _reference(self, evaluation: Evaluation, ending: str, number: int) -> Tensor:
        """Where one set of long chains ends."""
        target, x, count = self._target(evaluation, ending)
        generator = evaluation.generator(f"amortization-gap{ending}.{number}")
        with preserved(self.reference):
            return self.reference.run(target, count, generator=generator, x=x, end_potential=False).position.cpu()

    def _view(
        self,
        evaluation: Evaluation,
        ending: str,
        references: Sequence[Tensor],
        fresh: Amortizer | None,
        generator: torch.Generator,
    ) -> View:
        model = evaluation.model
        target, x, count = self._target(evaluation, ending)
        references = [one.to(evaluation.device) for one in references]
        assert model.amortizer is not None  # compute() has refused
        contenders = {"amortizer": _draw(model.amortizer, x, count, generator)}
        if self.refine is not None:
            short = target.draw_base(count, generator)
            for name, start in (("refined", contenders["amortizer"]), ("short-run", short)):
                chain = run_chain(target, self.refine, start, generator=generator, end_potential=False)
                contenders[name] = chain.position
        if fresh is not None:
            contenders["untrained"] = _draw(fresh, x, count, generator)
        return View(target, references, contenders, self.draws if ending else count, one_law=bool(ending) or x is None)

    def _fresh(self, evaluation: Evaluation) -> tuple[Amortizer | None, str]:
        """The amortizer with the weights that training began with, made anew from the recipe; or why there is none."""
        if not evaluation.recipe:
            return None, "The amortizer before training could not be measured: there is no recipe to build it from."
        try:
            built = compose(evaluation.recipe, smoke=evaluation.smoke, device=evaluation.device)
        except GenfwError as error:
            reason = str(error).partition("\n")[0]
            return None, f"The amortizer before training could not be built anew: {reason}"
        return built.model.amortizer, ""

    # -- results ------------------------------------------------------------------------------------------------------

    def _protocol(self, evaluation: Evaluation, ending: str) -> dict[str, Any]:
        written = _block(evaluation.recipe)
        refine = written.get("refine") or self.refine
        return evaluation.protocol(
            space=self.space,
            split=self.split if self.space == "posterior" else None,
            count=self.items if ending else self.count,
            draws=self.draws if ending else 1,
            references=self.references,
            **self.reference.protocol(written.get("reference")),
            refine=None if refine is None else summarise(refine),
            refine_steps=None if self.refine is None else self.refine.steps,
            projections=self.projections,
            order=self.order,
        )

    def _result(self, gap: Gap, ending: str, protocol: Mapping[str, Any], trouble: str) -> Result:
        name, unit = f"{gap.distance}-{gap.contender}{ending}", _UNITS[gap.distance]
        if gap.contender == "floor":
            said = " ".join(part for part in (_SAID["floor"], trouble) if part)
            return Result(name, gap.value, unit, protocol, note=said)
        said = _SAID[gap.contender]
        if gap.distance == "energy-gap":
            note = f"{said} {gap.multiple:.3g} times the floor."
            return Result(name, gap.value, unit, protocol, gap.error, note=note)
        note = f"{said} {gap.value:.4g} where the floor is {gap.floor:.4g}."
        return Result(name, gap.multiple, "× floor", protocol, better="lower", note=note)

    # -- pictures -----------------------------------------------------------------------------------------------------

    def _figures(
        self,
        evaluation: Evaluation,
        views: Sequence[tuple[str, View]],
        measured: Sequence[tuple[str, Sequence[Gap]]],
        along: Tensor,
    ) -> list[Figure]:
        whole = views[0][1]
        if whole.references[0].shape[1] < 2:
            return []
        about = "First two coordinates of the noise, one window for all."
        sets = {"reference": whole.references[0], **whole.contenders}
        figures = [_panels(evaluation, "amortization", "Where they end", about, sets, self.show)]
        if len(views) > 1:
            given = views[1][1]
            sets = {}
            for number in range(min(3, self.items)):
                rows = slice(number * self.draws, (number + 1) * self.draws)
                sets |= {f"x {number + 1}: reference": given.references[0][rows]}
                sets |= {f"x {number + 1}: {name}": drawn[rows] for name, drawn in given.contenders.items()}
            columns = 1 + len(given.contenders)
            figures.append(
                _panels(evaluation, "amortization-given-x", "Given one item", about, sets, self.show, columns=columns)
            )
        floor = next(gap.floor for gap in measured[0][1] if gap.distance == "sliced-wasserstein")
        return figures + (self._past(evaluation, whole, along, floor) if self.history else [])

    def _past(self, evaluation: Evaluation, whole: View, along: Tensor, floor: float) -> list[Figure]:
        """The amortizers of the run's checkpoints beside the reference."""
        from genfw.engine.finished import load_run

        x = self._target(evaluation, "")[1]
        sets: dict[str, Tensor] = {}
        for one in RunDirectory(evaluation.directory).checkpoints.all():
            earlier = load_run(evaluation.directory, checkpoint=one.name, device=str(evaluation.device)).model.amortizer
            if earlier is None:
                continue
            drawn = _draw(earlier, x, len(whole.references[0]), evaluation.generator("amortization-history"))
            apart = float(sliced_wasserstein(drawn, whole.references[0], along, self.order))
            sets[f"stage {one.stage}, step {one.step}: {apart / floor:.1f}×"] = drawn
        if not sets:
            return []
        sets["reference"] = whole.references[0]
        about = (
            "Draws of the amortizer that training would have left at the run's checkpoints; sliced Wasserstein "
            "distance from the reference in multiples of the floor."
        )
        return [_panels(evaluation, "amortization-history", "While it learned", about, sets, self.show)]


def _draw(amortizer: Amortizer, x: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    with frozen(amortizer), torch.no_grad():
        if x is None:
            return amortizer.sample(count, generator=generator)
        return amortizer.sample_given(x, generator=generator)


def _block(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the recipe says of this metric, where it names it once."""
    blocks = [block for block in recipe.get("evaluate") or [] if isinstance(block, Mapping)]
    found = [block for block in blocks if str(block.get("use")).rpartition("/")[2] == "amortization-gap"]
    return found[0] if len(found) == 1 else {}


def _panels(
    evaluation: Evaluation,
    name: str,
    title: str,
    about: str,
    sets: Mapping[str, Tensor],
    most: int,
    *,
    columns: int = 5,
) -> Figure:
    columns = min(columns, len(sets))
    rows = -(-len(sets) // columns)
    reference = torch.cat([drawn for label, drawn in sets.items() if label.endswith("reference")])[:, :2]
    low, high = reference.min(0).values, reference.max(0).values
    margin = 0.15 * (high - low) + 1e-6
    window = [float(v) for pair in zip(low - margin, high + margin, strict=True) for v in pair]

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(rows, columns, squeeze=False).flatten()
        for panel, (label, drawn) in zip(panels, sets.items(), strict=False):
            colour = "#57606a" if label.endswith("reference") else SERIES[0]
            draw_samples_2d(panel, drawn[:most], label, window=window, colour=colour)
            panel.title.set_size(7)
        for panel in panels[len(sets) :]:
            panel.set_axis_off()

    return evaluation.figure(name, title, about, draw, size=(1.9 * columns, 2.0 * rows))
