"""A network that learns to draw what long chains would reach."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from genfw.interfaces.construction import Constructed


class Amortizer(Constructed, nn.Module, abc.ABC):
    r"""Learned sampler :math:`q_\phi(\epsilon)` and :math:`q_\phi(\epsilon \mid x)` of positions in noise space.

    A subclass guarantees that ``sample`` and ``sample_given`` build no graph and draw from the generator only, and that
    minimising ``loss`` over positions drawn from a law moves ``q`` to that law.
    """

    @abc.abstractmethod
    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        r"""Draw positions of the prior chain, with shape :math:`(B, D)`."""

    @abc.abstractmethod
    def sample_given(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        r"""Draw one position of the posterior chain for each of ``x`` :math:`(B, *)`, with shape :math:`(B, D)`."""

    @abc.abstractmethod
    def loss(
        self, position: Tensor, x: Tensor | None, *, generator: torch.Generator, hidden: Tensor | None = None
    ) -> Tensor:
        r"""Loss of each item; training minimises its mean.

        Arguments:
            position: Positions to learn to draw, with shape :math:`(B, D)`.
            x: What they are conditioned on, with shape :math:`(B, *)`; ``None`` for the unconditional law.
            generator: Source of all randomness.
            hidden: Items whose x is hidden; the network learns the unconditional law from them. Bool, with shape
                :math:`(B,)`.

        Returns:
            One number per item, with shape :math:`(B,)`.
        """
