"""The standard-normal prior."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from genfw import Latent, Prior, Size
from genfw.plugins.validators import at_least


class StandardNormal(Prior):
    r"""Standard-normal prior: :math:`z = \epsilon_z`, :math:`\epsilon_z \sim N(0, I)`.

    Arguments:
        dim: Size of the latent.
    """

    identity = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        at_least(1).check(dim=dim)
        self.dim = dim

    @property
    def noise_shapes(self) -> tuple[Size, ...]:
        """See :attr:`Prior.noise_shapes`."""
        return ((self.dim,),)

    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        (z,) = noise
        return Latent((z if temperature == 1.0 else temperature * z,))

    def log_prob(self, latent: Latent) -> Tensor:
        z = latent.flat()
        return -0.5 * z.square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)
