"""Parts of a model from plain modules and functions, for models that are composed in a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces.decoder import Decoder
from genfw.interfaces.energy import Energy
from genfw.interfaces.likelihood import Deterministic, Gaussian, Likelihood
from genfw.interfaces.prior import Prior
from genfw.interfaces.values import Latent, Size

#: A module, whose parameters are trained with the model, or a function.
Network = Callable[[Tensor], Tensor]


def as_energy(net: Network, on: Literal["data", "latent"] = "data") -> Energy:
    r"""An energy :math:`E(v) = \mathrm{net}(v)`.

    Arguments:
        net: A module or function from points :math:`(B, *)` to energies in nats, :math:`(B,)` or :math:`(B, 1)`.
        on: What it reads: data :math:`(B, *)`, or the flat latent :math:`(B, d)`.
    """
    return _Energy(net, on)


def as_decoder(net: Network, data_shape: Sequence[int], sigma: float | None = None) -> Decoder:
    r"""A generator with mean :math:`\mathrm{net}(z)`.

    Arguments:
        net: A module or function from flat latents :math:`(B, d)` to data :math:`(B, *)`.
        data_shape: Shape of one item, without batch.
        sigma: Standard deviation of its Gaussian noise; ``None`` for a generator without noise.

    Raises:
        ContractError: ``sigma`` is not positive.
    """
    return _Decoder(net, tuple(data_shape), sigma)


def as_prior(net: Network, dim: int, log_prob: Network | None = None) -> Prior:
    r"""A prior :math:`z = \mathrm{net}(\epsilon)` with :math:`\epsilon \sim N(0, I)`.

    Arguments:
        net: A module or function from noise :math:`(B, D)` to flat latents :math:`(B, d)`.
        dim: :math:`D`.
        log_prob: Log density of flat latents in nats, :math:`(B, d)` to :math:`(B,)`; training that scores latents
            needs it.
    """
    return _Prior(net, dim, log_prob)


class _Wrapped(nn.Module):
    """Holds a module as a child, or a function as it is."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        if not callable(net):
            raise ContractError(f"a part is made of a module or a function, got {type(net).__name__}")
        self.net = net

    def extra_repr(self) -> str:
        """The function's name; a module is shown as a child."""
        return "" if isinstance(self.net, nn.Module) else getattr(self.net, "__name__", type(self.net).__name__)


class _Energy(_Wrapped, Energy):
    def __init__(self, net: Network, on: Literal["data", "latent"]) -> None:
        super().__init__(net)
        if on not in ("data", "latent"):
            raise ContractError(f"an energy reads 'data' or 'latent', got '{on}'")
        self.on = on

    def forward(self, v: Tensor) -> Tensor:
        value = self.net(v)
        if value.shape not in ((len(v),), (len(v), 1)):
            raise ContractError(
                f"an energy gives one number per item, shape ({len(v)},) or ({len(v)}, 1); the network gave "
                f"{tuple(value.shape)}"
            )
        return value.reshape(len(v))


class _Decoder(_Wrapped, Decoder):
    def __init__(self, net: Network, data_shape: Size, sigma: float | None) -> None:
        super().__init__(net)
        if sigma is not None and not sigma > 0:
            raise ContractError(f"sigma is positive, or None for a generator without noise; got {sigma}")
        self.data_shape, self.sigma = data_shape, sigma

    @property
    def noise_shape(self) -> Size | None:
        return None if self.sigma is None else self.data_shape

    def forward(self, latent: Latent) -> Likelihood:
        mean = self.net(latent.flat())
        if tuple(mean.shape[1:]) != self.data_shape:
            raise ContractError(f"items have shape {self.data_shape}; the network gave {tuple(mean.shape[1:])}")
        return Deterministic(mean) if self.sigma is None else Gaussian(mean, torch.full_like(mean, self.sigma))


class _Prior(_Wrapped, Prior):
    def __init__(self, net: Network, dim: int, log_prob: Network | None) -> None:
        super().__init__(net)
        self.dim, self.density = dim, log_prob

    @property
    def noise_shapes(self) -> tuple[Size, ...]:
        return ((self.dim,),)

    def transform(self, noise: Sequence[Tensor], temperature: float = 1.0) -> Latent:
        return Latent((self.net(noise[0] * temperature),))

    def log_prob(self, latent: Latent) -> Tensor:
        if self.density is None:
            raise ContractError("this prior's density is unknown; give as_prior(..., log_prob=...)")
        return self.density(latent.flat())
