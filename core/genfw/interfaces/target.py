"""The potential that chains move on."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genfw.interfaces.values import NoiseLayout


class Target(abc.ABC):
    r"""Potential :math:`U = \text{base} + \text{tilt}` over flat positions :math:`(B, D)`.

    A subclass guarantees that both are differentiable, one number per position, and that ``draw_base`` draws exactly
    from :math:`\propto e^{-\text{base}}` (or refuses).
    """

    #: Which slice of a position belongs to which group.
    layout: NoiseLayout
    #: Whether the base is a probability law that ``draw_base`` draws from; kernels with global moves need it.
    proper_base: bool = True

    @abc.abstractmethod
    def tilt(self, position: Tensor) -> Tensor:
        r"""What energies and likelihoods add to the base, in nats, with shape :math:`(B,)`."""

    @abc.abstractmethod
    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        r"""The data a position stands for, with shape :math:`(B, *)`.

        Arguments:
            position: Positions, with shape :math:`(B, D)`.
            mean: Give the decoder's mean, without its noise.
            generator: Source of the decoder's noise where the position does not contain it.
        """

    def modules(self) -> tuple[nn.Module, ...]:
        """The networks the potential is made of."""
        return ()

    def conditions(self) -> tuple[Tensor, ...] | None:
        """Tensors that the potential reads beside positions and weights, such as the data of a posterior.

        ``None``, the default, says nothing of them: chains on such a target are never recorded
        (:mod:`genfw.models.recording`).
        """
        return None

    def given(self, *conditions: Tensor) -> Target:
        """The same target with other :meth:`conditions`, of the same shapes."""
        return self

    def base(self, position: Tensor) -> Tensor:
        r""":math:`|\epsilon|^2 / 2`, with shape :math:`(B,)`; the normalising constant is left out."""
        return 0.5 * position.square().sum(1)

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        r"""Fresh positions from the base, with shape :math:`(B, D)`."""
        return self.layout.draw(count, generator=generator)

    def potential(self, position: Tensor) -> Tensor:
        r""":math:`U = \text{base} + \text{tilt}` in nats, with shape :math:`(B,)`."""
        return self.base(position) + self.tilt(position)

    def tilt_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        r"""Tilt :math:`(B,)` and its gradient :math:`(B, D)`, both without graph."""
        return value_and_grad(self.tilt, position)

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        r"""Base :math:`(B,)` and its gradient :math:`(B, D)`, both without graph.

        That of :math:`|\epsilon|^2/2` is :math:`\epsilon` itself; subclasses with another base override this.
        """
        position = position.detach()
        return self.base(position), position

    def potential_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        r"""Potential :math:`(B,)` and its gradient :math:`(B, D)`, both without graph."""
        tilt, tilt_gradient = self.tilt_and_grad(position)
        base, base_gradient = self.base_and_grad(position)
        return base + tilt, base_gradient + tilt_gradient

    def tempered(self, beta: float | Tensor) -> Tempered:
        r"""The target with tilt :math:`\beta \cdot \text{tilt}`: at 0 the base, at 1 this target.

        Arguments:
            beta: :math:`\beta`, one for all positions or one for each, with shape :math:`(B,)`.
        """
        return Tempered(self, beta)


def value_and_grad(function: Callable[[Tensor], Tensor], position: Tensor) -> tuple[Tensor, Tensor]:
    """Value :math:`(B,)` of ``function`` and its gradient :math:`(B, D)`, both without graph."""
    with torch.enable_grad():
        position = position.detach().requires_grad_(True)
        value = function(position)
        if not value.requires_grad:  # a constant tilt, as of a model without energies
            return value, torch.zeros_like(position)
        (gradient,) = torch.autograd.grad(value.sum(), position, allow_unused=True)
    return value.detach(), torch.zeros_like(position) if gradient is None else gradient


class Tempered(Target):
    r"""Another target with its tilt multiplied by :math:`\beta`; see :meth:`Target.tempered`."""

    def __init__(self, target: Target, beta: float | Tensor) -> None:
        self.target, self.beta = target, beta
        self.layout, self.proper_base = target.layout, target.proper_base

    def tilt(self, position: Tensor) -> Tensor:
        return self.beta * self.target.tilt(position)

    def tilt_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        tilt, gradient = self.target.tilt_and_grad(position)
        beta = self.beta
        return beta * tilt, (beta[:, None] if isinstance(beta, Tensor) and beta.ndim else beta) * gradient

    def base(self, position: Tensor) -> Tensor:
        return self.target.base(position)

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return self.target.base_and_grad(position)

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        return self.target.draw_base(count, generator)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.target.to_data(position, mean=mean, generator=generator)

    def modules(self) -> tuple[nn.Module, ...]:
        return self.target.modules()
