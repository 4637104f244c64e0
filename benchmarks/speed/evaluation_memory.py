"""Peak memory of FID, KID and Inception score against the count of images; each count in a process of its own.

    python benchmarks/speed/evaluation_memory.py [COUNT ...]

Samples and data are 32x32 RGB images, drawn by a Langevin chain over a small generator and computed; features are
those of extractor 'random' (32 numbers and 10 logits an image). Images are read and written in batches, so that only
features grow with the count: 168 bytes an image here, 12 kB with Inception.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time

import torch
from torch import Tensor

from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces import Dataset, Split
from genfw.interfaces.values import NoiseGroup, NoiseLayout
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings

SHAPE = (3, 32, 32)


class Waves(Dataset, Split):
    """Rows that are computed from their number: a data set that takes no memory itself.

    Arguments:
        rows: Count of rows.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    @property
    def data_shape(self) -> tuple[int, ...]:
        """32x32 RGB."""
        return SHAPE

    def split(self, name: str) -> Split:
        """Every split is the same."""
        return self

    def __len__(self) -> int:
        return self.rows

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """See :class:`genfw.interfaces.Split`."""
        phase = torch.linspace(0, 20, 3072)
        return torch.sin(phase + index[:, None] * 0.37).view(-1, *SHAPE), None


def measure(count: int) -> None:
    """Evaluate ``count`` samples against ``count`` rows and print seconds and peak memory."""
    from genfw_plugins.basics.decoder import MLPDecoder
    from genfw_plugins.basics.prior import StandardNormal
    from genfw_plugins.mcmc.langevin import Langevin
    from genfw_plugins.metrics.fidelity.extractors import Features
    from genfw_plugins.metrics.fidelity.fidelity import FID, KID, InceptionScore
    from genfw_plugins.mlp_energy.energy import MLPEnergy

    torch.manual_seed(0)
    prior = StandardNormal(dim=16)
    layout = NoiseLayout((NoiseGroup("z.0", (16,)),))
    decoder = MLPDecoder(SHAPE, layout, hidden=(32,), output="tanh")
    energy = MLPEnergy(latent_layout=layout, on="latent", hidden=(32,))
    model = Model(prior, decoder, energy=energy)
    settings = SampleSettings(sampler=Langevin(step_size=0.01, steps=2), batch=500, space="prior")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENFW_CACHE"] = folder
        evaluation = Evaluation(model, Waves(count), settings, folder)
        began = time.perf_counter()
        for metric in (FID, KID, InceptionScore):
            metric(samples=count, features=Features(extractor="random", batch=250)).compute(evaluation)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:>8,} images  {seconds:7.1f} s  peak {peak:7.0f} MiB", flush=True)


if __name__ == "__main__":
    counts = [int(word) for word in sys.argv[1:]]
    if len(counts) == 1:
        measure(counts[0])
    else:
        for count in counts or [2_000, 10_000, 50_000]:
            subprocess.run([sys.executable, __file__, str(count)], check=True)
