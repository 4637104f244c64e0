r"""Densities over pixels that take levels: mixtures of discretised logistics, and Bernoulli.

Their :meth:`~genfw.interfaces.likelihood.Likelihood.transform` has exactly the law that ``log_prob`` scores, so its
values are levels. A level does not move under a small change, so the gradient is that of the value before rounding (of
the mean, for Bernoulli): a straight-through estimate, not the derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genfw import ContractError, Likelihood
from genfw.nn.precision import full


class Bernoulli(Likelihood):
    r"""Pixels that are black (-1) or white (+1): :math:`p(x = 1) = \mathrm{sigmoid}(l)`.

    A pixel between the two is scored by its share of white, as is usual for grey images; that is no density.

    Arguments:
        logits: :math:`l`, with shape :math:`(B, *)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = full(logits)
        self.noise_shape = tuple(logits.shape[1:])

    @property
    def mean(self) -> Tensor:
        """See :attr:`Likelihood.mean`."""
        return torch.tanh(0.5 * self.logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """See :meth:`Likelihood.log_prob`; in nats of probability."""
        white = 0.5 * (x + 1.0)
        return (white * self.logits - F.softplus(self.logits)).flatten(1).sum(1)

    def transform(self, noise: Tensor) -> Tensor:
        mean = self.mean
        x = torch.where(torch.special.ndtr(noise) < torch.sigmoid(self.logits), 1.0, -1.0).to(mean)
        return mean + (x - mean).detach()


class LogisticMixture(Likelihood):
    r"""Mixture of discretised logistics over the levels of a pixel, channels of a pixel linear in those before.

    With levels :math:`x_j` a step :math:`2h` apart, one component has
    :math:`p(x_j) = F(x_j + h) - F(x_j - h)`, :math:`F(x) = \mathrm{sigmoid}((x - \mu) / s)`, the end levels taking
    the tails; :math:`\mu_c` of channel :math:`c` gains :math:`\sum_{b<c} a_{cb} x_b`. All channels of a pixel share
    the component. The noise is one number for the component and one for each channel, :math:`(C + 1, H, W)`.

    References: Salimans et al. 2017, "PixelCNN++" (arXiv 1701.05517).

    Arguments:
        logits: Weights of the components, with shape :math:`(B, M, H, W)`.
        means: :math:`\mu`, with shape :math:`(B, C, M, H, W)`.
        log_scales: :math:`\log s`, with the same shape; at least -7.
        mixing: :math:`a`, with shape :math:`(B, C (C - 1) / 2, M, H, W)`: of the second channel on the first, of the
            third on the first, of the third on the second.
        levels: Levels in [-1, 1].
    """

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, mixing: Tensor, levels: int = 256) -> None:
        channels = means.shape[1]
        if mixing.shape[1] != channels * (channels - 1) // 2:
            raise ContractError(
                f"{channels} channels need {channels * (channels - 1) // 2} mixing coefficients, got {mixing.shape[1]}"
            )
        self.log_weights = F.log_softmax(full(logits), dim=1)
        self.means, self.log_scales = full(means), full(log_scales).clamp_min(-7.0)
        self.mixing = full(mixing)
        self.levels, self.half = levels, 1.0 / (levels - 1)
        #: Values outside of these count as the lowest and the highest level.
        self.edges = (-1.0 + self.half, 1.0 - self.half)
        self.noise_shape = (channels + 1, *means.shape[3:])

    @staticmethod
    def parameters(channels: int, mixtures: int) -> int:
        """Raw parameters per pixel that :meth:`of` reads.

        Raises:
            ContractError: The layout is for one or three channels.
        """
        if channels not in (1, 3):
            raise ContractError(f"a mixture of logistics is for images of 1 or 3 channels, got {channels}")
        return mixtures * (1 + 2 * channels + (channels if channels == 3 else 0))

    @classmethod
    def of(cls, raw: Tensor, channels: int, levels: int = 256) -> LogisticMixture:
        """From a network's output: logits first, then for each channel means, log scales and mixing coefficients.

        Arguments:
            raw: With shape :math:`(B, K, H, W)`; the mixing coefficients go through a tanh.
            channels: :math:`C`, 1 or 3.
            levels: Levels in [-1, 1].
        """
        mixtures = raw.shape[1] // cls.parameters(channels, 1)
        rest = raw[:, mixtures:].unflatten(1, (channels, -1))
        means, log_scales, mixing = rest.split([mixtures, mixtures, rest.shape[2] - 2 * mixtures], dim=2)
        if channels == 1:
            mixing = mixing.reshape(len(raw), 0, mixtures, *raw.shape[2:])
        return cls(raw[:, :mixtures], means, log_scales, torch.tanh(mixing), levels)

    def _shifts(self, x: list[Tensor], channel: int) -> Tensor | float:
        """What the channels before add to the mean of ``channel``."""
        first = channel * (channel - 1) // 2
        return sum((self.mixing[:, first + b] * x[b] for b in range(channel)), start=0.0)

    @property
    def mean(self) -> Tensor:
        """See :attr:`Likelihood.mean`; leaves out what rounding and the ends of the range do to it."""
        per_component: list[Tensor] = []
        for channel in range(self.means.shape[1]):
            mean = self.means[:, channel] + self._shifts(per_component, channel)
            per_component.append(mean.clamp(-1.0, 1.0))
        weights = self.log_weights.exp()
        return torch.stack([(weights * mean).sum(1) for mean in per_component], dim=1)

    def log_prob(self, x: Tensor) -> Tensor:
        """See :meth:`Likelihood.log_prob`; in nats of probability."""
        total = self.log_weights
        values = [channel[:, None] for channel in x.unbind(1)]
        for channel, value in enumerate(values):
            centred = value - self.means[:, channel] - self._shifts(values, channel)
            log_scale = self.log_scales[:, channel]
            inverse = (-log_scale).exp()
            above, below = inverse * (centred + self.half), inverse * (centred - self.half)
            low, high = F.logsigmoid(above), F.logsigmoid(-below)
            # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)), which loses no digits in the tails.
            middle = low + high + torch.log(-torch.expm1(-2.0 * self.half * inverse))
            part = torch.where(value < self.edges[0], low, torch.where(value > self.edges[1], high, middle))
            total = total + part
        return torch.logsumexp(total, dim=1).flatten(1).sum(1)

    def transform(self, noise: Tensor) -> Tensor:
        share = torch.special.ndtr(noise[:, :1])
        last = self.log_weights.shape[1] - 1
        chosen = (share > self.log_weights.exp().cumsum(1)).sum(1, keepdim=True).clamp_max(last)
        values: list[Tensor] = []
        for channel in range(self.means.shape[1]):
            mean = (self.means[:, channel] + self._shifts(values, channel)).gather(1, chosen)
            scale = self.log_scales[:, channel].gather(1, chosen).exp()
            eps = noise[:, channel + 1 : channel + 2]
            logistic = torch.special.log_ndtr(eps) - torch.special.log_ndtr(-eps)
            value = mean + scale * logistic
            number = ((value.clamp(-1.0, 1.0) + 1.0) / (2.0 * self.half)).round()
            values.append(value + (2.0 * self.half * number - 1.0 - value).detach())
        return torch.cat(values, dim=1)
