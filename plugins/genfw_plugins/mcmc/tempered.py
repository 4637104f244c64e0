"""Replica exchange: chains at several temperatures that change places."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Info, Target
from genfw.nn.precision import constants
from genfw.plugins.validators import positive
from genfw_plugins.mcmc.adaptation import AdaptiveSampler, StepSize, StepState
from genfw_plugins.mcmc.mala import log_ratio, propose
from genfw_plugins.mcmc.moves import choose, metropolis


class Replicas(NamedTuple):
    r"""Chains at :math:`T` temperatures, round by round: rows :math:`tB \dots (t+1)B - 1` are at :math:`\beta_t`.

    Rounds of :math:`B` rows, so that row :math:`i` of every round belongs to the item of row :math:`i` in a posterior
    target.

    Arguments:
        position: With shape :math:`(TB, D)`.
        base: With shape :math:`(TB,)`.
        tilt: With shape :math:`(TB,)`.
        base_gradient: With shape :math:`(TB, D)`.
        tilt_gradient: With shape :math:`(TB, D)`.
    """

    position: Tensor
    base: Tensor
    tilt: Tensor
    base_gradient: Tensor
    tilt_gradient: Tensor

    @classmethod
    def at(cls, target: Target, position: Tensor) -> Replicas:
        """Evaluate once at ``position``."""
        tilt, tilt_gradient = target.tilt_and_grad(position)
        base, base_gradient = target.base_and_grad(position)
        return cls(position, base, tilt, base_gradient, tilt_gradient)

    def rows(self, index: Tensor) -> Replicas:
        """These rows, in this order."""
        return Replicas(*(part[index] for part in self))


class TemperedState(NamedTuple):
    """The replicas, coldest first, the temperatures, one step size for each, and which pairs are next to swap."""

    replicas: Replicas
    beta: Tensor
    step_size: StepState
    parity: int

    @property
    def _count(self) -> int:
        return self.replicas.tilt.shape[0] // self.beta.shape[0]

    @property
    def position(self) -> Tensor:
        """Where the chains at beta = 1 are, with shape ``(B, D)``."""
        return self.replicas.position[: self._count]

    @property
    def potential(self) -> Tensor:
        """Potential there in nats, with shape ``(B,)``."""
        return self.replicas.base[: self._count] + self.replicas.tilt[: self._count]


@attrs.define(kw_only=True, eq=False, slots=False)
class TemperedLangevin(AdaptiveSampler):
    r"""Parallel tempering of the tilt: replica :math:`t` walks on :math:`\text{base} + \beta_t \text{tilt}`, and
    neighbours swap places with probability

    .. math:: \min\left(1, e^{(\beta_t - \beta_{t+1})(\text{tilt}_t - \text{tilt}_{t+1})}\right),

    even pairs and odd pairs in turn. Swaps and MALA moves leave the joint law exactly invariant; with ``local:
    langevin`` the moves are biased by the step size. Where the last :math:`\beta` is 0, that replica is the base
    itself and is drawn afresh at every step: a global move that climbs down the ladder. :math:`T` gradients per step,
    in one batch. Replicas begin where the chain does, so the hot ones need some steps before their swaps help. The
    acceptance it reports is that of the local move at :math:`\beta = 1`.

    Arguments:
        step_size: First :math:`h` of every replica (the only one with ``local: langevin``).
        betas: :math:`\beta_t`, falling, from 1.
        local: Kernel of the local moves: ``mala`` with one adaptive step size per temperature, or ``langevin``.
        steps: Moves in one chain.
        target: Acceptance that MALA's step sizes aim at.
        adapt: Adapt the step sizes.
        adapt_steps: Steps, over all chains, after which the step sizes stay; ``None`` adapts for ever.

    References:
        C. J. Geyer, Markov chain Monte Carlo maximum likelihood, 1991; S. Syed et al., Non-reversible parallel
        tempering, 2022.
    """

    recordable: ClassVar[bool] = True
    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2}

    step_size: float = 0.1
    betas: tuple[float, ...] = (1.0, 0.55, 0.25, 0.06, 0.0)
    local: Literal["mala", "langevin"] = "mala"
    steps: int = attrs.field(default=20, validator=positive)
    target: float = 0.574
    adapt: bool = True
    adapt_steps: int | None = None

    def __attrs_post_init__(self) -> None:
        betas, adapt = self.betas, self.adapt and self.local == "mala"
        if len(betas) < 2 or betas[0] != 1.0 or not betas[-1] >= 0 or not all(a > b for a, b in pairwise(betas)):
            raise ContractError(f"betas fall from 1 to 0 or above and are at least two, got {list(betas)}")
        self._step_size = StepSize(self.step_size, self.target, adapt, self.adapt_steps, len(betas))

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> TemperedState:
        """See :meth:`Sampler.init`.

        Raises:
            ContractError: The last beta is 0, and the target's base is improper.
        """
        if self.betas[-1] == 0.0 and not target.proper_base:
            raise ContractError(
                "beta = 0 needs fresh draws of the target's base, and this target's base is flat; end betas above 0"
            )
        levels = len(self.betas)
        once = Replicas.at(target, position)
        replicas = Replicas(*(part.repeat(levels, *(1 for _ in part.shape[1:])) for part in once))
        beta = constants(self.betas, position)
        return TemperedState(replicas, beta, self._step_size.begin(position), 0)

    def step(self, target: Target, state: TemperedState, generator: torch.Generator) -> tuple[TemperedState, Info]:
        count = state.position.shape[0]
        replicas, probability = self._move(target, state, generator)
        levels = probability.view(len(self.betas), count)
        replicas = replicas.rows(self._swap(replicas.tilt.view_as(levels), state.parity, generator))
        acceptance = levels.mean(1)
        if self.betas[-1] == 0.0:  # the base is drawn afresh, there is no step to adapt
            acceptance = torch.cat([acceptance[:-1], acceptance.new_full((1,), self._step_size.target)])
        step_size = self._step_size.update(state.step_size, acceptance)
        after = TemperedState(replicas, state.beta, step_size, 1 - state.parity)
        # Compared, not deduced: two replicas that swap may stand in the same place, as all do at first.
        return after, Info(levels[0], (after.position != state.position).any(1))

    def _move(self, target: Target, state: TemperedState, generator: torch.Generator) -> tuple[Replicas, Tensor]:
        """One local move of every replica; the replicas after, and the acceptance probability, (T * B,)."""
        old = state.replicas
        count = state.position.shape[0]
        beta = state.beta.repeat_interleave(count)
        h = state.step_size.step.repeat_interleave(count)[:, None]
        gradient = old.base_gradient + beta[:, None] * old.tilt_gradient
        position, xi = propose(old.position, gradient, h, generator)
        if self.betas[-1] == 0.0:
            fresh = target.draw_base(count, generator).to(position)
            position = torch.cat([position[:-count], fresh])
        new = Replicas.at(target, position)
        if self.local == "langevin":
            return new, torch.ones_like(beta)
        ratio = log_ratio(
            (old.position, old.base + beta * old.tilt),
            (new.position, new.base + beta * new.tilt, new.base_gradient + beta[:, None] * new.tilt_gradient),
            xi,
            h,
        )
        if self.betas[-1] == 0.0:
            ratio = torch.cat([ratio[:-count], torch.zeros_like(ratio[-count:])])
        probability, accept = metropolis(ratio, generator)
        return Replicas(*(choose(accept, a, b) for a, b in zip(new, old, strict=True))), probability

    def _swap(self, tilt: Tensor, parity: int, generator: torch.Generator) -> Tensor:
        """Which row each place takes after the swaps of one parity, with shape (T * B,)."""
        levels, count = tilt.shape
        order = torch.arange(levels * count, device=tilt.device).view(levels, count)
        for t in range(parity, levels - 1, 2):
            ratio = (self.betas[t] - self.betas[t + 1]) * (tilt[t] - tilt[t + 1])
            _, accept = metropolis(ratio, generator)
            pair = order[t : t + 2]
            order[t : t + 2] = torch.where(accept, pair.flip(0), pair)
        return order.flatten()

    def relocate(
        self, target: Target, state: TemperedState, position: Tensor, generator: torch.Generator
    ) -> TemperedState:
        """See :meth:`Sampler.relocate`; the hot replicas stay where they are."""
        hot = (part[position.shape[0] :] for part in state.replicas)
        cold = Replicas.at(target, position)
        return state._replace(replicas=Replicas(*(torch.cat(pair) for pair in zip(cold, hot, strict=True))))
