"""Plain layers that several plugins share, independent of any data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from genfw.errors import ContractError
from genfw.interfaces.encoder import Posterior
from genfw.interfaces.prior import Prior
from genfw.nn.precision import full

Activation = Literal["silu", "relu", "gelu", "leaky-relu", "tanh"]


def activation_layer(name: Activation) -> nn.Module:
    """The activation of that name; ``leaky-relu`` has slope 0.2, as energies and GANs use it."""
    match name:
        case "silu":
            return nn.SiLU()
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU()
        case "leaky-relu":
            return nn.LeakyReLU(0.2)
        case "tanh":
            return nn.Tanh()


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation = "silu") -> nn.Sequential:
    """Fully connected layers: ``inputs -> hidden[0] -> ... -> outputs``, an activation after each but the last.

    Arguments:
        inputs: Width of the input.
        hidden: Width of each hidden layer; empty gives one linear map.
        outputs: Width of the output.
        activation: Between the layers.
    """
    widths = [inputs, *hidden, outputs]
    if min(widths) < 1:
        raise ContractError(f"every layer needs a width of at least 1, got {widths}")
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        if index:
            layers.append(activation_layer(activation))
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


def normal_posterior(
    prior: Prior,
    mean: Tensor,
    log_scale: Tensor,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Posterior:
    r"""One draw of a normal posterior in noise space, :math:`q(\epsilon_z \mid x) = N(\mu, \sigma^2)`.

    Exact for any prior: where :math:`T_z` is a bijection, :math:`KL[q(z|x) \| p(z)] = KL[q(\epsilon_z|x) \| N(0, I)]`,
    in closed form.

    Arguments:
        prior: :math:`T_z`.
        mean: :math:`\mu`, flat, with shape :math:`(B, D_z)`.
        log_scale: :math:`\log \sigma`, with shape :math:`(B, D_z)`.
        noise: The posterior's own standard-normal noise, with shape :math:`(B, D_z)`; drawn where absent.
        generator: Source of that noise.
        temperature: Factor on :math:`\sigma`.
    """
    mean, log_scale = full(mean), full(log_scale)
    if noise is None:
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    noise = temperature * noise
    eps = mean + log_scale.exp() * noise
    sizes = [math.prod(shape) for shape in prior.noise_shapes]
    blocks = [block.unflatten(1, shape) for block, shape in zip(eps.split(sizes, 1), prior.noise_shapes, strict=True)]
    constant = 0.5 * math.log(2 * math.pi) * eps.shape[1]
    kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
    return Posterior(
        latent=prior.transform(blocks),
        noise=eps,
        log_q=-(0.5 * noise.square() + log_scale).sum(1) - constant,
        log_p=-0.5 * eps.square().sum(1) - constant,
        kl=torch.stack([part.sum(1) for part in kl.split(sizes, 1)], dim=1),
    )
