"""A mixture of normal laws over noise positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genfw import Amortizer, NoiseLayout
from genfw.plugins.validators import at_least, positive


class GaussianMixture(Amortizer):
    r"""Mixture :math:`q(\epsilon) = \sum_k w_k N(m_k, \Sigma_k)` with full covariances; it is blind to x.

    The loss is the exact :math:`-\log q(\epsilon)`, so that a stage that descends it fits by maximum likelihood. With
    the Cholesky factor :math:`L_k` of the precision and :math:`b_k = L_k m_k`,

    .. math:: \log N(\epsilon; m_k, \Sigma_k) = -\tfrac12 |L_k \epsilon - b_k|^2 + \log \det L_k
        - \tfrac D2 \log 2\pi,

    which is concave in :math:`L_k` and :math:`b_k`. This is the density that RAE fits to the latents of an autoencoder
    after its training.

    References:
        From variational to deterministic autoencoders (Ghosh et al., 2020), section 4, https://arxiv.org/abs/1903.12436

    Arguments:
        latent_layout: The groups of a position.
        components: :math:`K`.
        spread: Scale of the normal law that the means begin in.
        scale: Standard deviation that every component begins with.
    """

    def __init__(
        self, latent_layout: NoiseLayout, components: int = 10, spread: float = 1.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        at_least(1).check(components=components)
        at_least(0).check(spread=spread)
        positive.check(scale=scale)
        size = latent_layout.size
        self.size = size
        self.logits = nn.Parameter(torch.zeros(components))
        self.offset = nn.Parameter(spread / scale * torch.randn(components, size))
        # Strictly below the diagonal the factor itself, on it the logarithm.
        self.factor = nn.Parameter(torch.diag_embed(torch.full((components, size), -math.log(scale))))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Lower triangles :math:`L_k`, with shape (K, D, D), and the logarithms of their diagonals, (K, D)."""
        log_diagonal = self.factor.diagonal(dim1=1, dim2=2)
        return self.factor.tril(-1) + torch.diag_embed(log_diagonal.exp()), log_diagonal

    def log_prob(self, position: Tensor) -> Tensor:
        r""":math:`\log q` in nats, with shape :math:`(B,)`."""
        # A likelihood that bfloat16 rounds is no likelihood.
        with torch.autocast(position.device.type, enabled=False):
            lower, log_diagonal = self._factors()
            white = torch.einsum("kij,bj->bki", lower, position) - self.offset
            each = log_diagonal.sum(1) - 0.5 * white.square().sum(2) - 0.5 * self.size * math.log(2 * math.pi)
            return torch.logsumexp(self.logits.log_softmax(0) + each, dim=1)

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            choice = torch.multinomial(self.logits.softmax(0), count, replacement=True, generator=generator)
            noise = torch.randn(
                count, self.size, generator=generator, device=self.offset.device, dtype=self.offset.dtype
            )
            white = noise + self.offset[choice]
            lower, _ = self._factors()
            # Every factor solves for all rows: cheaper than a triangle for each row.
            solved: Tensor = torch.linalg.solve_triangular(lower, white.T.expand(len(lower), -1, -1), upper=False)
            return solved[choice, :, torch.arange(count, device=choice.device)]

    def sample_given(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`Amortizer.sample_given`: the same law for every x."""
        return self.sample(len(x), generator=generator)

    def loss(
        self, position: Tensor, x: Tensor | None, *, generator: torch.Generator, hidden: Tensor | None = None
    ) -> Tensor:
        return -self.log_prob(position)
