"""Two-dimensional laws with an exact density."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw import Size, Split
from genfw.plugins.validators import at_least, positive, within
from genfw_plugins.datasets._arrays import ArraySplit, DrawnDataset


class ToyDataset(DrawnDataset):
    """Independent draws of a known law.

    A subclass guarantees that ``draw`` and ``log_prob`` speak of the same law.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"train": 2000, "test": 500}

    @abc.abstractmethod
    def draw(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Fresh draws ``(count, 2)`` and the component each came from ``(count,)``."""

    @property
    def data_shape(self) -> Size:
        """Two numbers."""
        return (2,)

    def split(self, name: str) -> Split:
        count, generator = self.begin(name, type(self).__name__)
        return ArraySplit(*self.draw(count, generator=generator))


@attrs.define(kw_only=True, eq=False, slots=False)
class GaussianGrid(ToyDataset):
    r"""A square grid of equal Gaussians: :math:`p(x) = \frac{1}{s^2} \sum_{c} N(x; c, \sigma^2 I)`.

    With the defaults this is "25-Gaussians": centres :math:`\{-2, -1, 0, 1, 2\}^2`. The mean log-likelihood of the
    truth under itself is then :math:`-\log 25 - \log 2\pi\sigma^2 - 1 = -1.10` nats.

    References:
        VAEBM (Xiao et al., 2021), section 5.4, https://arxiv.org/abs/2010.00654

    Arguments:
        side: :math:`s`, Gaussians along each axis.
        spacing: Distance between neighbouring centres; the grid is centred on 0.
        std: :math:`\sigma`.
    """

    side: int = attrs.field(default=5, validator=positive)
    spacing: float = attrs.field(default=1.0, validator=positive)
    std: float = attrs.field(default=0.0839, validator=positive)
    train: int = attrs.field(default=100_000, validator=at_least(1))
    test: int = attrs.field(default=10_000, validator=at_least(1))
    seed: int = 0

    @property
    def axis(self) -> Tensor:
        """Centres along one axis, with shape ``(side,)``."""
        return (torch.arange(self.side, dtype=torch.float32) - (self.side - 1) / 2) * self.spacing

    def draw(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`ToyDataset.draw`; Gaussian ``side * i + j`` is centred on ``(axis[i], axis[j])``."""
        mode = torch.randint(self.side**2, (count,), generator=generator)
        centre = torch.stack([self.axis[mode // self.side], self.axis[mode % self.side]], dim=1)
        return centre + self.std * torch.randn(count, 2, generator=generator), mode

    def log_prob(self, x: Tensor) -> Tensor:
        # A grid of equal Gaussians is a product of one mixture per axis: 2s terms instead of s^2.
        # shape: (B, 2, 1) against (s,) -> (B, 2, s)
        normalised = (x.unsqueeze(-1) - self.axis.to(x)) / self.std
        constant = math.log(self.side) + math.log(self.std) + 0.5 * math.log(2 * math.pi)
        return ((-0.5 * normalised.square()).logsumexp(-1) - constant).sum(1)


@attrs.define(kw_only=True, eq=False, slots=False)
class Pinwheel(ToyDataset):
    r"""Gaussian blobs along the arms of a wheel, twisted: :math:`x = s\,R(\alpha_k + \rho\, e^{|u|})\, u`.

    Here :math:`u \sim N((1, 0), \operatorname{diag}(\sigma_r^2, \sigma_t^2))` and :math:`R` is a rotation. The twist
    turns each circle about 0 as a whole, so it keeps areas and the density is exact. The usual pinwheel turns by
    :math:`e^{u_1}`, which has no closed density; for thin arms the two differ by :math:`u_2^2 / 2u_1` in the exponent.

    References:
        Composing graphical models with neural networks (Johnson et al., 2016), https://arxiv.org/abs/1603.06277
        DAMC (Yu et al., 2023), appendix E.1, https://arxiv.org/abs/2310.03218

    Arguments:
        arms: Count of arms :math:`k`, at even angles :math:`\alpha_k`.
        radial_std: :math:`\sigma_r`, along the arm.
        tangential_std: :math:`\sigma_t`, across it.
        rate: :math:`\rho`, strength of the twist.
        scale: :math:`s`, factor on the whole.
    """

    arms: int = attrs.field(default=2, validator=positive)
    radial_std: float = attrs.field(default=0.3, validator=positive)
    tangential_std: float = attrs.field(default=0.1, validator=positive)
    rate: float = attrs.field(default=0.25, validator=within(-math.inf, math.inf, "()"))
    scale: float = attrs.field(default=1.0, validator=positive)
    train: int = attrs.field(default=10_000, validator=at_least(1))
    test: int = attrs.field(default=10_000, validator=at_least(1))
    seed: int = 0

    def draw(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`ToyDataset.draw`; the component is the arm."""
        arm = torch.randint(self.arms, (count,), generator=generator)
        u = torch.randn(count, 2, generator=generator) * torch.tensor([self.radial_std, self.tangential_std])
        u[:, 0] += 1.0
        angle = 2 * math.pi * arm / self.arms + self.rate * u.norm(dim=1).exp()
        return self.scale * _rotate(u, angle), arm

    def log_prob(self, x: Tensor) -> Tensor:
        point = x / self.scale
        twist = self.rate * point.square().sum(1).add(1e-24).sqrt().exp()
        terms = []
        for arm in range(self.arms):
            u = _rotate(point, -(twist + 2 * math.pi * arm / self.arms))
            radial, tangential = (u[:, 0] - 1.0) / self.radial_std, u[:, 1] / self.tangential_std
            terms.append(-0.5 * (radial.square() + tangential.square()))
        area = 2 * math.pi * self.radial_std * self.tangential_std * self.scale**2
        return torch.stack(terms).logsumexp(0) - math.log(self.arms * area)


def _rotate(point: Tensor, angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine * point[:, 0] - sine * point[:, 1], sine * point[:, 0] + cosine * point[:, 1]], dim=1)
