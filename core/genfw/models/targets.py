r"""The potentials of chains, each exact in its space.

Every target is :math:`\pi(\epsilon) \propto e^{-U(\epsilon)}` with :math:`U = \text{base} + \text{tilt}`. A fresh draw
of the base is a *global* proposal with the importance weight :math:`e^{-\text{tilt}}`.

Spaces, by their names in recipes:

=============  ==================  ======================================  ==============================
space          position            base                                    tilt
=============  ==================  ======================================  ==============================
``noise``      eps_z (, eps_x)     :math:`|\epsilon|^2/2`                  all energies (VAEBM Eq. 9)
``prior``      eps_z               :math:`|\epsilon_z|^2/2`                energies on the latent
``posterior``  eps_z, given x      :math:`|\epsilon_z|^2/2`                the same :math:`- \log p(x \mid z)`
``data``       x                   none (flat)                             energies on data
``joint``      z, x                :math:`-\log p(z) - \log p(x \mid z)`   all energies (VAEBM App. B.1)
=============  ==================  ======================================  ==============================

Space ``noise-published`` is ``noise`` with the potential of VAEBM's published code, which is not that of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.target import Target, value_and_grad
from genfw.interfaces.values import Latent, NoiseGroup, NoiseLayout
from genfw.models.model import Model

Space = Literal["noise", "noise-published", "prior", "posterior", "data", "joint"]

#: Least scale of p(x|z) in the potential of VAEBM's published code: it cuts log sigma at -2.
_PUBLISHED_SCALE = math.exp(-2.0)


class NoiseTarget(Target):
    r"""The whole model in its noise: :math:`U = E(x(\epsilon)) + E(z(\epsilon_z)) + |\epsilon|^2/2` (VAEBM Eq. 9).

    There is no other term: the Jacobian of :math:`\epsilon \to (z, x)` cancels against the densities of prior and
    decoder. The layout has the group ``x`` only where an energy on data reads it.

    Arguments:
        model: The model; it needs a prior, and a decoder where an energy reads data.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.layout = model.noise_layout if model.data_energies else model.latent_layout
        self._latent_width = model.latent_layout.size

    def conditions(self) -> tuple[Tensor, ...]:
        return ()

    def tilt(self, position: Tensor) -> Tensor:
        if not self.model.energies:  # decoding for a zero tilt would cost as much as sampling
            return position.new_zeros(len(position))
        latent = self.model.latent(position[:, : self._latent_width])
        total = self.model.latent_energy(latent)
        if self.model.data_energies:
            likelihood = self.model.likelihood(latent)
            noise = position[:, self._latent_width :].unflatten(1, likelihood.noise_shape or (0,))
            total = total + self.model.data_energy(likelihood.transform(noise))
        return total

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.model.decode(position, mean=mean, generator=generator)

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.model,)


class PublishedNoiseTarget(NoiseTarget):
    r"""The potential of VAEBM's published code: :math:`U = E(x) - \log p(z) - \log p(x \mid z)` at :math:`\epsilon`.

    The chain moves :math:`\epsilon`, yet the density is that of :math:`(z, x)`: the Jacobian of the map between them is
    missing, so that narrow laws of prior and decoder weigh more than in Eq. 9. It is here to be compared with
    :class:`NoiseTarget`. As in that code, the scale of :math:`p(x \mid z)` is at least :math:`e^{-2}` here, and as it
    is everywhere else.

    References:
        https://github.com/NVlabs/VAEBM, train_VAEBM.py and distributions.py.

    Arguments:
        model: The model; it needs a prior with a density and a Gaussian decoder.
    """

    def tilt(self, position: Tensor) -> Tensor:
        width = self._latent_width
        latent = self.model.latent(position[:, :width])
        assert self.model.prior is not None  # the layout refuses a model without one
        total = self.model.latent_energy(latent) - self.model.prior.log_prob(latent) - self.base(position)
        if self.model.data_energies:
            likelihood = self.model.likelihood(latent)
            if not isinstance(likelihood, Gaussian):
                kind = type(likelihood).__name__
                raise ContractError(f"space 'noise-published' needs a Gaussian likelihood; this decoder's is {kind}")
            x = likelihood.transform(position[:, width:].unflatten(1, likelihood.noise_shape or (0,)))
            cut = Gaussian(likelihood.mean, likelihood.scale.clamp_min(_PUBLISHED_SCALE))
            total = total + self.model.data_energy(x) - cut.log_prob(x)
        return total


class PriorTarget(NoiseTarget):
    r"""Latent prior: :math:`U(\epsilon_z) = E(z(\epsilon_z)) + |\epsilon_z|^2/2`, no energy on data (DAMC Eq. 1)."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.layout = model.latent_layout

    def tilt(self, position: Tensor) -> Tensor:
        if not self.model.latent_energies:
            return position.new_zeros(len(position))
        return self.model.latent_energy(self.model.latent(position))

    def tilt_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        energies = self.model.latent_energies
        if len(energies) != 1 or self.model.prior is None or not self.model.prior.identity:
            return super().tilt_and_grad(position)
        # The energy reads the position itself, and may have a closed-form gradient.
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

    def conditions(self) -> tuple[Tensor, ...]:
        return (self.x,)

    def given(self, *conditions: Tensor) -> PosteriorTarget:
        return PosteriorTarget(self.model, *conditions)

    def tilt(self, position: Tensor) -> Tensor:
        if position.shape[0] % self.x.shape[0]:
            raise ContractError(
                f"{position.shape[0]} positions for {self.x.shape[0]} items: each item needs the same number of chains"
            )
        # With several chains per item, the first chains of all items come before the second ones.
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

    def conditions(self) -> tuple[Tensor, ...]:
        return ()

    def tilt(self, position: Tensor) -> Tensor:
        return self.model.data_energy(position.unflatten(1, self.model.data_shape))

    def base(self, position: Tensor) -> Tensor:
        return position.new_zeros(position.shape[0])

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        return 2.0 * torch.rand(count, self.layout.size, generator=generator, device=generator.device) - 1.0

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return self.base(position), torch.zeros_like(position)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return position.reshape(-1, *self.model.data_shape)

    def modules(self) -> tuple[nn.Module, ...]:
        return tuple(self.model.data_energies)


class JointTarget(Target):
    r"""The model over :math:`(z, x)`: :math:`U = E - \log p(x \mid z) - \log p(z)`, as in VAEBM App. B.1.

    Arguments:
        model: The model; its latent groups must have the shapes of their noise. Of the prior the position contains only
            z: a decoder that reads the prior's ``context`` must be able to compute it from z.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        if model.decoder is None or model.decoder.noise_shape is None:
            raise ContractError("space 'joint' needs a decoder with a density p(x|z)")
        self.layout = NoiseLayout((*model.latent_layout.groups, NoiseGroup("x", model.data_shape)))

    def _parts(self, position: Tensor) -> tuple[Latent, Tensor]:
        blocks = self.layout.split(position)
        return Latent(tuple(blocks[name] for name in self.layout.names[:-1])), blocks["x"]

    def conditions(self) -> tuple[Tensor, ...]:
        return ()

    def tilt(self, position: Tensor) -> Tensor:
        latent, x = self._parts(position)
        return self.model.latent_energy(latent) + self.model.data_energy(x)

    def base(self, position: Tensor) -> Tensor:
        latent, x = self._parts(position)
        assert self.model.prior is not None  # the layout refuses a model without one
        return -self.model.prior.log_prob(latent) - self.model.likelihood(latent).log_prob(x)

    def draw_base(self, count: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            noise = self.model.latent_layout.draw(count, generator=generator, dtype=self.model.anchor.dtype)
            latent = self.model.latent(noise)
            x = self.model.likelihood(latent).sample(generator=generator)
        return torch.cat([latent.flat(), x.flatten(1)], dim=1)

    def base_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_grad(self.base, position)

    def potential_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Target.potential_and_grad`; one backward pass through both terms."""
        return value_and_grad(self.potential, position)

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        latent, x = self._parts(position)
        return self.model.likelihood(latent).mean if mean else x

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.model,)


class FunctionTarget(Target):
    r"""A target from a function: :math:`U(\epsilon) = f(\epsilon) + |\epsilon|^2/2`, for analytic densities.

    Arguments:
        size: :math:`D`.
        tilt: :math:`f`, from :math:`(B, D)` to :math:`(B,)`; it takes ``reads`` as further arguments.
        reads: All other tensors that it reads; without them chains on this target are neither recorded nor compiled.
    """

    def __init__(self, size: int, tilt: Callable[..., Tensor], reads: tuple[Tensor, ...] | None = None) -> None:
        self.layout = NoiseLayout.of(x=(size,))
        self._tilt, self._reads = tilt, reads

    def conditions(self) -> tuple[Tensor, ...] | None:
        return self._reads

    def given(self, *conditions: Tensor) -> FunctionTarget:
        return FunctionTarget(self.layout.size, self._tilt, conditions)

    def tilt(self, position: Tensor) -> Tensor:
        return self._tilt(position, *(self._reads or ()))

    def to_data(self, position: Tensor, *, mean: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """The position itself."""
        return position


def make_target(model: Model, space: Space, x: Tensor | None = None) -> Target:
    """The target of ``model`` in a space.

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
        case "noise-published":
            return PublishedNoiseTarget(model)
        case "prior":
            return PriorTarget(model)
        case "posterior":
            assert x is not None
            return PosteriorTarget(model, x)
        case "data":
            return DataTarget(model)
        case "joint":
            return JointTarget(model)
