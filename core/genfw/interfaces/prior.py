"""Where latents come from: a map from standard-normal noise."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor

from genfw.interfaces.network import ChainedNetwork
from genfw.interfaces.values import Latent, Size


class Prior(ChainedNetwork):
    r"""Latent prior :math:`p(z)`, given as a transform of noise, :math:`z = T_z(\epsilon_z)`.

    A subclass guarantees that ``transform`` of standard-normal noise at temperature 1 has exactly the law that
    ``log_prob`` scores, that ``transform`` is differentiable and, given the noise, deterministic, and that items of a
    batch do not influence one another in eval mode.
    """

    #: Whether the latent is its noise, :math:`T_z(\epsilon_z) = \epsilon_z` in one group at temperature 1; chains then
    #: need not differentiate through it.
    identity: bool = False

    @property
    @abc.abstractmethod
    def noise_shapes(self) -> tuple[Size, ...]:
        """Shape of the noise of each latent group, without batch."""

    @abc.abstractmethod
    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        r"""Map noise to a latent.

        Arguments:
            noise: One tensor per group, each with shape :math:`(B, *)`.
            temperature: Factor on the scale of every group.

        Returns:
            The latent :math:`T_z(\epsilon_z)`.
        """

    @abc.abstractmethod
    def log_prob(self, latent: Latent) -> Tensor:
        r"""Log density :math:`\log p(z)` in nats, with shape :math:`(B,)`."""
