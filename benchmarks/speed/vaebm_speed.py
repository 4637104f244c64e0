"""genfw's chain of VAEBM beside the same update written plainly, as ratios in one process.

    OMP_NUM_THREADS=1 python benchmarks/speed/vaebm_speed.py
    OMP_NUM_THREADS=1 python benchmarks/speed/vaebm_speed.py --memory      # peak of each way, in processes of their own

Plainly means: the networks as they are trained, only in eval mode, so that every step makes every normalised weight
and applies every batch norm anew; one tensor and one update for each group of noise; autograd for the gradient.
``with weight gradients`` calls ``backward`` like the published code, which also computes gradients of the energy's
weights that nobody reads. NVAE of 32 channels and 8 groups, residual energy of VAEBM's Table 7 on 32x32 images. Where
the processor multiplies in bfloat16, genfw is timed in it too, against the plain way in fp32.
"""

from __future__ import annotations

import argparse
import copy
import math

import torch
from _models import ready, rounded
from _ratios import agree, interleaved, peak, peaks, precisions, row, table
from torch import Tensor

from genfw.interfaces.values import Batch
from genfw.models.chains import Chain, run_chain
from genfw.models.freezing import frozen, frozen_for_chain
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings, draw_samples
from genfw.models.targets import NoiseTarget
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.nvae.decoder import NVAEDecoder
from genfw_plugins.nvae.prior import NVAEPrior
from genfw_plugins.resnet_energy.energy import ResNetEnergy
from genfw_plugins.training.contrastive import Contrastive
from genfw_plugins.training.optimizers import Adam

SHAPE, STEP = (3, 32, 32), 4e-5
#: For the check alone: with the paper's step the gradient hardly shows in ten moves.
LONG_STEP = 1e-2


def networks(channels: int, groups: int, width: float) -> Model:
    """Random networks whose normalisations are away from the identity."""
    torch.manual_seed(0)
    prior = NVAEPrior(SHAPE, channels=channels, scales=1, groups=groups)
    energy = ResNetEnergy(SHAPE, preset="cifar10", width=width, clamp=True)
    model = Model(prior, NVAEDecoder(prior), energy=energy)
    with torch.no_grad():
        energy.initialise(torch.rand(16, *SHAPE) * 2 - 1)
        for _ in range(2):  # batch norms see some data
            model.decode(torch.randn(16, model.noise_layout.size))
    return model.eval()


def plain_chain(
    model: Model, position: Tensor, steps: int, generator: torch.Generator, weights: bool, step: float = STEP
) -> Tensor:
    """VAEBM's Langevin dynamics in noise space (Eq. 9), group by group."""
    blocks = [block.clone().requires_grad_(True) for block in model.noise_layout.split(position).values()]
    assert model.prior is not None
    for _ in range(steps):
        likelihood = model.likelihood(model.prior.transform(blocks[:-1]))
        total = model.data_energy(likelihood.transform(blocks[-1])).sum()
        total = total + sum(0.5 * block.square().sum() for block in blocks)
        if weights:
            total.backward()
            gradients = [block.grad for block in blocks]
        else:
            gradients = list(torch.autograd.grad(total, blocks))
        noise = torch.randn(position.shape, generator=generator, device=position.device)
        moved = model.noise_layout.split(noise)
        for block, gradient, drawn in zip(blocks, gradients, moved.values(), strict=True):
            assert gradient is not None
            block.data = block.data - step * gradient + math.sqrt(2.0 * step) * drawn
            block.grad = None
    for parameter in model.parameters():
        parameter.grad = None
    return torch.cat([block.detach().flatten(1) for block in blocks], dim=1)


def main() -> None:
    """Check that both walk alike, time them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0, help="factor on the energy's 128 channels")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--peak", choices=("plain", "with-weight-gradients", "genfw"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory and arguments.peak is None:
        peaks(("plain", "with-weight-gradients", "genfw"))
        return
    model = networks(arguments.channels, arguments.groups, arguments.width)
    start = model.noise_layout.draw(arguments.batch, generator=torch.Generator().manual_seed(2))
    target = NoiseTarget(model)

    def plain(weights: bool, step: float = STEP) -> Tensor:
        source = torch.Generator().manual_seed(3)
        return plain_chain(model, start, arguments.steps, source, weights, step)

    def ours(step: float = STEP) -> Tensor:
        sampler, source = Langevin(step_size=step, steps=arguments.steps), torch.Generator().manual_seed(3)
        return run_chain(target, sampler, start, generator=source, end_potential=False).position

    if arguments.peak is not None:
        print(
            peak(
                {"plain": lambda: plain(False), "with-weight-gradients": lambda: plain(True), "genfw": ours}[
                    arguments.peak
                ]
            )
        )
        return
    what = f"batch {arguments.batch}, {arguments.steps} steps, NVAE {arguments.channels} x {arguments.groups}"
    batch, rows = f"batch {arguments.batch}", []
    for precision in precisions():
        with rounded(precision, model.prior, model.decoder, *model.energies):
            exact = precision == "model"
            apart = agree("VAEBM chain of long steps", plain(False, LONG_STEP), ours(LONG_STEP), 1e-4 if exact else 0.1)
            first, second, third = interleaved((lambda: plain(False), lambda: plain(True), ours), arguments.repeats)
            half = "" if exact else ", bf16"
            rows += [
                row(f"VAEBM chain{half}", what, first, third, apart),
                row(f"VAEBM chain{half}, plain with weight gradients", what, second, third, apart),
                row(
                    f"VAEBM whole iteration{half}, plain with weight gradients",
                    what,
                    *iteration(model, start, arguments),
                ),
                row(f"value and gradient of VAEBM's energy{half}", batch, *energy_alone(model, arguments)),
            ]
    table([*rows, row("samples of its NVAE", batch, *sampling(model, arguments))])


def iteration(model: Model, start: Tensor, arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds of a step of Algorithm 1: a chain from noise, then the energy's update by Adam."""
    twin, x = copy.deepcopy(model), torch.rand(arguments.batch, *SHAPE) * 2 - 1
    optimizer = torch.optim.Adam(twin.energies.parameters(), lr=4e-5, weight_decay=3e-5)
    source = torch.Generator().manual_seed(4)

    def plain() -> None:
        noise = twin.noise_layout.draw(len(start), generator=source)
        ends = plain_chain(twin.eval(), noise, arguments.steps, source, weights=True)
        with torch.no_grad():
            negative = twin.decode(ends)
        loss = twin.data_energy(x).mean() - twin.data_energy(negative).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    stage = Contrastive(
        model=model,
        steps=1_000,
        batch=arguments.batch,
        optimizer=Adam(lr=4e-5, weight_decay=3e-5),
        negatives=Chain(Langevin(step_size=STEP, steps=arguments.steps), NoiseStart()),
    )
    ready(stage, seed=4)
    rows, count = Batch(x, torch.arange(len(x))), iter(range(1_000))
    return interleaved((plain, lambda: stage.step(rows, next(count))), arguments.repeats)


def energy_alone(model: Model, arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds of as many values and gradients of the energy as a chain has steps, frozen either way."""
    energy, x = model.energies[0], torch.rand(arguments.batch, *SHAPE) * 2 - 1

    def slopes() -> None:
        for _ in range(arguments.steps):
            energy.value_and_grad(x)

    def plain() -> None:
        with frozen(energy):
            slopes()

    def ours() -> None:
        with frozen_for_chain(energy):
            slopes()

    return interleaved((plain, ours), arguments.repeats)


def sampling(model: Model, arguments: argparse.Namespace) -> list[list[float]]:
    """Seconds of a batch of the generator's samples; without its energy, of which each sample is told."""
    model = Model(model.prior, model.decoder)
    source, settings = torch.Generator().manual_seed(5), SampleSettings(batch=arguments.batch)

    @torch.no_grad()
    def plain() -> Tensor:
        return model.eval().decode(model.noise_layout.draw(arguments.batch, generator=source))

    ways = (plain, lambda: draw_samples(model, settings, arguments.batch, seed=5))
    return interleaved(ways, 10 * arguments.repeats)  # each takes milliseconds


if __name__ == "__main__":
    main()
