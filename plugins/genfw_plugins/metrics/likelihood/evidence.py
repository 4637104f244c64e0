r"""The integral :math:`\int p(x \mid z)\, e^{-E(z)}\, p(z)\, dz` by importance sampling, from both sides.

With proposals :math:`q(z \mid x)` and :math:`w = p(x \mid z) e^{-E(z)} p(z) / q(z \mid x)`, the logarithm of the mean
of :math:`K` weights is on average too low where all are drawn from :math:`q`, and too high where one of them is drawn
from the posterior instead.

References:
    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders (ICLR 2016), for the lower bound; Brekelmans et
    al., Improving mutual information estimation with annealed and energy-based bounds (ICLR 2022), section 3, for the
    upper one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genfw import Chain, ContractError, Encoder, Model, PosteriorTarget, Sampler, run_chain
from genfw.models.freezing import frozen_for_chain

_LOG_2PI = math.log(2 * math.pi)


class Normal:
    r"""A normal proposal in noise space for each of :math:`B` items.

    Arguments:
        mean: With shape :math:`(B, D)`.
        factor: Lower triangular factor of the covariance, with shape :math:`(B, D, D)`.
    """

    def __init__(self, mean: Tensor, factor: Tensor) -> None:
        self.mean, self.factor, self.dtype = mean.double(), factor.double(), mean.dtype

    @classmethod
    def fit(cls, position: Tensor, widen: float = 1.3) -> Normal:
        r"""The proposal fitted to where chains ended.

        The covariance is shrunk towards its diagonal, by a share :math:`D / (D + n)` for :math:`n` chains, and widened.

        Arguments:
            position: Chain ends, with shape :math:`(n, B, D)`.
            widen: Factor on the standard deviations; above 1 the tails of the posterior are covered.
        """
        count, _, size = position.shape
        if count < 2:
            raise ContractError(f"a proposal is fitted to at least 2 chains per item, got {count}")
        ends = position.double()
        mean = ends.mean(0)
        centred = ends - mean
        covariance = torch.einsum("nbi,nbj->bij", centred, centred) / (count - 1)
        diagonal = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
        share = size / (size + count)
        covariance = (1.0 - share) * covariance + share * diagonal
        covariance = covariance + 1e-6 * torch.eye(size, dtype=torch.float64, device=position.device)
        return cls(mean.to(position.dtype), widen * torch.linalg.cholesky(covariance))

    @classmethod
    def of(cls, encoder: Encoder, x: Tensor, generator: torch.Generator) -> Normal | None:
        r"""The law of an encoder that draws :math:`\mu(x) + \sigma(x) \odot \xi` in noise space; ``None`` for another.

        Arguments:
            encoder: It is asked at noise 0, at 1 everywhere, and at a draw, where its density must be that of the law.
            x: Items, with shape :math:`(B, *)`.
            generator: Source of the draw.
        """
        drawn = encoder(x, generator=generator)
        mean = encoder(x, noise=torch.zeros_like(drawn.noise)).noise
        scale = encoder(x, noise=torch.ones_like(drawn.noise)).noise - mean
        if not (scale > 0).all():
            return None
        law = cls(mean, torch.diag_embed(scale))
        expected = law.log_prob(drawn.noise[None])[0] - _log_base(drawn.noise)
        given = (drawn.log_q - drawn.log_p).double()
        return law if torch.allclose(expected, given, rtol=1e-3, atol=1e-2) else None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        r"""Positions, with shape :math:`(n, B, D)`."""
        shape = (count, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, device=self.mean.device, dtype=torch.float64)
        return (self.mean + torch.einsum("bij,nbj->nbi", self.factor, noise)).to(self.dtype)

    def log_prob(self, position: Tensor) -> Tensor:
        r"""Log densities of positions :math:`(n, B, D)`, with shape :math:`(n, B)`."""
        offset = (position.double() - self.mean).permute(1, 2, 0)  # shape: (B, D, n)
        noise = torch.linalg.solve_triangular(self.factor, offset, upper=False)
        constant = self.factor.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * noise.shape[1] * _LOG_2PI
        log_density: Tensor = -0.5 * noise.square().sum(1) - constant[:, None]
        return log_density.T


def bracket(
    model: Model,
    x: Tensor,
    draws: int,
    chain: Chain | None,
    sampler: Sampler | None,
    *,
    generator: torch.Generator,
    refine: int = 20,
    fits: int = 32,
    widen: float = 1.3,
    batch: int = 20_000,
) -> tuple[Tensor, Tensor | None]:
    r"""Lower and upper estimates of :math:`\log \int p(x \mid z)\, e^{-E(z)}\, p(z)\, dz`.

    Arguments:
        model: The model.
        x: Items, with shape :math:`(B, *)`, on the model's device.
        draws: :math:`K`, proposals per item.
        chain: Posterior chains that the proposal is fitted to; the encoder proposes where absent.
        sampler: Kernel that leaves the posterior invariant; it makes a posterior draw of a proposal chosen by weight.
            Without one, and for an encoder whose density is known at its own draws alone, there is no upper estimate.
        generator: Source of all randomness.
        refine: Its moves.
        fits: Chains per item that the proposal is fitted to.
        widen: See :meth:`Normal.fit`.
        batch: Proposals evaluated at once.

    Returns:
        Both with shape :math:`(B,)`, float64 on the CPU.
    """
    lower, upper = [], []
    for items in x.split(items_at_once(draws, fits, batch)):
        target = PosteriorTarget(model, items)
        with frozen_for_chain(*target.modules()), torch.no_grad():
            position, log_q, law = _propose(target, items, draws, chain, fits, widen, generator)
            log_weight = _log_joint(target, position) - log_q  # shape: (K, B)
            lower.append(log_weight.logsumexp(0) - math.log(draws))
            if sampler is None or law is None:
                continue
            chosen = torch.multinomial(torch.softmax(log_weight, 0).T, 1, generator=generator)  # shape: (B, 1)
            begin = position[chosen[:, 0], torch.arange(len(items), device=chosen.device)]
            refined = run_chain(target, sampler, begin, generator=generator, steps=refine, end_potential=False)
            end = refined.position[None]
            # The posterior's draw takes the place of one proposal.
            weights = torch.cat([_log_joint(target, end) - law.log_prob(end), log_weight[1:]])
            upper.append(weights.logsumexp(0) - math.log(draws))
    return torch.cat(lower).cpu(), torch.cat(upper).cpu() if upper else None


def items_at_once(draws: int, fits: int, batch: int) -> int:
    """Items that :func:`bracket` takes together; arguments as there."""
    return max(1, batch // max(draws, fits))


def _propose(
    target: PosteriorTarget,
    x: Tensor,
    draws: int,
    chain: Chain | None,
    fits: int,
    widen: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Normal | None]:
    """Positions ``(K, B, D)``, their log densities ``(K, B)``, and the law they are of where it is known."""
    if chain is not None:
        ends = chain.run(target, fits * len(x), generator=generator, x=x, end_potential=False).position
        law = Normal.fit(ends.unflatten(0, (fits, len(x))), widen)
    else:
        encoder = target.model.encoder
        assert encoder is not None  # the metric has refused a model without one
        found = Normal.of(encoder, x, generator)
        if found is None:
            drawn = encoder(x.repeat(draws, *(1 for _ in x.shape[1:])), generator=generator)
            log_q = (drawn.log_q - drawn.log_p).double() + _log_base(drawn.noise)
            return drawn.noise.unflatten(0, (draws, len(x))), log_q.unflatten(0, (draws, len(x))), None
        law = found
    position = law.draw(draws, generator)
    return position, law.log_prob(position), law


def _log_joint(target: PosteriorTarget, position: Tensor) -> Tensor:
    r"""Log of :math:`p(x \mid z)\, e^{-E(z)}` times the base's density, with shape :math:`(n, B)`."""
    flat = position.flatten(0, 1)
    log_joint: Tensor = (_log_base(flat) - target.tilt(flat).double()).unflatten(0, position.shape[:2])
    return log_joint


def _log_base(noise: Tensor) -> Tensor:
    """Standard-normal log density of flat noise, float64."""
    return -0.5 * noise.double().square().sum(1) - 0.5 * noise.shape[1] * _LOG_2PI
