"""What prior, decoder and energy share as networks that a chain evaluates many times."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from genfw.interfaces.construction import Constructed


class ChainedNetwork(Constructed, nn.Module, abc.ABC):
    """A network that chains are run through: it may be made ready for them, and may add a penalty to training."""

    def for_chain(self) -> AbstractContextManager[None]:
        """Entered while a chain runs, in eval mode with frozen parameters; does nothing by default.

        Compute here, once for all steps, what depends only on the weights. Values and gradients must stay the same,
        but for the rounding that a recipe asks for (:func:`genfw.nn.precision.chain_dtype`).
        """
        return nullcontext()

    def penalty(self) -> Tensor | None:
        """A scalar that training may add, weighed by the recipe (spectral norms, say); none by default."""
        return None
