"""Begin where other chains of the same training step began."""

from __future__ import annotations

from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces import Start, StartRequest
from genfw_plugins.mcmc.starts._fill import with_fresh_x

__all__ = ["SharedStart"]


class SharedStart(Start):
    r"""The first positions of the posterior chains of the same training step, once more.

    In DAMC one draw :math:`z_0 \sim q_\phi(z \mid x)` for each item begins both its chains, :math:`z^+_0 = z^-_0 =
    z_0`, so that the amortizer is sampled once in a step. There is nothing to keep: the posterior chain's start holds
    the state.

    References:
        DAMC (arXiv 2310.03218), Algorithm 1, line 3, and Listing 2.
    """

    def draw(self, request: StartRequest) -> Tensor:
        """See :meth:`Start.draw`.

        Raises:
            ContractError: No other chains began in this step, or theirs are positions of another size.
        """
        if request.shared is None:
            raise ContractError(
                "start 'shared' begins where the posterior chains of the same training step began, and here there are "
                "none; it goes under prior in the stage 'alternating'"
            )
        return with_fresh_x(request, request.shared.detach(), "shared")
