"""One training step of DAMC written down plainly, from the paper's tables and listings, to be timed beside genfw's.

Nothing is toggled, folded or computed ahead: chains differentiate with autograd through networks as they are, and the
diffusion network embeds its time and reads the image's embedding at every step. The image is embedded once for a walk.
Parameter names are those of the published checkpoints, so that genfw's importers carry the weights over.

Reference: DAMC (arXiv 2310.03218), Tables S1 to S4, Listings 1 and 2.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LEBM", "Diffusion", "Iteration", "decoder", "energy", "posterior_chain", "prior_chain"]


class Unflat(nn.Module):
    """Vectors as 1x1 maps."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :, None, None]


def energy(size: int, hidden: int = 200) -> nn.Module:
    """Table S1."""
    layers = [nn.Linear(size, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden, 1))


def decoder(
    size: int, channels: int, width: int, start: int, factors: Sequence[int], doubles: bool = False
) -> nn.Module:
    """Table S2: every layer a transposed convolution, the first of a 1x1 map. The last one keeps the side as CIFAR-10's
    does, or doubles it as SVHN's.
    """
    layers: list[nn.Module] = [Unflat(), nn.ConvTranspose2d(size, width * factors[0], start), nn.LeakyReLU(0.2)]
    for before, after in pairwise(factors):
        layers += [nn.ConvTranspose2d(width * before, width * after, 4, 2, 1), nn.LeakyReLU(0.2)]
    kernel, stride = (4, 2) if doubles else (3, 1)
    return nn.Sequential(*layers, nn.ConvTranspose2d(width * factors[-1], channels, kernel, stride, 1), nn.Tanh())


def encoder(channels: int, side: int, width: int, factors: Sequence[int], embedding: int) -> nn.Module:
    """Table S4."""
    layers: list[nn.Module] = []
    before = channels
    for number, factor in enumerate(factors):
        after = width * factor
        convolution = nn.Conv2d(before, after, 4, 2, 1) if number else nn.Conv2d(before, after, 3, 1, 1)
        layers += [convolution, nn.InstanceNorm2d(after, affine=True), nn.LeakyReLU(0.2)]
        before = after
    return nn.Sequential(*layers, nn.Conv2d(before, embedding, side >> (len(factors) - 1)), nn.Flatten())


class Sinusoids(nn.Module):
    """Sines and cosines of a time index."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, time: Tensor) -> Tensor:
        half = self.features // 2
        rates = torch.exp(torch.arange(half, device=time.device) * (-math.log(10_000.0) / (half - 1)))
        angle = time[:, None] * rates[None, :]
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Block(nn.Module):
    """Table S3, basic block."""

    def __init__(self, inputs: int, outputs: int, context: int) -> None:
        super().__init__()
        self._layer = nn.Sequential(nn.Linear(inputs, outputs))
        self._layer_ctx = nn.Sequential(nn.SiLU(), nn.Linear(context, outputs), nn.SiLU())
        self._hyper_gate = nn.Linear(outputs, outputs)
        self._hyper_bias = nn.Linear(outputs, outputs, bias=False)
        self._skip = nn.Linear(inputs, outputs)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        context = self._layer_ctx(context)
        gate = torch.sigmoid(self._hyper_gate(context))
        return self._layer(h) * gate + self._hyper_bias(context) + self._skip(h)


class Network(nn.Module):
    """Table S3, denoising diffusion network."""

    def __init__(self, size: int, embedding: int, widths: Sequence[int], time: int) -> None:
        super().__init__()
        self.B = nn.Parameter(torch.randn(size, size // 2))
        self.time_mlp = nn.Sequential(Sinusoids(time), nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time))
        context = time + embedding
        down, up = [2 * size, *widths], [size, *widths]
        self.in_layers = nn.ModuleList(Block(down[i], down[i + 1], context) for i in range(len(widths)))
        self.mid_layers = nn.ModuleList([Block(widths[-1], widths[-1], context)])
        self.out_layers = nn.ModuleList(Block(2 * up[i + 1], up[i], context) for i in reversed(range(len(widths))))

    def forward(self, z: Tensor, log_snr: Tensor, embedding: Tensor) -> Tensor:
        time = self.time_mlp(torch.atan(torch.exp(-0.5 * log_snr)) / (0.5 * math.pi) * 1000.0)
        context = torch.cat([time, embedding], dim=1)
        phase = 2.0 * math.pi * z @ self.B
        h = torch.cat([phase.sin(), phase.cos(), z], dim=1)
        kept = []
        for block in self.in_layers:
            h = F.leaky_relu(block(h, context))
            kept.append(h)
        for block in self.mid_layers:
            h = F.leaky_relu(block(h, context))
        for number, block in enumerate(self.out_layers):
            h = block(torch.cat([h, kept.pop()], dim=1), context)
            if number < len(self.out_layers) - 1:
                h = F.leaky_relu(h)
        return z + h


class Described(nn.Module):
    """An encoder under the name that published checkpoints give it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Diffusion(nn.Module):
    """The amortizer: network, encoder, null token; Eq. 5 and Eq. 8."""

    def __init__(self, size: int, net: nn.Module, embedding: int, widths: Sequence[int], time: int = 128) -> None:
        super().__init__()
        self.size = size
        self.p = Network(size, embedding, widths, time)
        self.encoder = Described(net)
        self.prior_emb = nn.Sequential(nn.Linear(size, 128), nn.LeakyReLU(), nn.Linear(128, embedding))
        self.offset = math.atan(math.exp(-0.5 * 9.8))
        self.slope = math.atan(math.exp(-0.5 * -5.1)) - self.offset

    def log_snr(self, u: Tensor) -> Tensor:
        return -2.0 * torch.log(torch.tan(self.slope * u + self.offset))

    def sample(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.draw(self.encoder.net(x), steps, generator)

    def draw(self, embedding: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            count = len(embedding)
            z = torch.randn(count, self.size, generator=generator)
            for i in reversed(range(steps)):
                u = torch.full((count,), i / (steps - 1))
                log_t = self.log_snr(u)
                alpha_t, sigma_t = log_t.sigmoid().sqrt()[:, None], (-log_t).sigmoid().sqrt()[:, None]
                predicted = self.p(z, log_t, embedding)
                if i == 0:
                    return (z - sigma_t * predicted) / alpha_t
                log_s = self.log_snr(torch.full((count,), (i - 1) / (steps - 1)))
                alpha_s = log_s.sigmoid().sqrt()[:, None]
                r = -torch.expm1(log_t - log_s)[:, None]
                mean = alpha_s / alpha_t * (z - r * sigma_t * predicted)
                z = mean + r.sqrt() * sigma_t * torch.randn(z.shape, generator=generator)
        raise ValueError("steps is at least 1")

    def loss(self, x: Tensor, z: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        log_snr = self.log_snr(torch.rand(len(z), generator=generator))
        alpha, sigma = log_snr.sigmoid().sqrt()[:, None], (-log_snr).sigmoid().sqrt()[:, None]
        noise = torch.randn(z.shape, generator=generator)
        null = self.prior_emb(torch.randn(z.shape, generator=generator))
        embedding = self.encoder.net(x) * mask + null * (1.0 - mask)
        predicted = self.p(alpha * z + sigma * noise, log_snr, embedding)
        return 0.5 * (predicted - noise).square().sum(1).mean()


def prior_chain(net: nn.Module, z: Tensor, step: float, steps: int, generator: torch.Generator) -> Tensor:
    """Listing 1, prior."""
    z = z.clone().detach().requires_grad_(True)
    for _ in range(steps):
        total = net(z).sum() + 0.5 * torch.sum(z**2)
        gradient = torch.autograd.grad(total, z)[0]
        w = torch.randn(z.shape, generator=generator, device=z.device)
        z.data = z.data - 0.5 * (step**2) * gradient + step * w
    return z.detach()


def posterior_chain(
    net: nn.Module,
    generator_net: nn.Module,
    sigma: float,
    x: Tensor,
    z: Tensor,
    step: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Listing 1, posterior."""
    z = z.clone().detach().requires_grad_(True)
    for _ in range(steps):
        likelihood = torch.sum((generator_net(z) - x) ** 2) / (2.0 * sigma**2)
        total = likelihood + net(z).sum() + 0.5 * torch.sum(z**2)
        gradient = torch.autograd.grad(total, z)[0]
        w = torch.randn(z.shape, generator=generator, device=z.device)
        z.data = z.data - 0.5 * (step**2) * gradient + step * w
    return z.detach()


class Iteration:
    """Listing 2 with its optimisers, and the average of the amortizer that chains start from."""

    def __init__(self, net: nn.Module, generator_net: nn.Module, amortizer: Diffusion, sigma: float) -> None:
        self.E, self.G, self.Q, self.sigma = net, generator_net, amortizer, sigma
        self.target = copy.deepcopy(amortizer)
        self.e = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.5, 0.999))
        self.g = torch.optim.Adam(generator_net.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.q = torch.optim.AdamW(amortizer.parameters(), lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-4)
        self.count = 0

    def step(
        self, x: Tensor, diffusion: int, posterior: int, prior: int, generator: torch.Generator, updates: int = 6
    ) -> None:
        mask = (torch.rand(len(x), generator=generator) >= 0.2).float()[:, None]
        z0 = self.target.sample(x, diffusion, generator)
        positive = posterior_chain(self.E, self.G, self.sigma, x, z0, 0.1, posterior, generator)
        start = torch.cat([z0, torch.randn(z0.shape, generator=generator)])
        negative = prior_chain(self.E, start, 0.1, prior, generator)
        for _ in range(updates):
            descend(self.q, self.Q.loss(x, positive, mask, generator))
        descend(self.g, torch.sum((self.G(positive) - x) ** 2, dim=[1, 2, 3]).mean())
        descend(self.e, self.E(positive).mean() - self.E(negative).mean())
        self.count += 1
        if self.count % 10 == 0:
            with torch.no_grad():
                for mine, theirs in zip(self.target.parameters(), self.Q.parameters(), strict=True):
                    mine.lerp_(theirs, 0.005)


class LEBM:
    """The same without an amortizer: both chains begin in noise, the prior's with a step of its own."""

    def __init__(self, net: nn.Module, generator_net: nn.Module, sigma: float) -> None:
        self.E, self.G, self.sigma = net, generator_net, sigma
        self.e = torch.optim.Adam(net.parameters(), lr=2e-5, betas=(0.5, 0.999))
        self.g = torch.optim.Adam(generator_net.parameters(), lr=1e-4, betas=(0.5, 0.999))

    def step(self, x: Tensor, size: int, posterior: int, prior: int, generator: torch.Generator) -> None:
        first, second = torch.randn(2, len(x), size, generator=generator)
        positive = posterior_chain(self.E, self.G, self.sigma, x, first, 0.1, posterior, generator)
        negative = prior_chain(self.E, second, 0.4, prior, generator)
        descend(self.g, torch.sum((self.G(positive) - x) ** 2, dim=[1, 2, 3]).mean())
        descend(self.e, self.E(positive).mean() - self.E(negative).mean())


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One update, its gradients clipped."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 100.0)
    optimizer.step()
