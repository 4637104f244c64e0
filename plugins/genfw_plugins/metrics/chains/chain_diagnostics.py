"""Whether the chains that sample from a model have mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import ChainResult, Evaluation, Figure, Metric, Result, Target, make_target, run_chain
from genfw.evaluation.pictures import SERIES, Canvas, is_image
from genfw.models.chains import draw_starts
from genfw.models.freezing import frozen_for_chain
from genfw.models.sampling import preserved
from genfw.plugins.validators import at_least, within
from genfw_plugins.metrics.chains.convergence import ess_bulk, split_rhat

#: Chains with a larger R-hat have not mixed (Gelman and Rubin's old bound, far above today's 1.01).
_MIXED = 1.1
#: Numbers of a trace that are kept at most; longer chains are thinned.
_BUDGET = 2**26


@attrs.define(kw_only=True, eq=False, slots=False)
class ChainDiagnostics(Metric):
    r"""Split :math:`\hat R`, bulk effective sample size, acceptance, and the energy along the chain.

    The recipe's kernel is run from the recipe's starts for ``steps`` moves; the first half is left out. The numbers
    are the worst over the potential and up to ``coordinates`` coordinates of the position. Short-run chains, as many
    recipes train with, are not meant to mix: their :math:`\hat R` then says by how much they do not. It is infinite
    where no chain moves.

    References:
        Vehtari et al., Rank-normalization, folding, and localization: an improved R-hat (Bayesian Analysis, 2021).

    Arguments:
        chains: Chains.
        steps: Moves of each.
        coordinates: Coordinates of the position that are looked at, evenly spaced where there are more.
        show: Chains in the pictures, at most 8.
    """

    smoke: ClassVar[dict[str, Any]] = {"chains": 4, "steps": 20, "show": 4}

    chains: int = attrs.field(default=64, validator=at_least(2))
    steps: int = attrs.field(default=200, validator=at_least(20))
    coordinates: int = attrs.field(default=64, validator=at_least(0))
    show: int = attrs.field(default=6, validator=within(0, 8))

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        settings = evaluation.settings
        if settings.sampler is None:
            note = "The recipe samples without a chain."
            return [Result("r-hat", None, protocol=evaluation.protocol(), note=note)]
        target = make_target(evaluation.model, settings.space)
        every = max(1, -(-self.steps * self.chains * target.layout.size // _BUDGET))
        every = min(every, self.steps // 20)  # the second half of a chain needs ten states
        generator = evaluation.generator("chain-diagnostics")
        with preserved(settings.sampler, *settings.starts), frozen_for_chain(*target.modules()), torch.no_grad():
            start = draw_starts(target, settings.starts, self.chains, generator)
            chain = run_chain(target, settings.sampler, start, generator=generator, steps=self.steps, keep_every=every)
            figures = self._figures(evaluation, target, chain)
        warm = len(chain.kept) // 2
        values, names = self._quantities(chain)
        late = values[warm:].cpu()
        rhat, ess = split_rhat(late), ess_bulk(late)
        draws = (len(chain.kept) - warm) * self.chains
        facts = evaluation.protocol(samples=self.chains) | {
            "samples": None, "chains": self.chains, "chain_steps": self.steps, "thinning": every,
            "discarded": "the first half", "quantities": len(names), "draws": draws,
        }  # fmt: skip
        protocol = {key: value for key, value in facts.items() if value is not None}
        acceptance = float(chain.acceptance.mean())
        # The extreme of several numbers is ``nan`` where one of them is: none is passed over.
        worst, least = int(rhat.argmax()), int(ess.argmin())
        remarks = _remarks(late)
        high = f"Worst of {len(names)}: {names[worst]}. Below 1.01 where chains agree. {remarks}".strip()
        low = f"Of {draws:,} draws. Least of {len(names)}: {names[least]}. {remarks}".strip()
        far = float(rhat[worst])
        mixed = "" if far <= _MIXED else f"R-hat is {far:.3g}: these chains have not mixed, and their start shows."
        stuck = "" if acceptance else "Every move was rejected: the samples are where the chains began."
        return [
            Result("r-hat", far, "", protocol, better="lower", note=high, figures=figures, doubt=mixed),
            Result("ess-bulk", float(ess[least]), "draws", protocol, better="higher", note=low, doubt=mixed),
            Result("acceptance", acceptance, "", protocol, note="1 for kernels that do not reject.", doubt=stuck),
        ]

    def _quantities(self, chain: ChainResult) -> tuple[Tensor, list[str]]:
        size = chain.trace.shape[-1]
        picked = torch.linspace(0, size - 1, min(self.coordinates, size)).round().long()
        values = torch.cat([chain.potentials[..., None], chain.trace[..., picked.to(chain.trace.device)]], dim=-1)
        return values, ["the potential", *(f"coordinate {number}" for number in picked.tolist())]

    def _figures(self, evaluation: Evaluation, target: Target, chain: ChainResult) -> list[Figure]:
        potentials = chain.potentials.cpu()
        caption = (
            f"Potential in nats of {self.chains} chains: median, the middle 90 %, and three chains. Where it has "
            "levelled off, the chains may have arrived; where it still falls, they have not."
        )
        figures = [
            evaluation.figure(
                "energy-trace", "Energy along the chain", caption,
                lambda canvas: _draw_trace(canvas, chain.kept, potentials), size=(6.4, 2.8),
            )
        ]  # fmt: skip
        if not self.show:
            return figures
        stages = min(10, len(chain.kept))
        # Early steps change most: the pictures lie closer together there.
        picked = (torch.linspace(0, 1, stages).square() * (len(chain.kept) - 1)).round().long().unique()
        noise, seed = torch.Generator(evaluation.device), evaluation.generator("chain-pictures").initial_seed()
        states = [
            target.to_data(state[: self.show], generator=noise.manual_seed(seed), mean=evaluation.settings.mean)
            for state in chain.trace[picked.to(chain.trace.device)]
        ]
        # The same decoder noise at every step: what changes along a row is the chain alone.
        x = torch.stack(states, dim=1).cpu()  # shape: (chains, stages, *)
        steps = [chain.kept[number] for number in picked.tolist()]
        listed = ", ".join(str(step) for step in steps)
        if is_image(tuple(x.shape[2:])):
            caption = f"One chain per row, after {listed} steps. Values from -1 (black) to 1 (white)."
            figures.append(evaluation.picture("chain", "Along the chain", caption, x.flatten(0, 1), columns=len(steps)))
        elif x[0, 0].numel() >= 2:
            x = x[:4]  # more paths than these can't be told apart
            caption = f"First two coordinates of {len(x)} chains after {listed} steps; the dot is where a chain ends."
            figures.append(
                evaluation.figure(
                    "chain", "Along the chain", caption, lambda canvas: _draw_paths(canvas, x), size=(4.4, 4.4)
                )
            )
        return figures


def _remarks(values: Tensor) -> str:
    """Why numbers of these draws, with shape (K, n, Q), can be infinite or absent; empty where all moved."""
    moved = (values != values[0]).any(0)
    chains, quantities = int((~moved.any(1)).sum()), int((~moved.any(0)).sum())
    lost = int((~values.isfinite()).any(0).any(0).sum())
    remarks = [
        f"{chains} of {len(moved)} chains never moved." if chains else "",
        f"In {quantities} of {moved.shape[1]} quantities no chain moved." if quantities else "",
        f"{lost} of {moved.shape[1]} quantities are not finite." if lost else "",
    ]
    return " ".join(remark for remark in remarks if remark)


def _draw_trace(canvas: Canvas, kept: Sequence[int], potentials: Tensor) -> None:
    axes = canvas.subplots()
    shares = torch.tensor([0.05, 0.5, 0.95], dtype=potentials.dtype)
    low, middle, high = potentials.nan_to_num().quantile(shares, dim=1).double().numpy()
    axes.fill_between(kept, low, high, color=SERIES[0], alpha=0.15, linewidth=0, label="middle 90 %")
    axes.plot(kept, potentials[:, :3].double().numpy(), color="#8c959f", linewidth=0.6)
    axes.plot(kept, middle, color=SERIES[0], label="median")
    axes.set(xlabel="chain step", ylabel="potential (nats)", xlim=(kept[0], kept[-1]))
    axes.legend(loc="best")


def _draw_paths(canvas: Canvas, x: Tensor) -> None:
    axes = canvas.subplots()
    for number, path in enumerate(x.flatten(2)[..., :2].double().numpy()):
        colour = SERIES[number % len(SERIES)]
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.8, alpha=0.8)
        axes.plot(path[-1:, 0], path[-1:, 1], "o", color=colour, markersize=5)
    axes.set(aspect="equal")
