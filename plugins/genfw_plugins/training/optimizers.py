"""torch's optimisers, with a course of the learning rate over the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import attrs
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.plugins.validators import at_least, positive, within
from genfw.training.optimizer import Decay, OptimizerFactory

#: Devices on which torch's fused kernels are taken.
_FUSED = ("cpu", "cuda")


@attrs.define(kw_only=True, eq=False, slots=False)
class Adam(OptimizerFactory):
    r"""Adam: :math:`\theta \leftarrow \theta - \text{lr}\; \hat m / (\sqrt{\hat v} + \epsilon)`.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), https://arxiv.org/abs/1412.6980

    Arguments:
        lr: Peak learning rate.
        betas: Decay of the averages of the gradient and of its square.
        eps: :math:`\epsilon`.
        weight_decay: Factor of an L2 penalty, added to the gradient.
    """

    rule: ClassVar[Callable[..., torch.optim.Optimizer]] = torch.optim.Adam

    lr: float = attrs.field(default=1e-3, validator=positive)
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), validator=within(0, 1, "[)"))
    eps: float = attrs.field(default=1e-8, validator=positive)
    weight_decay: float = attrs.field(default=0.0, validator=at_least(0))
    warmup: int = 0
    decay: Decay = "none"
    final: float = 0.0
    stairs: int = 1
    least: float = 0.0

    #: Whether torch has the rule as one kernel for all parameters.
    fused: ClassVar[bool] = True

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        settings: dict[str, Any] = {
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }
        if self.fused and all(parameter.device.type in _FUSED for parameter in parameters):
            settings["fused"] = True
        elif not self.fused:
            settings["foreach"] = True  # torch loops over the parameters on the CPU otherwise
        return type(self).rule(parameters, **settings)


@attrs.define(kw_only=True, eq=False, slots=False)
class AdamW(Adam):
    r"""Adam with weight decay apart from the gradient.

    Each step starts with :math:`\theta \leftarrow (1 - \text{lr}\,\lambda)\,\theta`.

    References:
        Decoupled weight decay regularization (Loshchilov and Hutter, 2019), https://arxiv.org/abs/1711.05101

    Arguments:
        eps: Added to the root of the second moment.
        weight_decay: :math:`\lambda`.
    """

    rule = torch.optim.AdamW

    weight_decay: float = attrs.field(default=0.01, validator=at_least(0))


@attrs.define(kw_only=True, eq=False, slots=False)
class Adamax(Adam):
    r"""Adam with the infinity norm, NVAE's choice: :math:`\theta \leftarrow \theta - \text{lr}\; \hat m / u`.

    Here :math:`u \leftarrow \max(\beta_2 u, |g| + \epsilon)`.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), section 7.1, https://arxiv.org/abs/1412.6980

    Arguments:
        betas: Decay of the average of the gradient, and of the largest gradient.
    """

    rule = torch.optim.Adamax
    fused = False

    lr: float = attrs.field(default=2e-3, validator=positive)


@attrs.define(kw_only=True, eq=False, slots=False)
class SGD(OptimizerFactory):
    r"""Gradient descent with momentum: :math:`m \leftarrow \mu m + g,\; \theta \leftarrow \theta - \text{lr}\; m`.

    Arguments:
        lr: Peak learning rate.
        momentum: :math:`\mu`.
        nesterov: Look ahead along the momentum; needs momentum.
        weight_decay: Factor of an L2 penalty, added to the gradient.
    """

    lr: float = attrs.field(default=1e-2, validator=positive)
    momentum: float = attrs.field(default=0.0, validator=within(0, 1, "[)"))
    nesterov: bool = False
    weight_decay: float = attrs.field(default=0.0, validator=at_least(0))
    warmup: int = 0
    decay: Decay = "none"
    final: float = 0.0
    stairs: int = 1
    least: float = 0.0

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.nesterov and self.momentum == 0.0:
            raise ContractError("nesterov looks ahead along the momentum; set momentum above 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )
