"""torch's optimisers, with a course of the learning rate over the stage."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from genfw.errors import ContractError
from genfw.training.optimizer import Decay, OptimizerFactory

__all__ = ["SGD", "Adam", "AdamW", "Adamax"]


class Adam(OptimizerFactory):
    r"""Adam: :math:`\theta \leftarrow \theta - \text{lr}\; \hat m / (\sqrt{\hat v} + \epsilon)`.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), https://arxiv.org/abs/1412.6980

    Arguments:
        lr: Peak learning rate.
        betas: Decay of the averages of the gradient and of its square.
        eps: :math:`\epsilon`.
        weight_decay: Factor of an L2 penalty, added to the gradient.
        warmup: Steps of linear warm-up.
        decay: Course after the warm-up.
        final: Factor on ``lr`` at the last step.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup: int = 0,
        decay: Decay = "none",
        final: float = 0.0,
    ) -> None:
        super().__init__(lr, warmup, decay, final)
        self.betas, self.eps = _check_betas(betas), _check_positive("eps", eps)
        self.weight_decay = _check_weight_decay(weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """See :meth:`genfw.training.optimizer.OptimizerFactory.build`."""
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


class AdamW(OptimizerFactory):
    r"""Adam with weight decay apart from the gradient.

    Each step starts with :math:`\theta \leftarrow (1 - \text{lr}\,\lambda)\,\theta`.

    References:
        Decoupled weight decay regularization (Loshchilov and Hutter, 2019), https://arxiv.org/abs/1711.05101

    Arguments:
        lr: Peak learning rate.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the root of the second moment.
        weight_decay: :math:`\lambda`.
        warmup: Steps of linear warm-up.
        decay: Course after the warm-up.
        final: Factor on ``lr`` at the last step.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        warmup: int = 0,
        decay: Decay = "none",
        final: float = 0.0,
    ) -> None:
        super().__init__(lr, warmup, decay, final)
        self.betas, self.eps = _check_betas(betas), _check_positive("eps", eps)
        self.weight_decay = _check_weight_decay(weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """See :meth:`genfw.training.optimizer.OptimizerFactory.build`."""
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


class Adamax(OptimizerFactory):
    r"""Adam with the infinity norm, NVAE's choice: :math:`\theta \leftarrow \theta - \text{lr}\; \hat m / u`.

    Here :math:`u \leftarrow \max(\beta_2 u, |g| + \epsilon)`.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), section 7.1, https://arxiv.org/abs/1412.6980

    Arguments:
        lr: Peak learning rate.
        betas: Decay of the average of the gradient, and of the largest gradient.
        eps: :math:`\epsilon`.
        weight_decay: Factor of an L2 penalty, added to the gradient.
        warmup: Steps of linear warm-up.
        decay: Course after the warm-up.
        final: Factor on ``lr`` at the last step.
    """

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup: int = 0,
        decay: Decay = "none",
        final: float = 0.0,
    ) -> None:
        super().__init__(lr, warmup, decay, final)
        self.betas, self.eps = _check_betas(betas), _check_positive("eps", eps)
        self.weight_decay = _check_weight_decay(weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """See :meth:`genfw.training.optimizer.OptimizerFactory.build`."""
        return torch.optim.Adamax(
            parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )


class SGD(OptimizerFactory):
    r"""Gradient descent with momentum: :math:`m \leftarrow \mu m + g,\; \theta \leftarrow \theta - \text{lr}\; m`.

    Arguments:
        lr: Peak learning rate.
        momentum: :math:`\mu`.
        nesterov: Look ahead along the momentum; needs momentum.
        weight_decay: Factor of an L2 penalty, added to the gradient.
        warmup: Steps of linear warm-up.
        decay: Course after the warm-up.
        final: Factor on ``lr`` at the last step.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        warmup: int = 0,
        decay: Decay = "none",
        final: float = 0.0,
    ) -> None:
        super().__init__(lr, warmup, decay, final)
        if not 0.0 <= momentum < 1.0:
            raise ContractError(f"momentum lies in [0, 1), got {momentum}")
        if nesterov and momentum == 0.0:
            raise ContractError("nesterov looks ahead along the momentum; set momentum above 0")
        self.momentum, self.nesterov = momentum, nesterov
        self.weight_decay = _check_weight_decay(weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """See :meth:`genfw.training.optimizer.OptimizerFactory.build`."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )


def _check_betas(betas: tuple[float, float]) -> tuple[float, float]:
    first, second = betas
    if not (0.0 <= first < 1.0 and 0.0 <= second < 1.0):
        raise ContractError(f"betas lie in [0, 1), got {first} and {second}")
    return (first, second)


def _check_positive(name: str, value: float) -> float:
    if value <= 0:
        raise ContractError(f"{name} must be positive, got {value}")
    return value


def _check_weight_decay(value: float) -> float:
    if value < 0:
        raise ContractError(f"weight_decay can't be negative, got {value}")
    return value
