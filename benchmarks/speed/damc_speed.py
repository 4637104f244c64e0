"""genfw beside the plain form of the same update (``damc_plain.py``): DAMC's chains, amortizer and whole iteration.

    OMP_NUM_THREADS=1 python benchmarks/speed/damc_speed.py prior amortizer quality
    OMP_NUM_THREADS=1 python benchmarks/speed/damc_speed.py posterior --batch 8 --repeats 3
    OMP_NUM_THREADS=1 python benchmarks/speed/damc_speed.py iteration --batch 8 --repeats 2
    OMP_NUM_THREADS=1 python benchmarks/speed/damc_speed.py lebm --batch 32
    OMP_NUM_THREADS=1 python benchmarks/speed/damc_speed.py posterior --batch 16 --steps 3 --memory

The networks are those of the paper on CIFAR-10 (latent of 128 numbers, decoder of width 128, encoder of width 64);
``lebm`` has SVHN's (latent of 100 numbers, decoder of width 64). Both ways get the same weights and the same noise, and
must end in the same place before anything is timed. Where the processor multiplies in bfloat16, genfw is timed in it
too, against the plain way in fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import damc_plain as plain
import torch
from _models import ready, rounded
from _ratios import Row, agree, interleaved, peak, peaks, precisions, row, table
from torch import Tensor, nn

from genfw.interfaces.values import Batch
from genfw.models.chains import Chain, run_chain
from genfw.models.compiling import CompiledChains, compiled
from genfw.models.distances import directions, sliced_wasserstein
from genfw.models.model import Model
from genfw.models.targets import PosteriorTarget, PriorTarget
from genfw.nn.precision import ChainPrecision
from genfw.training.updater import Clip
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan.decoder import DCGANDecoder
from genfw_plugins.dcgan.encoder import DCGANEncoder
from genfw_plugins.ddpm.amortizer import DDPM
from genfw_plugins.ddpm.published import convert
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.amortizer import AmortizerStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.mlp_energy.energy import MLPEnergy
from genfw_plugins.training.alternating import Alternating, Amortize
from genfw_plugins.training.optimizers import Adam, AdamW

SIZE, SIGMA, STEP = 128, 0.1, 0.1
FAST = 15  # evaluations of DPM-Solver++
#: How far ends of chains may lie apart. In bfloat16 a gradient is off by some percent.
TOLERANCE: dict[ChainPrecision, float] = {"model": 1e-4, "bf16": 0.1}


def generator(seed: int = 1) -> torch.Generator:
    """A fresh source of noise, the same for both ways."""
    return torch.Generator().manual_seed(seed)


@dataclass
class Pair:
    """The same model twice."""

    model: Model
    energy: nn.Module
    decoder: nn.Module
    amortizer: plain.Diffusion
    x: Tensor
    z: Tensor

    @property
    def ours(self) -> DDPM:
        """genfw's amortizer."""
        assert isinstance(self.model.amortizer, DDPM)
        return self.model.amortizer


def pair(batch: int, width: int = 128, embedding_width: int = 64, embedding: int = 1024) -> Pair:
    """Networks of the paper's sizes, with the same random weights on both sides."""
    torch.manual_seed(0)
    prior = StandardNormal(SIZE)
    layout, shape = Model(prior).latent_layout, (3, 32, 32)
    decoder = DCGANDecoder(shape, layout, architecture="cifar10", width=width, sigma=SIGMA)
    energy = MLPEnergy(latent_layout=layout, on="latent", activation="leaky-relu")
    described = DCGANEncoder(shape, architecture="cifar10", width=embedding_width, embedding=embedding)
    amortizer = DDPM(layout, shape, described)
    net = plain.encoder(3, 32, embedding_width, (1, 2, 4, 8), embedding)
    theirs = Pair(
        Model(prior, decoder, energy=energy, amortizer=amortizer),
        plain.energy(SIZE),
        plain.decoder(SIZE, 3, width, 8, (8, 4, 2)),
        plain.Diffusion(SIZE, net, embedding, (128, 256, 256)),
        torch.rand(batch, *shape, generator=generator(2)) * 2 - 1,
        torch.randn(batch, SIZE, generator=generator(3)),
    )
    copied(energy, theirs.energy)
    copied(decoder, theirs.decoder)
    amortizer.load_state_dict(convert(theirs.amortizer.state_dict()))
    return theirs


@torch.no_grad()
def copied(ours: nn.Module, theirs: nn.Module) -> None:
    """Give genfw's network the weights of the plain one."""
    for mine, his in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.copy_(his)


def named(what: str, precision: str) -> str:
    """A row's name."""
    return what if precision == "model" else f"{what}, bf16"


def prior_chains(both: Pair, steps: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Chains of the latent prior."""
    target, sampler = PriorTarget(both.model), Langevin(step_size=STEP**2 / 2, steps=steps)
    return (
        lambda: plain.prior_chain(both.energy, both.z, STEP, steps, generator()),
        lambda: run_chain(target, sampler, both.z, generator=generator(), end_potential=False).position,
    )


def posterior_chains(both: Pair, steps: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Chains of the posterior."""
    target, sampler = PosteriorTarget(both.model, both.x), Langevin(step_size=STEP**2 / 2, steps=steps)
    nets = both.energy, both.decoder, SIGMA
    return (
        lambda: plain.posterior_chain(*nets, both.x, both.z, STEP, steps, generator()),
        lambda: run_chain(target, sampler, both.z, generator=generator(), end_potential=False).position,
    )


def check_amortizer() -> float:
    """In double precision: an untrained network of these phases carries rounding on to the second digit."""
    torch.set_default_dtype(torch.float64)
    try:
        small = pair(4, width=2, embedding_width=4, embedding=32)
        return agree(
            "amortizer, 100 steps, float64",
            small.amortizer.sample(small.x, 100, generator()),
            small.ours.sample_given(small.x, generator=generator()),
            1e-4,
        )
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def solver(amortizer: DDPM, name: str, steps: int) -> Iterator[None]:
    """The amortizer with another walk."""
    before = amortizer.solver, amortizer.steps, amortizer._log_snr
    amortizer.solver, amortizer.steps = name, steps  # type: ignore[assignment]
    amortizer._log_snr = amortizer._ratios = amortizer.schedule.grid(steps, even=name != "ancestral")
    try:
        yield
    finally:
        amortizer.solver, amortizer.steps, amortizer._log_snr = before
        amortizer._ratios = amortizer._log_snr


def prior(arguments: argparse.Namespace) -> list[Row]:
    """Prior chain, 60 steps."""
    both = pair(256, width=2, embedding_width=4, embedding=32)
    ways = prior_chains(both, 60)
    apart = agree("prior chain", ways[0](), ways[1](), 1e-4)
    rows = [row("DAMC prior chain", "batch 256, 60 steps", *interleaved(ways, 5 * arguments.repeats), apart)]
    for batch in (256, 32):
        both.z, chains = both.z[:batch], CompiledChains()
        _, eager = prior_chains(both, 60)

        def fused(chains: CompiledChains = chains, eager: Callable[[], Tensor] = eager) -> Tensor:
            with compiled(chains):
                return eager()

        apart = agree("prior chain, compiled", eager(), fused(), 1e-4)
        seconds = interleaved((eager, fused), 5 * arguments.repeats)
        rows.append(row("the same with engine.compile; plain is genfw without", f"batch {batch}", *seconds, apart))
    return rows


def posterior(arguments: argparse.Namespace) -> list[Row]:
    """Posterior chain, 30 steps."""
    small = pair(4, width=8, embedding_width=4, embedding=32)
    ways = posterior_chains(small, 30)
    agree("posterior chain, 30 steps, width 8", ways[0](), ways[1](), 1e-4)
    both, rows = pair(arguments.batch), []
    for precision in precisions():
        with rounded(precision, both.model.decoder, both.ours):
            short = posterior_chains(both, 2)
            apart = agree("posterior chain, 2 steps, width 128", short[0](), short[1](), TOLERANCE[precision])
            seconds = interleaved(posterior_chains(both, arguments.steps), arguments.repeats, warm=False)
        sizes = f"batch {arguments.batch}, {arguments.steps} steps, width 128"
        rows.append(row(named("DAMC posterior chain", precision), sizes, *seconds, apart))
    return rows


def amortizer(arguments: argparse.Namespace) -> list[Row]:
    """Draws given images, and the walk without the image's embedding."""
    apart = check_amortizer()
    both, rows = pair(64, width=2), []
    embedded = both.ours.encoder.embed(both.x).detach()
    for name, steps, precision in (
        (*walk, precision) for walk in (("ancestral", 100), ("dpm-solver", FAST)) for precision in precisions()
    ):
        with solver(both.ours, name, steps), rounded(precision, both.model.decoder, both.ours):
            seconds = interleaved(
                (
                    lambda: both.amortizer.sample(both.x, 100, generator()),
                    lambda: both.ours.sample_given(both.x, generator=generator()),
                    lambda: both.amortizer.draw(embedded, 100, generator()),
                    lambda: both.ours._walk(64, embedded, None, generator()),
                ),
                arguments.repeats,
            )
        sizes = f"batch 64; plain: 100 steps; genfw: {steps}"
        same = apart if (name, precision) == ("ancestral", "model") else None
        rows.append(row(named(f"DAMC amortizer, {name}", precision), sizes, *seconds[:2], same))
        rows.append(row(named(f"the same without embedding x, {name}", precision), sizes, *seconds[2:], same))
    return rows


def quality(arguments: argparse.Namespace) -> list[Row]:
    """What fewer steps cost: a small amortizer of a mixture, sliced Wasserstein between equal draws, several seeds."""
    torch.manual_seed(0)
    size, draws, seeds = 8, 3000, 3
    prior = StandardNormal(size)
    centres = 0.8 * torch.randn(6, size, generator=generator(4))

    def truth(count: int, source: torch.Generator) -> Tensor:
        which = torch.randint(6, (count,), generator=source)
        return centres[which] + 0.3 * torch.randn(count, size, generator=source)

    learned = DDPM(Model(prior).latent_layout, (2,), MLPEncoder(prior, (2,)), widths=(64, 128, 128), time_features=32)
    optimizer = torch.optim.AdamW(learned.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.train)
    source = generator(5)
    for _ in range(arguments.train):
        optimizer.zero_grad()
        learned.loss(truth(128, source), None, generator=source).mean().backward()
        optimizer.step()
        scheduler.step()
    learned.eval()
    along = directions(size, 100, generator(6))

    def drawn(name: str, steps: int, seed: int) -> Tensor:
        with solver(learned, name, steps):
            return learned.sample(draws, generator=generator(seed))

    reference, exact = drawn("ancestral", 100, 7), truth(draws, generator(8))
    print(f"\n| {draws} draws, {size}-d mixture, {seeds} seeds | to 100 ancestral steps | to the truth |")
    print("| --- | --- | --- |")
    print(f"| the truth | | {_to([exact], [truth(draws, generator(seed)) for seed in range(20, 20 + seeds)], along)} |")
    walks = [("ancestral", 100), ("ancestral", 25), ("ddim", 25), ("dpm-solver", 25), ("dpm-solver", FAST)]
    for name, steps in (*walks, ("dpm-solver", 10)):
        sets = [drawn(name, steps, seed) for seed in range(20, 20 + seeds)]
        print(f"| {name}, {steps} steps | {_to([reference], sets, along)} | {_to([exact], sets, along)} |", flush=True)
    return []


def _to(a: Sequence[Tensor], b: Sequence[Tensor], along: Tensor) -> str:
    """Mean and spread of the distances between sets."""
    apart = torch.stack([sliced_wasserstein(one, other, along) for one in a for other in b])
    return f"{float(apart.mean()):.4f} ± {float(apart.std()):.4f}"


def iteration(arguments: argparse.Namespace) -> list[Row]:
    """Listing 2 whole: draws, both chains, six updates of the amortizer, one of decoder and energy."""
    return [_iteration(arguments, precision) for precision in precisions()]


def _iteration(arguments: argparse.Namespace, precision: ChainPrecision) -> Row:
    both, batch = pair(arguments.batch), arguments.batch
    ours, optimizer = both.ours, {"lr": 2e-4, "betas": (0.5, 0.999)}
    stage = Alternating(
        model=both.model,
        steps=1000,
        batch=batch,
        optimizer=Adam(**optimizer),
        energy_optimizer=Adam(**{**optimizer, "lr": 1e-4}),
        clip=Clip(norm=100.0),
        posterior=Chain(Langevin(step_size=STEP**2 / 2, steps=30), AmortizerStart(amortizer=ours, ema=0.005, every=10)),
        prior=Chain(Langevin(step_size=STEP**2 / 2, steps=60), NoiseStart(), count=2 * batch),
        share_start=True,
        amortize=Amortize(optimizer=AdamW(**optimizer, weight_decay=1e-4), updates=6, clip=Clip(norm=100.0)),
    )
    ready(stage)
    theirs = plain.Iteration(both.energy, both.decoder, both.amortizer, SIGMA)
    source, rows = generator(), Batch(both.x, torch.arange(batch))
    count = iter(range(1000))
    ways = (lambda: theirs.step(both.x, 100, 30, 60, source), lambda: stage.step(rows, next(count)))
    with rounded(precision, both.model.decoder, both.ours):
        seconds = interleaved(ways, arguments.repeats, warm=False)
    return row(named("DAMC whole iteration", precision), f"batch {batch}, 100 + 30 + 60 steps, 6 updates", *seconds)


def lebm(arguments: argparse.Namespace) -> list[Row]:
    """LEBM's update on SVHN: both chains from noise, one update of decoder and energy."""
    return [_lebm(arguments, precision) for precision in precisions()]


def _lebm(arguments: argparse.Namespace, precision: ChainPrecision) -> Row:
    torch.manual_seed(0)
    size, batch, shape = 100, arguments.batch, (3, 32, 32)
    prior = StandardNormal(size)
    layout = Model(prior).latent_layout
    decoder = DCGANDecoder(shape, layout, architecture="svhn", width=64, sigma=SIGMA)
    energy = MLPEnergy(latent_layout=layout, on="latent", activation="leaky-relu")
    model = Model(prior, decoder, energy=energy)
    theirs = plain.LEBM(plain.energy(size), plain.decoder(size, 3, 64, 4, (8, 4, 2), doubles=True), SIGMA)
    copied(energy, theirs.E)
    copied(decoder, theirs.G)
    x, z = torch.rand(batch, *shape, generator=generator(2)) * 2 - 1, torch.randn(batch, size, generator=generator(3))
    nets, langevin = (theirs.E, theirs.G, SIGMA), Langevin(step_size=STEP**2 / 2, steps=2)
    ends = run_chain(PosteriorTarget(model, x), langevin, z, generator=generator()).position
    agree("LEBM's posterior, 2 steps", plain.posterior_chain(*nets, x, z, STEP, 2, generator()), ends, 1e-4)
    stage = Alternating(
        model=model,
        steps=1000,
        batch=batch,
        optimizer=Adam(lr=1e-4, betas=(0.5, 0.999)),
        energy_optimizer=Adam(lr=2e-5, betas=(0.5, 0.999)),
        clip=Clip(norm=100.0),
        posterior=Chain(Langevin(step_size=STEP**2 / 2, steps=20), NoiseStart()),
        prior=Chain(Langevin(step_size=0.4**2 / 2, steps=60), NoiseStart()),
    )
    ready(stage)
    source, rows, count = generator(), Batch(x, torch.arange(batch)), iter(range(1000))
    ways = (lambda: theirs.step(x, size, 20, 60, source), lambda: stage.step(rows, next(count)))
    with rounded(precision, decoder):
        seconds = interleaved(ways, arguments.repeats, warm=False)
    return row(named("LEBM whole iteration, SVHN", precision), f"batch {batch}, 20 + 60 steps", *seconds)


PARTS = {
    "prior": prior,
    "posterior": posterior,
    "amortizer": amortizer,
    "quality": quality,
    "iteration": iteration,
    "lebm": lebm,
}


def main() -> None:
    """Time what is asked for, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--batch", type=int, default=8, help="of the posterior chain and the whole iterations")
    parser.add_argument("--steps", type=int, default=30, help="of the posterior chain")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", type=int, default=1500, help="steps of the small amortizer that quality looks at")
    parser.add_argument("--memory", action="store_true", help="peak memory of the posterior chain instead of time")
    parser.add_argument("--peak", choices=("plain", "genfw"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak is not None:
        plainly, ours = posterior_chains(pair(arguments.batch), arguments.steps)
        print(peak(plainly if arguments.peak == "plain" else ours))
        return
    if arguments.memory:
        peaks(("plain", "genfw"))
        return
    rows = [row for part in arguments.parts for row in PARTS[part](arguments)]
    if rows:
        table(rows)


if __name__ == "__main__":
    main()
