"""Hold networks still while something is computed through them, and put them back exactly as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["frozen"]


@contextmanager
def frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Switch ``modules`` to eval mode and their parameters to ``requires_grad=False``; restore both on the way out.

    A chain differentiates in the position alone: frozen parameters spare the backward pass their gradients.
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
            part.training = mode
        for parameter, flag in requires:
            parameter.requires_grad_(flag)
