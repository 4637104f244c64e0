r"""The density :math:`p(x \mid z)` that a decoder returns."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from genfw.interfaces.values import Size


class Likelihood(abc.ABC):
    r"""A density over data given a latent, with a map from noise to data.

    A subclass guarantees that ``transform`` of standard-normal noise has exactly the law that ``log_prob`` scores
    (where ``log_prob`` exists), and that both are differentiable in the decoder's outputs.
    """

    #: Shape of the noise :math:`\epsilon_x` of one item; ``None`` where x is a deterministic function of z.
    noise_shape: Size | None

    @property
    @abc.abstractmethod
    def mean(self) -> Tensor:
        r""":math:`E[x \mid z]`, with shape :math:`(B, *)`."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        r"""Log density in nats, summed over the event, with shape :math:`(B,)`."""

    @abc.abstractmethod
    def transform(self, noise: Tensor) -> Tensor:
        r""":math:`x = T_x(z, \epsilon_x)`; noise and result with shape :math:`(B, *)`."""

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw x given z, with shape ``(B, *)``; no gradient flows through the noise."""
        mean = self.mean
        shape, dtype = self.noise_shape or (), torch.promote_types(mean.dtype, torch.float32)
        noise = torch.randn(mean.shape[0], *shape, generator=generator, device=mean.device, dtype=dtype)
        return self.transform(noise)


class Gaussian(Likelihood):
    r"""Pixel-wise normal: :math:`x = \mu + \sigma \odot \epsilon_x`.

    Arguments:
        mean: :math:`\mu`, with shape :math:`(B, *)`.
        scale: :math:`\sigma > 0`, broadcastable against ``mean``; float32 at least, since bfloat16 would round it.
    """

    def __init__(self, mean: Tensor, scale: Tensor | float) -> None:
        self._mean = mean
        dtype = torch.promote_types(mean.dtype, torch.float32)
        # A fill, not an upload: the host must not wait for the device at each evaluation.
        self.scale = (
            scale.to(mean.device, dtype) if isinstance(scale, Tensor) else mean.new_full((), scale, dtype=dtype)
        )
        self.noise_shape = tuple(mean.shape[1:])

    @property
    def mean(self) -> Tensor:
        """See :attr:`Likelihood.mean`."""
        return self._mean

    def log_prob(self, x: Tensor) -> Tensor:
        normalised = (x - self._mean) / self.scale
        per_dimension = -0.5 * normalised.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return per_dimension.flatten(1).sum(1)

    def transform(self, noise: Tensor) -> Tensor:
        return self._mean + self.scale * noise


class Deterministic(Likelihood):
    """A point mass: x is the decoder's output (a GAN's generator). It has no density."""

    noise_shape = None

    def __init__(self, value: Tensor) -> None:
        self._value = value

    @property
    def mean(self) -> Tensor:
        """See :attr:`Likelihood.mean`."""
        return self._value

    def log_prob(self, x: Tensor) -> Tensor:
        """A point mass has no density.

        Raises:
            ContractError: Always; give the decoder a likelihood to use it in a posterior.
        """
        from genfw.errors import ContractError

        raise ContractError("a deterministic decoder has no density p(x|z); give it a likelihood (sigma)")

    def transform(self, noise: Tensor) -> Tensor:
        return self._value
