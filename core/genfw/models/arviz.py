"""Chains as ArviZ's inference data."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from genfw.errors import ContractError, PluginError
from genfw.interfaces.target import Target


class Recorded(Protocol):
    """Chains with their recorded positions; see :class:`genfw.ChainResult`."""

    @property
    def trace(self) -> Tensor:
        """Positions, with shape (K, B, D)."""

    @property
    def potentials(self) -> Tensor:
        """Potentials, with shape (K, B)."""


def to_arviz(chains: Recorded, target: Target, *, skip: int = 0) -> Any:
    """The recorded positions of chains, group by group, for ``arviz``.

    Arguments:
        chains: Chains that were run with ``keep_every``.
        target: Their target, which names the groups of the position: ``z.0``, ``z.1``, ..., ``x``.
        skip: Recorded positions to leave out at the beginning, for burn-in.

    Returns:
        An ``xarray.DataTree`` with the group ``posterior`` (dimensions ``chain``, ``draw`` and those of the noise
        group) and the group ``sample_stats`` with ``lp``, minus the potential in nats.

    Raises:
        ContractError: Nothing was recorded, or the target is that of other chains.
        PluginError: ``arviz-base`` is not installed.
    """
    try:
        from arviz_base import from_dict
    except ImportError as error:
        raise PluginError("to_arviz needs the package arviz-base: pip install 'genfw[arviz]'") from error
    # In float64, because folding at the median in float32 makes ties, which change R-hat in the third digit.
    trace, potentials = (part[skip:].cpu().double() for part in (chains.trace, chains.potentials))
    if not len(trace):
        raise ContractError("no positions are recorded; run the chains with keep_every=1, and skip fewer of them")
    blocks = target.layout.split(trace.flatten(0, 1))
    steps = trace.shape[:2]
    # genfw has draws first, ArviZ has chains first.
    posterior = {name: block.unflatten(0, steps).transpose(0, 1).numpy() for name, block in blocks.items()}
    return from_dict({"posterior": posterior, "sample_stats": {"lp": -potentials.T.numpy()}})
