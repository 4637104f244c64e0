"""Global and local moves in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from torch import Tensor

from genfw import Info, Sampler, Target
from genfw.interfaces.values import StateTree
from genfw.plugins.validators import positive
from genfw_plugins.mcmc.isir import GlobalMove
from genfw_plugins.mcmc.mala import MALA


class Ex2State(NamedTuple):
    """The state of the local kernel; position and potential are its own."""

    local: Any

    @property
    def position(self) -> Tensor:
        """Where the chains are, with shape ``(B, D)``."""
        position: Tensor = self.local.position
        return position

    @property
    def potential(self) -> Tensor:
        """Potential there in nats, with shape ``(B,)``."""
        potential: Tensor = self.local.potential
        return potential


def _or_mala(local: Sampler | None) -> Sampler:
    return MALA() if local is None else local


@attrs.define(kw_only=True, eq=False, slots=False)
class Ex2(Sampler):
    r"""Ex2MCMC, explore and exploit: one i-SIR move, then some moves of a local kernel.

    The global move carries mass between modes, the local one settles it within a mode. The target is exactly
    invariant where the local kernel leaves it so (MALA, HMC; not Langevin). A step costs :math:`N` potentials, one
    gradient at the place the global move chose (with Langevin a potential alone), and those of the local moves; the
    tilt of the state is read off its potential.

    The acceptance it reports is that of the global move: the probability of leaving one's place for a fresh draw.

    Arguments:
        candidates: :math:`N`, fresh draws of the base for each chain and step.
        local: The local kernel; MALA where absent. Its own ``steps`` are not read.
        local_steps: Local moves after each global one.
        steps: Rounds (a global move and its local ones) in one chain.
        chunk: Candidates per chain that are scored at once, to bound memory; all of them where 0.

    References:
        S. Samsonov et al., Local-Global MCMC kernels: the best of both worlds, NeurIPS 2022.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"steps": 2, "candidates": 4}

    candidates: int = 8
    local: Sampler = attrs.field(default=None, converter=_or_mala)
    local_steps: int = attrs.field(default=1, validator=positive)
    steps: int = attrs.field(default=1, validator=positive)
    chunk: int = 0

    def __attrs_post_init__(self) -> None:
        self.move = GlobalMove(self.candidates, self.chunk)

    @property
    def recordable(self) -> bool:  # type: ignore[override]
        """As the local kernel is."""
        return self.local.recordable

    def init(self, target: Target, position: Tensor, generator: torch.Generator) -> Ex2State:
        """See :meth:`Sampler.init`.

        Raises:
            ContractError: The target's base is improper.
        """
        self.move.check(target)
        return Ex2State(self.local.init(target, position, generator))

    def step(self, target: Target, state: Ex2State, generator: torch.Generator) -> tuple[Ex2State, Info]:
        with torch.no_grad():
            tilt = state.potential - target.base(state.position)
            position, _, info = self.move(target, state.position, tilt, generator)
        local = self.local.relocate(target, state.local, position, generator)
        moved = info.moved
        for _ in range(self.local_steps):
            local, local_info = self.local.step(target, local, generator)
            moved = moved | local_info.moved
        return Ex2State(local), Info(info.acceptance, moved)

    def plan(self, steps: int) -> None:
        self.local.plan(steps * self.local_steps)

    def finish(self, state: Ex2State) -> None:
        self.local.finish(state.local)

    def state_dict(self) -> StateTree:
        """State of the local kernel."""
        return {"local": self.local.state_dict()}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        self.local.load_state_dict(state["local"])
