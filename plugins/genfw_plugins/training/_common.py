"""What several stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from genfw.errors import ContractError
from genfw.interfaces.decoder import Decoder
from genfw.interfaces.encoder import Encoder
from genfw.interfaces.energy import Energy
from genfw.interfaces.prior import Prior
from genfw.interfaces.target import Target
from genfw.interfaces.values import Batch
from genfw.models.chains import Chain, ChainResult
from genfw.models.freezing import frozen
from genfw.models.model import Model
from genfw.training.optimizer import OptimizerFactory
from genfw.training.stage import Stage, StageRun
from genfw.training.updater import Updater

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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


def noisy(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    r"""Data with normal noise of standard deviation ``std`` added; the data themselves where it is 0."""
    if not std:
        return x
    return x + std * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def run_chain(
    stage: Stage, chain: Chain, target: Target, batch: Batch, step: int, first: Tensor | None = None
) -> ChainResult:
    """Chains of a training step, one for each row of its batch, without the potential where they end.

    See :meth:`~genfw.models.chains.Chain.run`.
    """
    return chain.run(
        target,
        len(batch),
        generator=stage.run.generator,
        x=batch.x,
        index=batch.index,
        step=step,
        first=first,
        end_potential=False,
    )


def chain_health(result: ChainResult, group: str = "chain") -> dict[str, Tensor]:
    """Acceptance and mean squared position (1 under the base); the health monitor reads those of group ``chain``."""
    return {f"{group}/acceptance": result.acceptance.mean(), f"{group}/drift": result.position.square().mean()}


def saturation(x: Tensor) -> Tensor:
    """Share of pixels at the ends of [-1, 1]; 0 for data that are not images."""
    if x.ndim < 4:
        return x.new_zeros(())
    return (x.detach().abs() >= 0.99).to(x.dtype).mean()


def energy_health(data: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """Mean energies of data and negatives, and their difference."""
    low, high = data.detach().mean(), negatives.detach().mean()
    return {"energy/data": low, "energy/negatives": high, "energy/gap": high - low}


def penalised(loss: Tensor, weight: float, parts: Iterable[Energy | Prior | Decoder | Encoder | None]) -> Tensor:
    """The loss plus the weighted sum of the penalties that the parts offer; they are asked for none where it is 0."""
    present = [part for part in parts if part is not None] if weight else []
    offered = [value for part in present if (value := part.penalty()) is not None]
    return loss + weight * torch.stack(offered).sum() if offered else loss


def initialise_energies(model: Model, fabric: Fabric, batch_at: Callable[[int], Batch], batches: int) -> None:
    """Initialise energies that data decide on the first rows, the same ones in every process.

    Arguments:
        model: With energies on data.
        fabric: Processes.
        batch_at: The rows that this process is given in a step.
        batches: Batches to show.
    """
    x = torch.cat([batch_at(step).x for step in range(batches)])
    if fabric.world_size > 1:
        # Not by Fabric, which gathers through a function that torch has deprecated.
        parts = [torch.empty_like(x) for _ in range(fabric.world_size)]
        distributed.all_gather(parts, x.contiguous())
        x = torch.cat(parts)
    for energy in model.data_energies:
        energy.initialise(x)


def generator_updater(
    model: Model, factory: OptimizerFactory, run: StageRun, steps: int, *, prior: bool = True
) -> Updater:
    """An optimiser over the weights of prior (unless it stays as it is) and decoder, those that have any.

    Raises:
        ContractError: Neither has weights.
    """
    both = (model.prior if prior else None, model.decoder)
    parts: list[nn.Module] = [part for part in both if part is not None]
    return Updater(parts, factory, run, steps)


def reconstruction(model: Model, position: Tensor, x: Tensor, fabric: Fabric) -> tuple[Tensor, dict[str, Tensor]]:
    r"""What generators descend given latents: :math:`-\overline{\log p(x \mid z)}`, a scalar with graph, and a report.

    Arguments:
        model: With prior and decoder.
        position: :math:`\epsilon_z`, with shape :math:`(B, D)`.
        x: Items, with shape :math:`(B, *)`.
        fabric: Precision.
    """
    with fabric.autocast():
        likelihood = model.likelihood(model.latent(position))
        loss = -likelihood.log_prob(x).mean()
    return loss, {"reconstruction": loss.detach(), "mse": (likelihood.mean.detach() - x).square().mean()}


def generator_loss(
    model: Model, count: int, generator: torch.Generator, fabric: Fabric, *, mean: bool = False
) -> Tensor:
    r"""Mean energy of fresh draws of the generator, :math:`\overline{E(x_\theta(\epsilon))}`, a scalar with graph.

    Only prior and decoder are given gradients. Their batch norms use the statistics they have, so that what is
    descended is the generator that chains walk through.

    Arguments:
        model: With prior, decoder and an energy on data.
        count: Draws.
        generator: Source of the noise.
        fabric: Precision.
        mean: Score the decoder's mean instead of a draw from it.
    """
    parts = [part for root in (model.prior, model.decoder) if root is not None for part in root.modules()]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        # The graph outlives the block; what was frozen when it was made gets no gradient from it.
        with frozen(model.energies), fabric.autocast():
            if mean:
                noise = model.latent_layout.draw(count, generator=generator, dtype=model.anchor.dtype)
                x = model.likelihood(model.latent(noise)).mean
            else:
                x = model.decode(model.noise_layout.draw(count, generator=generator, dtype=model.anchor.dtype))
            return model.data_energy(x).mean()
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
