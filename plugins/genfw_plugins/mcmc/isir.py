"""Global moves: fresh draws of the base, weighed against where the chain is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Info, Sampler, Target
from genfw.plugins.validators import at_least, positive


class ISIRState(NamedTuple):
    r"""Position :math:`(B, D)`, potential :math:`(B,)` and tilt :math:`(B,)` of chains."""

    position: Tensor
    potential: Tensor
    tilt: Tensor


@attrs.frozen
class GlobalMove:
    r"""One move of iterated sampling-importance-resampling; see :class:`ISIR`.

    Arguments:
        candidates: :math:`N`, fresh draws of the base for each chain.
        chunk: Candidates per chain that are scored at once; all of them where 0.
    """

    candidates: int = attrs.field(validator=positive)
    chunk: int = attrs.field(default=0, validator=at_least(0))

    def check(self, target: Target) -> None:
        """Refuse a target whose base nothing can be drawn from.

        Raises:
            ContractError: The base is improper.
        """
        if not target.proper_base:
            raise ContractError(
                "global moves need fresh draws of the target's base, and this target's base is flat; "
                "use 'mala' or 'langevin' here, or run the chain in space 'noise'"
            )

    def __call__(
        self, target: Target, position: Tensor, tilt: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Info]:
        r"""Move every chain; returns position, tilt and the probability with which each chain left its place.

        Arguments:
            target: The potential, with a proper base.
            position: With shape :math:`(B, D)`.
            tilt: The tilt there, with shape :math:`(B,)`.
            generator: Source of all randomness.
        """
        n, b = self.candidates, position.shape[0]
        fresh = target.draw_base(n * b, generator).to(position)
        # Candidate j of all chains is round j of B rows: the order in which a posterior target repeats its data.
        rows = (self.chunk or n) * b
        scores = torch.cat([target.tilt(part) for part in fresh.split(rows)])
        tilts = torch.cat([tilt[None], scores.view(n, b)])  # shape: (N + 1, B)
        # A candidate without a finite score is never taken; where none has one, argmax stays at the state.
        log_weights = (-tilts).nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        # Gumbel's trick, written as a race of exponential clocks.
        clocks = torch.empty_like(tilts).exponential_(generator=generator)
        index = (log_weights - clocks.log()).argmax(0)
        moved = index > 0
        stay = torch.softmax(log_weights, 0)[0].nan_to_num(nan=1.0)
        rows_taken = (index - 1).clamp(min=0) * b + torch.arange(b, device=position.device)
        return (
            torch.where(moved[:, None], fresh[rows_taken], position),
            tilts.gather(0, index[None])[0],
            Info(acceptance=1.0 - stay, moved=moved),
        )


@attrs.define(kw_only=True, eq=False, slots=False)
class ISIR(Sampler):
    r"""Iterated sampling-importance-resampling.

    Draw :math:`\epsilon_1, \dots, \epsilon_N` from the base, put the state at :math:`\epsilon_0`, and take
    :math:`\epsilon_j` with probability :math:`\propto e^{-\text{tilt}(\epsilon_j)}`. The target is exactly invariant
    for every :math:`N`. A fresh draw of the base is a draw of the generator itself, so mass moves between modes at
    once; but it is blind to the tilt, and where :math:`e^{-\text{tilt}}` is concentrated chains stay where they are.
    :math:`N` potentials per step, no gradient.

    Arguments:
        candidates: :math:`N`, fresh draws for each chain and step.
        steps: Moves in one chain.
        chunk: Candidates per chain that are scored at once, to bound memory; all of them where 0.

    References:
        C. Andrieu, A. Lee, M. Vihola, Uniform ergodicity of the iterated conditional SMC and geometric ergodicity of
        particle Gibbs samplers, 2018; S. Samsonov et al., Local-Global MCMC kernels: the best of both worlds, 2022.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2, "candidates": 4}

    candidates: int = 8
    steps: int = attrs.field(default=1, validator=positive)
    chunk: int = 0

    def __attrs_post_init__(self) -> None:
        self.move = GlobalMove(self.candidates, self.chunk)

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> ISIRState:
        """See :meth:`Sampler.init`.

        Raises:
            ContractError: The target's base is improper.
        """
        self.move.check(target)
        with torch.no_grad():
            tilt = target.tilt(position)
            return ISIRState(position, target.base(position) + tilt, tilt)

    def step(self, target: Target, state: ISIRState, generator: torch.Generator) -> tuple[ISIRState, Info]:
        with torch.no_grad():
            position, tilt, info = self.move(target, state.position, state.tilt, generator)
            return ISIRState(position, target.base(position) + tilt, tilt), info
