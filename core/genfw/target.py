r"""The potentials that chains walk on. Each says which space it lives in, and is exact.

Every target is :math:`\pi(\epsilon) \propto e^{-U(\epsilon)}` with :math:`U = \text{base} + \text{tilt}`. The
split matters: a fresh draw of the base is a *global* proposal whose importance weight is :math:`e^{-\text{tilt}}`.

Spaces, by the name a recipe gives them:

=============  ==================  ======================================  ==============================
space          position            base                                    tilt
=============  ==================  ======================================  ==============================
``noise``      eps_z (, eps_x)     :math:`|\epsilon|^2/2`                  all energies (VAEBM Eq. 9)
``prior``      eps_z               :math:`|\epsilon_z|^2/2`                energies on the latent
``posterior``  eps_z, given x      :math:`|\epsilon_z|^2/2`                the same :math:`- \log p(x \mid z)`
``data``       x                   none (flat)                             energies on data
``joint``      z, x                :math:`-\log p(z) - \log p(x \mid z)`   all energies (VAEBM App. B.1)
=============  ==================  ======================================  ==============================
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.freeze import held
from genfw.likelihood import Likelihood
from genfw.model import Model
from genfw.types import Latent, NoiseGroup, NoiseLayout

__all__ = [
    "DataTarget",
    "FunctionTarget",
    "JointTarget",
    "NoiseTarget",
    "PosteriorTarget",
    "PriorTarget",
    "Space",
    "Target",
    "Tempered",
    "make_target",
]

Space = Literal["noise", "prior", "posterior", "data", "joint"]


class Target(abc.ABC):
    r"""Potential :math:`U = \text{base} + \text{tilt}` over flat positions :math:`(B, D)`.

    A subclass guarantees that both are differentiable, one number per position, and that ``draw_base`` draws exactly
    from :math:`\propto e^{-\text{base}}` (or refuses).
    """

    #: Which slice of a position is what.
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
            mean: Give the decoder's mean and leave its noise out.
            generator: Source of the decoder's noise where the position does not hold it.
        """

    def modules(self) -> tuple[nn.Module, ...]:
        """The networks the potential is made of."""
        return ()

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
        return _value_and_grad(self.tilt, position)

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

    @contextmanager
    def chain(self) -> Iterator[None]:
        """Hold for the length of one chain: networks in eval mode, their parameters frozen; all restored afterwards.

        What depends on weights alone is made once; see :func:`genfw.freeze.held`.
        """
        with held(*self.modules()):
            yield

    def tempered(self, beta: float | Tensor) -> Tempered:
        r"""The target with tilt :math:`\beta \cdot \text{tilt}`: at 0 the base, at 1 this target.

        Arguments:
            beta: :math:`\beta`, one for all positions or one for each, with shape :math:`(B,)`.
        """
        return Tempered(self, beta)


def _value_and_grad(function: Callable[[Tensor], Tensor], position: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        position = position.detach().requires_grad_(True)
        value = function(position)
        if not value.requires_grad:  # a constant tilt, such as that of a model without energies
            return value, torch.zeros_like(position)
        (gradient,) = torch.autograd.grad(value.sum(), position, allow_unused=True)
    return value.detach(), torch.zeros_like(position) if gradient is None else gradient


class Tempered(Target):
    r"""Another target with its tilt multiplied by :math:`\beta`; see :meth:`Target.tempered`."""

    def __init__(self, target: Target, beta: float | Tensor) -> None:
        self.target, self.beta = target, beta
        self.layout, self.proper_base = target.layout, target.proper_base

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        return self.beta * self.target.tilt(position)

    def tilt_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.tilt_and_grad`."""
        tilt, gradient = self.target.tilt_and_grad(position)
        beta = self.beta
        return beta * tilt, (beta[:, None] if isinstance(beta, Tensor) and beta.ndim else beta) * gradient

    def base(self, position: Tensor) -> Tensor:
        """See :meth:`Target.base`."""
        return self.target.base(position)

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.base_and_grad`."""
        return self.target.base_and_grad(position)

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Target.draw_base`."""
        return self.target.draw_base(count, generator)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`Target.to_data`."""
        return self.target.to_data(position, mean=mean, generator=generator)

    def modules(self) -> tuple[nn.Module, ...]:
        """See :meth:`Target.modules`."""
        return self.target.modules()


class NoiseTarget(Target):
    r"""The whole model in its noise: :math:`U = E(x(\epsilon)) + E(z(\epsilon_z)) + |\epsilon|^2/2` (VAEBM Eq. 9).

    No other term: the Jacobian of :math:`\epsilon \to (z, x)` cancels against the densities of prior and decoder. The
    group ``x`` is in the layout only where an energy on data reads it.

    Arguments:
        model: The model; it needs a prior, and a decoder where an energy reads data.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.layout = model.noise_layout if model.data_energies else model.latent_layout
        self._latent_width = model.latent_layout.size

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        if not self.model.energies:  # a generator alone: to walk through it would cost as much as its samples
            return position.new_zeros(len(position))
        latent = self.model.latent(position[:, : self._latent_width])
        total = self.model.latent_energy(latent)
        if self.model.data_energies:
            total = total + self.model.data_energy(self._transform(self.model.likelihood(latent), position))
        return total

    def _transform(self, likelihood: Likelihood, position: Tensor) -> Tensor:
        return likelihood.transform(position[:, self._latent_width :].unflatten(1, likelihood.noise_shape or (0,)))

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`Target.to_data`."""
        likelihood = self.model.likelihood(self.model.latent(position[:, : self._latent_width]))
        if mean:
            return likelihood.mean
        if "x" in self.layout.names or likelihood.noise_shape is None:
            return self._transform(likelihood, position)
        return likelihood.sample(generator=generator)

    def modules(self) -> tuple[nn.Module, ...]:
        """See :meth:`Target.modules`."""
        return (self.model,)


class PriorTarget(NoiseTarget):
    r"""Latent prior: :math:`U(\epsilon_z) = E(z(\epsilon_z)) + |\epsilon_z|^2/2`, no energy on data (DAMC Eq. 1)."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.layout = model.latent_layout

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        if not self.model.latent_energies:
            return position.new_zeros(len(position))
        return self.model.latent_energy(self.model.latent(position))

    def tilt_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.tilt_and_grad`."""
        energies = self.model.latent_energies
        if len(energies) != 1 or self.model.prior is None or not self.model.prior.identity:
            return super().tilt_and_grad(position)
        # The energy reads the position itself, and may know its own gradient.
        return energies[0].value_and_grad(position)


class PosteriorTarget(NoiseTarget):
    r"""The posterior given data: :math:`U = -\log p(x \mid z(\epsilon_z)) + E(z(\epsilon_z)) + |\epsilon_z|^2/2`.

    Energies on data are constant here and left out.

    Arguments:
        model: The model; it needs a prior and a decoder.
        x: One item per chain, with shape :math:`(B, *)`.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__(model)
        self.layout = model.latent_layout
        self.x = x

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        if position.shape[0] % self.x.shape[0]:
            raise ContractError(
                f"{position.shape[0]} positions for {self.x.shape[0]} items: each item needs the same number of chains"
            )
        # Several chains per item lie one after the other: chains 0..n-1 of all items, then the next round.
        x = self.x.repeat(position.shape[0] // self.x.shape[0], *(1 for _ in self.x.shape[1:]))
        latent = self.model.latent(position)
        return self.model.latent_energy(latent) - self.model.likelihood(latent).log_prob(x)


class DataTarget(Target):
    r"""An energy-based model on data alone: :math:`U(x) = E(x)`, flat base.

    The base is improper, so kernels with global moves refuse it; ``draw_base`` draws uniformly from :math:`[-1, 1]`,
    where chains on images usually begin.

    Arguments:
        model: The model; only its energies on data are read.
    """

    proper_base = False

    def __init__(self, model: Model) -> None:
        if not model.data_energies:
            raise ContractError("space 'data' needs an energy on data")
        self.model = model
        self.layout = NoiseLayout.of(x=model.data_shape)

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        return self.model.data_energy(position.unflatten(1, self.model.data_shape))

    def base(self, position: Tensor) -> Tensor:
        """See :meth:`Target.base`."""
        return position.new_zeros(position.shape[0])

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Target.draw_base`."""
        return 2.0 * torch.rand(count, self.layout.size, generator=generator, device=generator.device) - 1.0

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.base_and_grad`."""
        return self.base(position), torch.zeros_like(position)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`Target.to_data`."""
        return position.reshape(-1, *self.model.data_shape)

    def modules(self) -> tuple[nn.Module, ...]:
        """See :meth:`Target.modules`."""
        return tuple(self.model.data_energies)


class JointTarget(Target):
    r"""The model over :math:`(z, x)`: :math:`U = E - \log p(x \mid z) - \log p(z)`, as in VAEBM App. B.1.

    Arguments:
        model: The model; its latent groups must be shaped like their noise. The position holds z and nothing else: a
            decoder that reads the prior's ``context`` must be able to compute it from z.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        if model.decoder is None or model.decoder.noise_shape is None:
            raise ContractError("space 'joint' needs a decoder with a density p(x|z)")
        self.layout = NoiseLayout((*model.latent_layout.groups, NoiseGroup("x", model.data_shape)))

    def _parts(self, position: Tensor) -> tuple[Latent, Tensor]:
        blocks = self.layout.split(position)
        return Latent(tuple(blocks[name] for name in self.layout.names[:-1])), blocks["x"]

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        latent, x = self._parts(position)
        return self.model.latent_energy(latent) + self.model.data_energy(x)

    def base(self, position: Tensor) -> Tensor:
        """See :meth:`Target.base`."""
        latent, x = self._parts(position)
        assert self.model.prior is not None  # the layout has refused a model without one
        return -self.model.prior.log_prob(latent) - self.model.likelihood(latent).log_prob(x)

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        """See :meth:`Target.draw_base`."""
        with torch.no_grad():
            noise = self.model.latent_layout.draw(count, generator=generator, dtype=self.model.anchor.dtype)
            latent = self.model.latent(noise)
            x = self.model.likelihood(latent).sample(generator=generator)
        return torch.cat([latent.flat(), x.flatten(1)], dim=1)

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.base_and_grad`."""
        return _value_and_grad(self.base, position)

    def potential_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.potential_and_grad`; one backward pass through both terms."""
        return _value_and_grad(self.potential, position)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`Target.to_data`."""
        latent, x = self._parts(position)
        return self.model.likelihood(latent).mean if mean else x

    def modules(self) -> tuple[nn.Module, ...]:
        """See :meth:`Target.modules`."""
        return (self.model,)


class FunctionTarget(Target):
    r"""A target from a function: :math:`U(\epsilon) = f(\epsilon) + |\epsilon|^2/2`, for analytic densities.

    Arguments:
        size: :math:`D`.
        tilt: :math:`f`, from :math:`(B, D)` to :math:`(B,)`.
    """

    def __init__(self, size: int, tilt: Callable[[Tensor], Tensor]) -> None:
        self.layout = NoiseLayout.of(x=(size,))
        self._tilt = tilt

    def tilt(self, position: Tensor) -> Tensor:
        """See :meth:`Target.tilt`."""
        return self._tilt(position)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """The position itself."""
        return position


def make_target(model: Model, space: Space, x: Tensor | None = None) -> Target:
    """The target of ``model`` in the space that a recipe names.

    Arguments:
        model: The composed model.
        space: One of the spaces in this module's table.
        x: Data to condition on, for ``posterior``.

    Raises:
        ContractError: The model has no such space.
    """
    if (space == "posterior") != (x is not None):
        raise ContractError("space 'posterior' is conditioned on data x, and the other spaces are not")
    match space:
        case "noise":
            return NoiseTarget(model)
        case "prior":
            return PriorTarget(model)
        case "posterior":
            assert x is not None
            return PosteriorTarget(model, x)
        case "data":
            return DataTarget(model)
        case "joint":
            return JointTarget(model)
