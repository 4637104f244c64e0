"""From a latent to a density over data."""

from __future__ import annotations

import abc

from genfw.interfaces.likelihood import Likelihood
from genfw.interfaces.network import ChainedNetwork
from genfw.interfaces.values import Latent, Size


class Decoder(ChainedNetwork):
    r"""Generator :math:`p(x \mid z)`.

    A subclass guarantees that ``forward`` is differentiable in the latent, and that items of a batch do not influence
    one another in eval mode. ``noise_shape`` must agree with the likelihood it returns.
    """

    @property
    @abc.abstractmethod
    def noise_shape(self) -> Size | None:
        r"""Shape of :math:`\epsilon_x` of one item; ``None`` where x is a deterministic function of z."""

    @abc.abstractmethod
    def forward(self, latent: Latent) -> Likelihood:
        r"""The density :math:`p(x \mid z)` for each latent of the batch."""
