r"""Densities of two-dimensional models, without Markov chains: what the log-likelihood metric computes with.

The generator's density is an average of Gaussians,
:math:`q(x) = \frac{1}{N} \sum_n w_n N(x; \mu_n, \mathrm{diag}\, \sigma_n^2)` with :math:`z_n \sim p(z)` and
:math:`w_n = e^{-E(z_n)}` (1 without an energy on the latent). On a grid it factorises over the two axes, so that all
:math:`N` components at all points cost one matrix product.
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from genfw import ContractError, Gaussian, Model

_LOG_2PI = math.log(2 * math.pi)


@attrs.frozen(eq=False)
class Grid:
    """A regular grid over a rectangle.

    Arguments:
        window: ``(left, right, bottom, top)``.
        size: Points per axis, both ends included.
    """

    window: tuple[float, float, float, float]
    size: int

    def axes(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Coordinates along each axis, both with shape ``(size,)``."""
        left, right, bottom, top = self.window
        return (
            torch.linspace(left, right, self.size, device=device),
            torch.linspace(bottom, top, self.size, device=device),
        )

    def points(self, device: torch.device | str = "cpu") -> Tensor:
        """All points, the second coordinate running fastest, with shape ``(size * size, 2)``."""
        return torch.cartesian_prod(*self.axes(device))

    @property
    def spacing(self) -> float:
        """The wider of the two distances between neighbours."""
        left, right, bottom, top = self.window
        return max(right - left, top - bottom) / (self.size - 1)

    def interpolate(self, log_density: Tensor, x: Tensor) -> Tensor:
        """Log density at ``x`` ``(B, 2)`` from its values at :meth:`points`, by cubic convolution (Keys, 1981).

        Not finite where a point is less than two cells from the window's edge or outside.
        """
        left, right, bottom, top = self.window
        x = x.cpu().double()
        low, high = x.new_tensor([left, bottom]), x.new_tensor([right, top])
        place = (x - low) / (high - low) * (self.size - 1)
        corner = place.floor()
        inside = ((corner >= 1) & (corner <= self.size - 3)).all(1)
        weights = _keys_weights(place - corner)  # shape: (B, 2, 4)
        near = corner.long().clamp(1, self.size - 3)[..., None] + torch.arange(-1, 3)  # shape: (B, 2, 4)
        picture = log_density.double().cpu().reshape(self.size, self.size)
        values = torch.einsum("bi,bj,bij->b", *weights.unbind(1), picture[near[:, 0, :, None], near[:, 1, None]])
        return torch.where(inside, values, torch.nan)

    def log_integral(self, log_density: Tensor) -> float:
        """Logarithm of the integral over the window of a density given by its logarithm at :meth:`points`."""
        left, right, bottom, top = self.window
        cell = (right - left) * (top - bottom) / (self.size - 1) ** 2
        return float(torch.logsumexp(log_density.double().cpu(), 0)) + math.log(cell)


def _keys_weights(offset: Tensor) -> Tensor:
    """Weights of the four neighbours of a point ``offset`` of a cell past the second; exact for quadratics."""
    t = offset[..., None]
    edge = [-0.5 * d**3 + 2.5 * d**2 - 4.0 * d + 2.0 for d in (1.0 + t, 2.0 - t)]
    centre = [1.5 * d**3 - 2.5 * d**2 + 1.0 for d in (t, 1.0 - t)]
    return torch.cat([edge[0], centre[0], centre[1], edge[1]], dim=-1)


@attrs.frozen(eq=False)
class Mixture:
    r"""Decoded prior draws: Gaussians with diagonal scale and a weight each.

    Arguments:
        mean: :math:`\mu_n`, with shape :math:`(N, 2)`.
        scale: :math:`\sigma_n`, with shape :math:`(N, 2)`.
        log_weight: :math:`\log w_n`, with shape :math:`(N,)`.
        x: One draw from each component, with shape :math:`(N, 2)`.
    """

    mean: Tensor
    scale: Tensor
    log_weight: Tensor
    x: Tensor

    def log_prob_on(self, grid: Grid, *, weighted: bool, chunk: int = 8192) -> Tensor:
        """Log density at the grid's points, ``(size * size,)``; ``weighted`` by the latent energies or plain."""
        first, second = grid.axes(self.mean.device)
        shift = float(self.log_weight.max()) if weighted else 0.0
        total = torch.zeros(grid.size, grid.size, dtype=torch.float64)
        for mean, scale, log_weight in self._chunks(chunk):
            across = _kernel(first[:, None], mean[:, 0], scale[:, 0])  # shape: (size, n)
            if weighted:
                across = across * (log_weight - shift).exp()
            total += (across @ _kernel(second[:, None], mean[:, 1], scale[:, 1]).T).cpu().double()
        return (total / len(self.mean)).log().flatten() + shift

    def log_prob(self, x: Tensor, *, weighted: bool, chunk: int = 4096, rows: int = 512) -> Tensor:
        r"""Log density at arbitrary points :math:`(B, 2)`, with shape :math:`(B,)`."""
        pieces = []
        for points in x.to(self.mean).split(rows):
            total = torch.full((len(points),), -torch.inf, dtype=torch.float64)
            for mean, scale, log_weight in self._chunks(chunk):
                normalised = (points[:, None] - mean) / scale  # shape: (B, n, 2)
                constant = -scale.log().sum(1) - _LOG_2PI + (log_weight if weighted else 0.0)
                log_density = constant - 0.5 * normalised.square().sum(2)
                total = torch.logaddexp(total, torch.logsumexp(log_density, 1).cpu().double())
            pieces.append(total - math.log(len(self.mean)))
        return torch.cat(pieces)

    def _chunks(self, chunk: int) -> zip[tuple[Tensor, Tensor, Tensor]]:
        return zip(self.mean.split(chunk), self.scale.split(chunk), self.log_weight.split(chunk), strict=True)


def _kernel(at: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return torch.exp(-0.5 * ((at - mean) / scale).square()) / (scale * math.sqrt(2 * math.pi))


def draw_mixture(model: Model, count: int, generator: torch.Generator, *, batch: int = 10_000) -> Mixture:
    r"""Decode fresh prior draws.

    Arguments:
        model: A model whose decoder has a Gaussian likelihood over two numbers.
        count: :math:`N`.
        generator: Source of the draws.
        batch: Draws decoded at once.

    Raises:
        ContractError: The decoder's likelihood is not Gaussian, so that there is no closed form.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for first in range(0, count, batch):
            noise = model.latent_layout.draw(min(batch, count - first), generator=generator)
            latent = model.latent(noise)
            likelihood = model.likelihood(latent)
            if not isinstance(likelihood, Gaussian):
                raise ContractError(
                    "the exact 2-D density needs a decoder with a Gaussian likelihood, this one gives "
                    f"{type(likelihood).__name__}"
                )
            mean = likelihood.mean.flatten(1)
            scale = likelihood.scale.expand_as(likelihood.mean).flatten(1)
            x = likelihood.sample(generator=generator).flatten(1)
            parts.append((mean, scale, -model.latent_energy(latent), x))
    mean, scale, log_weight, x = (torch.cat(column) for column in zip(*parts, strict=True))
    return Mixture(mean, scale, log_weight, x)


def importance_log_prob(
    model: Model, x: Tensor, count: int, generator: torch.Generator, *, batch: int = 20_000
) -> tuple[Tensor, Tensor]:
    r"""Importance-sampled log densities of the generator, with the encoder as proposal (IWAE; Burda et al., 2016).

    .. math:: \log q(x) \approx \log \frac{1}{K} \sum_k \frac{p(x \mid z_k)\, p(z_k)\, e^{-E(z_k)}}{q(z_k \mid x)},
        \quad z_k \sim q(z \mid x)

    Arguments:
        model: A model with an encoder.
        x: Data, with shape :math:`(B, *)`, on the model's device.
        count: :math:`K`, draws per item.
        generator: Source of the draws.
        batch: Draws taken at once.

    Returns:
        Without and with the energies on the latent, each with shape :math:`(B,)`, float64 on the CPU.
    """
    if model.encoder is None:
        raise ContractError("importance sampling by the encoder needs an encoder; use density: prior")
    plain, tilted = [], []
    rows = max(1, batch // count)
    with torch.no_grad():
        for items in x.split(rows):
            sums = torch.full((2, len(items)), -torch.inf, dtype=torch.float64)
            draws = max(1, batch // len(items))
            for first in range(0, count, draws):
                many = min(draws, count - first)
                repeated = items.repeat(many, *(1 for _ in items.shape[1:]))
                posterior = model.encoder(repeated, generator=generator)
                log_weight = model.likelihood(posterior.latent).log_prob(repeated) + posterior.log_p - posterior.log_q
                both = torch.stack([log_weight, log_weight - model.latent_energy(posterior.latent)])
                both = both.unflatten(1, (many, len(items))).cpu().double()  # shape: (2, K, B)
                sums = torch.logaddexp(sums, torch.logsumexp(both, 1))
            sums -= math.log(count)
            plain.append(sums[0])
            tilted.append(sums[1])
    return torch.cat(plain), torch.cat(tilted)
