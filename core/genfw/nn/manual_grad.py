r"""Functions with a hand-written vector-Jacobian product instead of a recorded one.

Inside a chain the weights are frozen and every step needs one gradient, that of the position. Autograd's bookkeeping
for the general case is overhead there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genfw.errors import ContractError

#: Maps :math:`\partial L / \partial f(v)` to :math:`\partial L / \partial v`.
Pullback = Callable[[Tensor], Tensor]

#: Maps :math:`v` to :math:`f(v)` and its pull-back.
ByHand = Callable[[Tensor], tuple[Tensor, Pullback]]


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: ByHand, v: Tensor) -> Tensor:
        value, ctx.pullback = function(v)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        if torch.is_grad_enabled():  # create_graph: the second derivative would be zero without an error
            raise ContractError(
                "inside a chain a gradient can't be differentiated again; take second derivatives outside of it"
            )
        return None, ctx.pullback(gradient)


def closed_form(function: ByHand, v: Tensor) -> Tensor:
    r"""Value of a function that has its own pull-back; differentiable once, in ``v`` only.

    Arguments:
        function: Maps :math:`v` to :math:`f(v)` and its pull-back; autograd does not record it.
        v: The points, with shape :math:`(B, *)`.

    Returns:
        :math:`f(v)`, with a graph where ``v`` has one.

    Raises:
        ContractError: In the backward pass, where its gradient is to be differentiated again.
    """
    value: Tensor = _Closed.apply(function, v)  # type: ignore[no-untyped-call]
    return value


def in_turn(layers: Sequence[ByHand]) -> ByHand:
    """The functions applied in turn, as one function with its pull-back."""

    def forward(v: Tensor) -> tuple[Tensor, Pullback]:
        pullbacks = []
        for layer in layers:
            v, pullback = layer(v)
            pullbacks.append(pullback)

        def pull(gradient: Tensor) -> Tensor:
            for pullback in reversed(pullbacks):
                gradient = pullback(gradient)
            return gradient

        return v, pull

    return forward


class MLPByHand:
    r"""What :func:`genfw.nn.layers.mlp` computes, with its pull-back, with the current weights.

    Arguments:
        layers: Linear layers, and activations of :func:`genfw.nn.layers.activation_layer`.

    Raises:
        TypeError: A layer of another type.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self._forward = in_turn([by_hand(layer, inplace=index > 0) for index, layer in enumerate(layers)])

    def __call__(self, v: Tensor) -> tuple[Tensor, Pullback]:
        r"""Output at points :math:`(B, d)`, and its pull-back."""
        return self._forward(v)


def by_hand(layer: nn.Module, inplace: bool = False) -> ByHand:
    """One linear layer or activation, with its pull-back, with the current weights.

    Arguments:
        layer: The layer.
        inplace: Let an activation overwrite its input, where nothing else uses that and the gradient needs only the
            output.

    Raises:
        TypeError: A layer of another type.
    """
    aten = torch.ops.aten

    def leaky_relu(h: Tensor) -> tuple[Tensor, Pullback]:
        out = F.leaky_relu(h, slope, inplace)
        # The sign of the output is that of the input.
        return out, lambda g: aten.leaky_relu_backward(g, out, slope, True)

    def relu(h: Tensor) -> tuple[Tensor, Pullback]:
        out = F.relu(h, inplace)
        return out, lambda g: aten.threshold_backward(g, out, 0)

    def tanh(h: Tensor) -> tuple[Tensor, Pullback]:
        out = h.tanh_() if inplace else h.tanh()
        return out, lambda g: aten.tanh_backward(g, out)

    match layer:
        case nn.Linear():
            weight, bias = layer.weight.detach(), layer.bias.detach()
            return lambda h: (F.linear(h, weight, bias), lambda g: g @ weight)
        case nn.LeakyReLU() if layer.negative_slope > 0:
            slope = layer.negative_slope
            return leaky_relu
        case nn.ReLU():
            return relu
        case nn.Tanh():
            return tanh
        case nn.SiLU():
            return lambda h: (F.silu(h), lambda g: aten.silu_backward(g, h))
        case nn.GELU(approximate="none"):
            return lambda h: (F.gelu(h), lambda g: aten.gelu_backward(g, h))
    raise TypeError(f"no gradient is written for the layer {layer}")
