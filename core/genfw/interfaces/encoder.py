"""From data to latents: the approximate posterior."""

from __future__ import annotations

import abc

import attrs
import torch
from torch import Tensor, nn

from genfw.interfaces.construction import Constructed
from genfw.interfaces.values import Latent


@attrs.frozen(eq=False)
class Posterior:
    r"""One draw from :math:`q(z \mid x)` with its densities.

    ``log_q - log_p`` does not depend on the coordinates (noise or latent), so an encoder may use either, the same for
    both.

    Arguments:
        latent: The draw :math:`z`.
        noise: The flat :math:`\epsilon_z` with :math:`T_z(\epsilon_z) = z`, with shape :math:`(B, D_z)`; chains
            may start there.
        log_q: :math:`\log q(z \mid x)` in nats, with shape :math:`(B,)`.
        log_p: :math:`\log p(z)` in nats, in the same coordinates, with shape :math:`(B,)`.
        kl: :math:`KL[q \| p]` per latent group in nats, closed form where there is one, with shape :math:`(B, G)`.
    """

    latent: Latent
    noise: Tensor
    log_q: Tensor
    log_p: Tensor
    kl: Tensor


class Encoder(Constructed, nn.Module, abc.ABC):
    r"""Approximate posterior :math:`q(z \mid x)`.

    A subclass guarantees that the draw is reparameterised (differentiable in its parameters), and that all randomness
    comes from ``noise`` or ``generator``.
    """

    @abc.abstractmethod
    def forward(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Posterior:
        r"""Draw once from :math:`q(z \mid x)`.

        Arguments:
            x: Data, with shape :math:`(B, *)`.
            noise: The posterior's own standard-normal noise, flat, with shape :math:`(B, D_z)`; drawn where absent.
            generator: Source of that noise.
            temperature: Factor on the posterior's scale; 0 gives its centre.
        """

    def embed(self, x: Tensor) -> Tensor:
        r"""Deterministic features of each item, for networks conditioned on data.

        The posterior's centre by default. Override it where the encoder computes richer features anyway.

        Arguments:
            x: Data, with shape :math:`(B, *)`.

        Returns:
            Features, with shape :math:`(B, e)`, differentiable in ``x`` and in the encoder's parameters.
        """
        # Temperature 0 multiplies the noise away; a generator of its own leaves the global one as it is.
        return self(x, generator=torch.Generator(x.device), temperature=0.0).noise  # type: ignore[no-any-return]

    def penalty(self) -> Tensor | None:
        """A scalar that training may add, weighed by the recipe; none by default."""
        return None
