"""One training step of NVAE written down plainly, over the weights of genfw's networks, to be timed beside genfw's.

Every operation is where the papers' figures have it: sides are doubled before the convolutions, images lie in torch's
own order, every group's densities are normals of torch's. Layers of one shape share their power iterations, as an
NVAE's author would have them.

References: NVAE (arXiv 2007.03898) Fig. 2 and 3, sections 3.1 and 3.2, App. A; VAEBM (arXiv 2010.00654) App. E for the
Gaussian decoder.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from genfw.models.model import Model
from genfw_plugins.nvae.network import BatchNorm, Combine, Conv, Gate, InvertedCell, PlainCell

__all__ = ["Iteration"]

BRANCH = 0.1


def kernel(layer: Conv) -> Tensor:
    """The weight, masked and normalised."""
    weight = layer.weight if layer.mask is None else layer.weight * layer.mask
    if layer.log_norm is None:
        return weight
    return torch.exp(layer.log_norm) * weight / (weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-5)


def convolved(layer: Any, x: Tensor) -> Tensor:
    """A weight-normalised convolution."""
    return F.conv2d(x, kernel(layer), layer.bias, layer.stride, layer.padding, 1, layer.groups)


def normalised(layer: Any, x: Tensor) -> Tensor:
    """Batch norm by the batch's own statistics."""
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, True, 0.05, 1e-5)


def gated(layer: Any, x: Tensor) -> Tensor:
    """Squeeze-and-excitation."""
    if not isinstance(layer, Gate):
        return x
    scale = torch.sigmoid(layer.excite(F.relu(layer.squeeze(x.mean(dim=[2, 3])))))
    return x * scale.view(*scale.shape, 1, 1)


def up(cell: PlainCell, x: Tensor) -> Tensor:
    """A cell of the bottom-up tower (Fig. 3b)."""
    h = x
    for norm, conv in zip(cell.norms, cell.convs, strict=True):
        h = convolved(conv, F.silu(normalised(norm, h)))
    if isinstance(cell.skip, nn.Identity):
        return x + BRANCH * gated(cell.gate, h)
    s: Any = F.silu(x)
    corners = s[:, :, ::2, ::2], s[:, :, 1::2, 1::2], s[:, :, ::2, 1::2], s[:, :, 1::2, ::2]
    halves = [convolved(conv, corner) for conv, corner in zip(cell.skip.convs, corners, strict=True)]  # type: ignore[union-attr, arg-type]
    return torch.cat(halves, dim=1) + BRANCH * gated(cell.gate, h)


def down(cell: InvertedCell, x: Tensor) -> Tensor:
    """A cell of the top-down tower (Fig. 3a)."""
    h = normalised(cell.norm_in, x)
    if cell.up:
        h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        x = convolved(cell.skip.conv, F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))
    h = F.silu(normalised(cell.norm_expand, convolved(cell.expand, h)))
    h = F.silu(normalised(cell.norm_depthwise, convolved(cell.depthwise, h)))
    h = normalised(cell.norm_out, convolved(cell.project, h))
    return x + BRANCH * gated(cell.gate, h)


def normal(mean: Tensor, log_scale: Tensor) -> Normal:
    """The normal of a head's outputs, bounded smoothly."""
    return Normal(5.0 * torch.tanh(mean / 5.0), torch.exp(5.0 * torch.tanh(log_scale / 5.0)) + 1e-2)


class Iteration:
    """The step: draws of the posterior, the bound with balanced divergences, penalties, Adamax.

    Arguments:
        model: genfw's networks, whose weights are trained here; gate, flows and sizes are theirs.
        generator: Source of the noise.
        optimizer: Settings of Adamax.
        kl_start: Weight of the divergence at the first step.
        kl_warmup: Steps until it is 1.
        penalty: Weight of spectral norms and batch-norm factors.
    """

    def __init__(
        self,
        model: Model,
        generator: torch.Generator,
        optimizer: dict[str, float],
        kl_start: float,
        kl_warmup: int,
        penalty: float,
    ) -> None:
        self.prior, self.encoder, self.decoder = (
            part.train() for part in (model.prior, model.encoder, model.decoder) if part is not None
        )
        self.generator, self.kl_start, self.kl_warmup, self.penalty = generator, kl_start, kl_warmup, penalty
        self.parameters = [p for part in (self.prior, self.encoder, self.decoder) for p in part.parameters()]
        self.optimizer = torch.optim.Adamax(self.parameters, **optimizer)
        #: By shape of the matrix: convolutions, and the vectors of their power iterations.
        self.spectra: list[tuple[list[Conv], Tensor, Tensor]] = []
        self.norms: list[BatchNorm] = []
        for part in (self.prior, self.encoder, self.decoder):
            by_shape: dict[torch.Size, list[Conv]] = defaultdict(list)
            for layer in part.modules():
                if isinstance(layer, Conv):
                    by_shape[layer.weight.flatten(1).shape].append(layer)
                elif isinstance(layer, BatchNorm):
                    self.norms.append(layer)
            for number, shape in enumerate(sorted(by_shape)):  # from the vectors that genfw has at this moment
                spectral = part.weight_penalty.spectral
                u, v = (getattr(spectral, f"{side}_{number}").clone() for side in "uv")
                self.spectra.append((by_shape[shape], u, v))

    def __call__(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Take a step on ``(B, C, H, W)``; its loss, and the norm of its gradient."""
        loss = self.loss(x, step)
        self.optimizer.zero_grad()
        loss.backward()
        size = torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm()
        self.optimizer.step()
        return loss.detach(), size

    def loss(self, x: Tensor, step: int) -> Tensor:
        """The bound and the penalties."""
        h, merges = convolved(self.encoder.stem, x), []
        for cell in self.encoder.before:
            h = up(cell, h)
        for part in self.encoder.tower:
            if isinstance(part, Combine):
                merges.append((part, h))
            else:
                h = up(part, h)
        merged = F.elu(convolved(self.encoder.top, F.elu(h)))
        merges.reverse()
        sizes = [math.prod(shape) for shape in self.prior.noise_shapes]
        noise = torch.randn(len(x), sum(sizes), generator=self.generator).split(sizes, dim=1)
        features, kl, shapes = self.prior.first.expand(len(x), *self.prior.first.shape), [], []
        flows = len(self.encoder.flows) // len(sizes)
        for part in self.prior.tower:
            if not isinstance(part, Combine):
                features = down(part, features)
                continue
            number = len(kl)
            shape = self.prior.noise_shapes[number]
            if number:
                raw = convolved(self.prior.heads[number - 1], F.elu(features))
                combine, kept = merges[number - 1]
                merged = kept + convolved(combine.conv, features)
            else:
                raw = torch.zeros(len(x), 2 * shape[0], *shape[1:])
            own = convolved(self.encoder.heads[number], merged)
            p, q = normal(*raw.chunk(2, dim=1)), normal(*(raw + own).chunk(2, dim=1))
            z = q.mean + q.stddev * noise[number].view(-1, *shape)
            log_q = q.log_prob(z)
            for flow in self.encoder.flows[flows * number : flows * (number + 1)]:
                for half in (flow.forth, flow.back):
                    wide = F.elu(convolved(half.depthwise, F.elu(convolved(half.expand, z))))
                    z = z - convolved(half.shift, F.elu(wide))
            kl.append((log_q - p.log_prob(z)).sum(dim=[1, 2, 3]))
            shapes.append(shape)
            features = convolved(part.conv, torch.cat([features, z], dim=1))
        for cell in self.decoder.cells:
            features = down(cell, features)
        likelihood = normal(*convolved(self.decoder.head, F.elu(features)).chunk(2, dim=1))
        error = -likelihood.log_prob(x).sum(dim=[1, 2, 3])
        weight = self.kl_start + (1.0 - self.kl_start) * min(step / self.kl_warmup, 1.0)
        bound = (error + weight * self.balanced(torch.stack(kl, dim=1), shapes)).mean()
        return bound + self.penalty * self.penalties()

    def balanced(self, kl: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
        """The sum over groups, each weighed by its divergence over its size (App. A)."""
        counts = Counter(shapes)
        alpha = torch.tensor([math.prod(shape) / counts[shape] for shape in shapes])
        gamma = (kl.detach().abs().mean(dim=0) + 0.01) / alpha
        return (kl * (gamma / gamma.mean())).sum(dim=1)

    def penalties(self) -> Tensor:
        """Largest singular values of the convolutions, and largest factors of the batch norms."""
        total = torch.zeros(())
        for layers, u, v in self.spectra:
            weights = torch.stack([kernel(layer).flatten(1) for layer in layers])
            with torch.no_grad():
                for _ in range(4):
                    v.copy_(F.normalize((u[:, None] @ weights)[:, 0], dim=1))
                    u.copy_(F.normalize((weights @ v[:, :, None])[:, :, 0], dim=1))
            total = total + (u.clone()[:, None] @ weights @ v.clone()[:, :, None]).sum()
        return total + torch.stack([norm.weight.abs().max() for norm in self.norms]).sum()
