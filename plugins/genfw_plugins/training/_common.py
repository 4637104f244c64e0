"""What several stages share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from genfw.chains import ChainResult
from genfw.errors import ContractError
from genfw.interfaces.decoder import Decoder
from genfw.interfaces.encoder import Encoder
from genfw.interfaces.energy import Energy
from genfw.interfaces.prior import Prior
from genfw.model import Model

__all__ = ["chain_health", "check_schedule", "energy_health", "need", "penalties", "saturation"]


def need(model: Model, stage: str, *roles: str) -> None:
    """Refuse a model that lacks a part the stage works on.

    Raises:
        ContractError: A role is not filled.
    """
    present = {
        "prior": model.prior is not None,
        "decoder": model.decoder is not None,
        "encoder": model.encoder is not None,
        "energy": len(model.energies) > 0,
    }
    missing = [role for role in roles if not present[role]]
    if missing:
        raise ContractError(f"stage '{stage}' needs a model with {', '.join(missing)}; the recipe has none")


def check_schedule(steps: int, batch: int) -> None:
    """Refuse an empty stage."""
    if steps < 1 or batch < 1:
        raise ContractError(f"steps and batch are at least 1, got steps={steps}, batch={batch}")


def chain_health(result: ChainResult) -> dict[str, Tensor]:
    """What the health monitor reads of chains: acceptance, and mean squared position (1 under the base)."""
    return {"chain/acceptance": result.acceptance.mean(), "chain/drift": result.position.square().mean()}


def saturation(x: Tensor) -> Tensor:
    """Share of pixels at the ends of [-1, 1]; 0 for data that are not images."""
    if x.ndim < 4:
        return x.new_zeros(())
    return (x.detach().abs() >= 0.99).to(x.dtype).mean()


def energy_health(data: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """Mean energies of data and negatives, and their difference."""
    low, high = data.detach().mean(), negatives.detach().mean()
    return {"energy/data": low, "energy/negatives": high, "energy/gap": high - low}


def penalties(parts: Iterable[Energy | Prior | Decoder | Encoder | None]) -> Tensor | None:
    """Sum of the penalties that the parts offer; ``None`` where none does."""
    offered = [value for part in parts if part is not None and (value := part.penalty()) is not None]
    return torch.stack(offered).sum() if offered else None
