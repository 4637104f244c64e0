"""How fast a model is sampled from, and what its chain costs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch

from genfw import Evaluation, Metric, Result
from genfw.models.sampling import SampleSettings, draw_samples
from genfw.plugins.validators import at_least
from genfw.randomness import derive_seed


@attrs.define(kw_only=True, eq=False, slots=False)
class SamplingSpeed(Metric):
    """Samples per second as the recipe draws them, and against the generator without its chain.

    One batch is drawn to warm up, then ``repeats`` batches are timed; the median counts. Times hold for this machine
    alone; ``chain-cost``, a ratio of two times of one run, travels better.

    Arguments:
        batch: Samples in a batch; the recipe's ``sample.batch`` where absent.
        repeats: Batches that are timed.
    """

    smoke: ClassVar[dict[str, Any]] = {"batch": 8, "repeats": 1}

    batch: int | None = attrs.field(default=None, validator=at_least(1))
    repeats: int = attrs.field(default=3, validator=at_least(1))

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

    @staticmethod
    def _hardware(evaluation: Evaluation) -> str:
        if evaluation.device.type == "cuda":
            return torch.cuda.get_device_name(evaluation.device)
        return platform.processor() or platform.machine()
