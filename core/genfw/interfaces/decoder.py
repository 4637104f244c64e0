"""From a latent to a density over data."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from genfw.interfaces.construction import Constructed
from genfw.interfaces.likelihood import Likelihood
from genfw.interfaces.values import Latent, Size


class Decoder(Constructed, nn.Module, abc.ABC):
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

    @contextmanager
    def for_chain(self) -> Iterator[None]:
        """Entered while a chain runs, in eval mode with frozen parameters; does nothing by default.

        Compute here, once for all steps, what depends only on the weights. Values and gradients must stay the same.
        """
        yield

    def penalty(self) -> Tensor | None:
        """A scalar that training may add, weighed by the recipe (spectral norms, say); none by default."""
        return None
