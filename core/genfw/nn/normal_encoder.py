"""What encoders share whose posterior is normal in noise space: all but the network."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from genfw.errors import ContractError
from genfw.interfaces.encoder import Encoder, Posterior
from genfw.interfaces.prior import Prior
from genfw.interfaces.values import NoiseLayout
from genfw.nn.precision import full


class NormalEncoder(Encoder):
    r"""Normal posterior in noise space, :math:`q(\epsilon_z \mid x) = N(\mu(x), \sigma^2(x))`.

    A subclass has the network, and says in :meth:`read` what it makes of data. The divergence is exact for any prior:
    where :math:`T_z` is a bijection, :math:`KL[q(z|x) \| p(z)] = KL[q(\epsilon_z|x) \| N(0, I)]`, in closed form.

    Made without a prior, the encoder only describes data for an amortizer, by :meth:`embed`.

    Arguments:
        prior: The model's prior, :math:`T_z`; absent where the encoder is no posterior.
    """

    def __init__(self, prior: Prior | None) -> None:
        super().__init__()
        # Kept out of the module's children: the prior's weights belong to the model, not to its encoder.
        object.__setattr__(self, "_prior", prior)
        #: The prior's noise, of :math:`D_z` numbers; nothing without a prior.
        self.noise_layout = NoiseLayout.of_latents(() if prior is None else prior.noise_shapes)

    @property
    def prior(self) -> Prior:
        """The model's prior.

        Raises:
            ContractError: The encoder was made without one.
        """
        prior: Prior | None = self.__dict__["_prior"]
        if prior is None:
            raise ContractError("this encoder describes x (embedding) and has no posterior; leave embedding out")
        return prior

    @abc.abstractmethod
    def read(self, x: Tensor) -> Tensor:
        r"""What the network makes of data.

        Arguments:
            x: Data, with shape :math:`(B, *)`.

        Returns:
            :math:`\mu` and :math:`\log \sigma` side by side, with shape :math:`(B, 2 D_z)`; without a prior the
            description, with shape :math:`(B, e)`.
        """

    def law(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\mu` and :math:`\log \sigma`, flat, each with shape :math:`(B, D_z)`; the halves of :meth:`read`."""
        mean, log_scale = self.read(x).chunk(2, dim=1)
        return mean, log_scale

    def forward(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Posterior:
        """See :meth:`Encoder.forward`.

        Raises:
            ContractError: The encoder was made without a prior.
        """
        prior, layout = self.prior, self.noise_layout
        mean, log_scale = map(full, self.law(x))
        if noise is None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        noise = temperature * noise
        eps = mean + log_scale.exp() * noise
        constant = 0.5 * math.log(2 * math.pi) * layout.size
        kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
        return Posterior(
            latent=prior.transform(list(layout.split(eps).values())),
            noise=eps,
            log_q=-(0.5 * noise.square() + log_scale).sum(1) - constant,
            log_p=-0.5 * eps.square().sum(1) - constant,
            kl=torch.stack([kl[:, where].sum(1) for _, where in layout.slices()], dim=1),
        )

    def embed(self, x: Tensor) -> Tensor:
        return self.read(x) if self.__dict__["_prior"] is None else self.law(x)[0]
