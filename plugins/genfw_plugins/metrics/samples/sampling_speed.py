"""How fast a model is sampled from, and what its chain costs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch

from genfw import Chain, Evaluation, Metric, PosteriorTarget, Result
from genfw.models.sampling import SampleSettings, draw_samples, preserved, synchronise
from genfw.plugins.validators import at_least
from genfw.randomness import derive_seed


@attrs.define(kw_only=True, eq=False, slots=False)
class SamplingSpeed(Metric):
    """Samples per second as the recipe draws them, and against the generator without its chain.

    One batch is drawn to warm up, then ``repeats`` batches are timed; the median counts. Times hold for this machine
    alone; ``chain-cost``, a ratio of two times of one run, travels better.

    With ``posterior`` a chain of the posterior is timed too, from its start to its end, one item of ``test`` a chain.

    References:
        VAEBM (arXiv 2010.00654), section 5.5; DAMC (arXiv 2310.03218), section 4.1, in batches of 64.

    Arguments:
        batch: Samples in a batch; the recipe's ``sample.batch`` where absent.
        repeats: Batches that are timed.
        posterior: Posterior chain that is timed.
    """

    smoke: ClassVar[dict[str, Any]] = {"batch": 8, "repeats": 1}

    batch: int | None = attrs.field(default=None, validator=at_least(1))
    repeats: int = attrs.field(default=3, validator=at_least(1))
    posterior: Chain | None = None

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        settings = evaluation.settings
        batch = self.batch or settings.batch
        protocol = evaluation.protocol(
            samples=batch,
            repeats=self.repeats,
            threads=torch.get_num_threads(),
            cores=os.cpu_count(),
            hardware=self._hardware(evaluation),
        )
        seconds = self._time(evaluation, settings, batch)
        results = [
            Result("samples-per-second", batch / seconds, "1/s", protocol, better="higher"),
            Result("seconds-per-batch", seconds, "s", protocol, better="lower", note=f"For {batch} samples."),
        ]
        if self.posterior is not None:
            results.append(self._time_posterior(evaluation, self.posterior, batch, protocol))
        if settings.sampler is None or evaluation.model.decoder is None:
            return results
        plain = SampleSettings(space=settings.space, batch=settings.batch, mean=settings.mean)
        generator = self._time(evaluation, plain, batch)
        note = "Fresh noise, no chain."
        results.append(
            Result("samples-per-second-generator", batch / generator, "1/s", protocol, better="higher", note=note)
        )
        note = f"Time with {settings.sampler.steps} chain steps over time of the generator alone."
        results.append(Result("chain-cost", seconds / generator, "×", protocol, better="lower", note=note))
        return results

    def _time(self, evaluation: Evaluation, settings: SampleSettings, batch: int) -> float:
        times = []
        for number in range(self.repeats + 1):
            seed = derive_seed(evaluation.seed, "speed", number)
            drawn = draw_samples(evaluation.model, settings, batch, seed=seed, device=evaluation.device)
            times.append(drawn.seconds)
        return statistics.median(times[1:])

    def _time_posterior(self, evaluation: Evaluation, chain: Chain, batch: int, protocol: Mapping[str, Any]) -> Result:
        rows = evaluation.rows("test", batch)
        x, index = rows.x.to(evaluation.device), rows.index.to(evaluation.device)
        times = []
        with preserved(chain):
            for number in range(self.repeats + 1):
                generator = evaluation.generator(f"posterior-speed-{number}")
                synchronise(evaluation.device)
                began = time.perf_counter()
                target = PosteriorTarget(evaluation.model, x)
                chain.run(target, len(x), generator=generator, x=x, index=index, end_potential=False)
                synchronise(evaluation.device)
                times.append(time.perf_counter() - began)
        note = f"Posterior chains of {len(x)} items, their starts included."
        facts = {**protocol, **chain.protocol(), "items": len(x)}
        seconds = statistics.median(times[1:])
        return Result("posterior-seconds-per-batch", seconds, "s", facts, better="lower", note=note)

    @staticmethod
    def _hardware(evaluation: Evaluation) -> str:
        if evaluation.device.type == "cuda":
            return torch.cuda.get_device_name(evaluation.device)
        return platform.processor() or platform.machine()
