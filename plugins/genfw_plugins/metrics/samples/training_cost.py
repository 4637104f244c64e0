"""What a model costs: its parameters, and the time of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import nn

from genfw import Evaluation, Metric, Result
from genfw.runs.directory import RunDirectory


def count(*networks: nn.Module | None) -> int:
    """Parameters of some networks, each counted once."""
    parts = {parameter for network in networks if network is not None for parameter in network.parameters()}
    return sum(parameter.numel() for parameter in parts)


@attrs.define(kw_only=True, eq=False, slots=False)
class TrainingCost(Metric):
    """Parameters of the model, the amortizer's share, and minutes of an epoch of the last stage.

    - ``parameters``: of prior, decoder, energies, encoder and amortizer together;
    - ``amortizer-share``: the amortizer's parameters over those of prior and decoder, in per cent. What describes
      images to the amortizer is left out; DAMC's paper says "about 10 %" of its generator's;
    - ``minutes-per-epoch``: time of the last stage's logged steps, by the run's own clock, times the steps that show
      every training image once. It holds for the machine that trained.

    References:
        DAMC (arXiv 2310.03218), section 4.1 and App. G.1.
    """

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        model = evaluation.model
        parts = {
            "prior": model.prior,
            "decoder": model.decoder,
            "energies": model.energies,
            "encoder": model.encoder,
            "amortizer": model.amortizer,
        }
        counts = {name: count(part) for name, part in parts.items()}
        listed = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)
        protocol = evaluation.protocol()
        results = [Result("parameters", count(*parts.values()), "", protocol, note=f"{listed or 'No part has any'}.")]
        generator = count(model.prior, model.decoder)
        if model.amortizer is not None and generator:
            own = counts["amortizer"] - count(getattr(model.amortizer, "encoder", None))
            note = f"{own:,} of the amortizer without what describes images, {generator:,} of prior and decoder."
            results.append(Result("amortizer-share", 100.0 * own / generator, "%", protocol, better="lower", note=note))
        results += self._epoch(evaluation)
        return results

    def _epoch(self, evaluation: Evaluation) -> list[Result]:
        rows = RunDirectory(evaluation.directory).read_metrics()
        if not rows or evaluation.data is None:
            return []
        stage = rows[-1]["stage"]
        own = [row for row in rows if row["stage"] == stage]
        blocks = evaluation.recipe.get("train") or []
        if len(own) < 2 or own[-1]["step"] <= own[0]["step"] or stage >= len(blocks):
            return []
        steps = own[-1]["step"] - own[0]["step"]
        batch = int(blocks[stage]["batch"])
        images = len(evaluation.data.split("train"))
        minutes = (own[-1]["time"] - own[0]["time"]) / steps * images / batch / 60.0
        note = f"{steps:,} steps of stage '{own[-1]['name']}', {batch} of {images:,} items each."
        return [Result("minutes-per-epoch", minutes, "min", evaluation.protocol(), better="lower", note=note)]
