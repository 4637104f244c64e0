"""Look at the model in the middle of training, without the training noticing."""

from __future__ import annotations

from pathlib import Path

import torch

from genfw import randomness
from genfw.compose import Composition
from genfw.freeze import frozen
from genfw.plots import save_samples
from genfw.sampling import draw_samples

__all__ = ["draw_snapshot"]

#: Samples in a picture.
_COUNT = 64


def draw_snapshot(composition: Composition, path: Path, *, seed: int, device: torch.device | str) -> None:
    """Draw samples with the weights as they are, and save their picture.

    All snapshots of a run use one seed: the same noise is seen becoming better samples.

    Arguments:
        composition: The run's parts.
        path: The picture.
        seed: Source of the draw's randomness.
        device: Where the model is.
    """
    settings = composition.sample
    with randomness.kept_apart(device), frozen(composition.model):
        samples = draw_samples(composition.model, settings, min(settings.count, _COUNT), seed=seed, device=device)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_samples(path, samples.x)
