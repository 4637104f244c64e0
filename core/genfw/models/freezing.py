"""Freeze networks for a computation, and restore them exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.nn.utils import parametrize

from genfw.interfaces.network import ChainedNetwork


@contextmanager
def frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Switch ``modules`` to eval mode and their parameters to ``requires_grad=False``; restore both afterwards.

    A chain differentiates only in the position: without gradients of parameters its backward pass is cheaper.
    """
    present = [module for module in modules if module is not None]
    training = [(part, part.training) for module in present for part in module.modules()]
    requires = [(parameter, parameter.requires_grad) for module in present for parameter in module.parameters()]
    try:
        for module in present:
            module.eval()
        for parameter, _ in requires:
            parameter.requires_grad_(False)
        yield
    finally:
        for part, mode in training:
            if part.training != mode:  # a module takes long to set an attribute
                part.training = mode
        for parameter, flag in requires:
            parameter.requires_grad_(flag)


#: How many blocks of :func:`frozen_for_chain` this process is in.
_depth = 0


@contextmanager
def _counted() -> Iterator[None]:
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def is_frozen_for_chain() -> bool:
    """Whether a block of :func:`frozen_for_chain` is open: what depends on weights is then computed already."""
    return _depth > 0


@contextmanager
def frozen_for_chain(*modules: nn.Module | None) -> Iterator[None]:
    """:func:`frozen` for the length of a chain, where what depends only on weights is computed once.

    This covers parametrised weights (weight norm, spectral norm) and every network's ``for_chain``.
    """
    with frozen(*modules), parametrize.cached(), _counted(), ExitStack() as stack:
        for module in modules:
            for part in () if module is None else module.modules():
                if isinstance(part, ChainedNetwork):
                    stack.enter_context(part.for_chain())
        yield
