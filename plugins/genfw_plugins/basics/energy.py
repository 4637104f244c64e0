"""The energy of a law that is known."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from genfw import ContractError, Dataset, Energy


class DensityEnergy(Energy):
    r"""Energy of a law with a known density :math:`\pi`, so that the model has that law; nothing is trained.

    On data :math:`E(x) = -\log \pi(x)`, for chains in space ``data``. On the latent
    :math:`E(z) = -\log \pi(z) + \log N(z; 0, I)`: tilted by it, the prior ``standard-normal`` is :math:`\pi`. A latent
    of several groups is read flat.

    Arguments:
        law: A data set whose density is known (``pinwheel``, ``gaussian-grid``).
        on: ``data`` or ``latent``.
    """

    def __init__(self, law: Dataset, on: Literal["data", "latent"] = "data") -> None:
        super().__init__()
        self.law, self.on = law, on

    def forward(self, v: Tensor) -> Tensor:
        """See :meth:`Energy.forward`.

        Raises:
            ContractError: The law's density is unknown, or it is over points of another size.
        """
        size = math.prod(self.law.data_shape)
        if v[0].numel() != size:
            raise ContractError(f"the law is over {size} numbers, and the energy is asked for {v[0].numel()}")
        log_density = self.law.log_prob(v.reshape(-1, *self.law.data_shape))
        if log_density is None:
            raise ContractError(
                f"energy 'density' needs a law with a known density; {type(self.law).__name__} has none"
            )
        if self.on == "data":
            return -log_density
        return -log_density - 0.5 * v.flatten(1).square().sum(1) - 0.5 * size * math.log(2.0 * math.pi)
