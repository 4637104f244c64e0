"""Stages and networks made ready to be timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import nn

from genfw.nn.precision import ChainPrecision
from genfw.training.stage import Stage, StageRun
from genfw_plugins.ddpm.amortizer import DDPM


def ready(stage: Stage, precision: str = "32-true", seed: int = 1) -> Stage:
    """The stage set up as a run sets it up, without an engine."""
    fabric = Fabric(accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    stage.run = StageRun(fabric, torch.device("cpu"), torch.Generator().manual_seed(seed), stage.steps)
    stage.setup()
    return stage


@contextmanager
def rounded(precision: ChainPrecision, *parts: nn.Module | None) -> Iterator[None]:
    """Chains through these networks, and draws of an amortizer among them, in that precision inside the block."""
    names = {part: "precision" if isinstance(part, DDPM) else "chain_precision" for part in parts if part is not None}
    for part, name in names.items():
        setattr(part, name, precision)
    try:
        yield
    finally:
        for part, name in names.items():
            setattr(part, name, "model")
