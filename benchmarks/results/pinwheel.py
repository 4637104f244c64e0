"""DAMC's pinwheel experiment (App. E.1) over several random likelihoods: how far the amortizer is from long chains.

    python benchmarks/results/pinwheel.py --seeds 3
    python benchmarks/results/pinwheel.py --seeds 3 --paper   # the paper's kernel: plain Langevin, T = 50, s = 0.1
    python benchmarks/results/pinwheel.py --seeds 3 --recipe damc-pinwheel-paper
    python benchmarks/results/pinwheel.py --seeds 1 --set train.0.steps=3_000
    # Go on from a run:
    python benchmarks/results/pinwheel.py --seeds 1 --set 'train.0={use: load, run: RUN, parts: [amortizer]}'

Each seed is another likelihood network, another amortizer, other data. The first table gives sliced Wasserstein
distances from the recipe's reference, over the noise floor; "|x" compares 500 draws for each of some x, the others
one draw for each of many. The second holds everything against the posterior computed on a grid, which is exact:
distances again, and the share of draws that lie in an arm to which the posterior gives less than 2 %. Long Langevin
chains from noise, the paper's ground truth, are among them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from genfw import Model, run_chain
from genfw.engine import run as engine
from genfw.engine.finished import load_run
from genfw.interfaces import Dataset, Sampler
from genfw.models.distances import directions, sliced_wasserstein
from genfw.models.targets import PosteriorTarget
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA

PAPER = "train.0.sampler={use: langevin, step_size: 5e-3, steps: 50, clip: 100.0}"
SETS = ("amortizer", "refined", "short-run", "untrained")


class Grid:
    """The exact posterior of a two-dimensional latent, cell by cell.

    Arguments:
        model: The model; its latent is the noise.
        law: The pinwheel.
        side: Cells along each axis.
        reach: The window reaches from minus to plus this.
    """

    def __init__(self, model: Model, law: Dataset, side: int = 200, reach: float = 4.5) -> None:
        self.cell = 2 * reach / side
        axis = torch.linspace(-reach + self.cell / 2, reach - self.cell / 2, side)
        points = torch.cartesian_prod(axis, axis)
        log_prior = law.log_prob(points)
        assert log_prior is not None
        seen = log_prior > log_prior.max() - 16.0
        self.points, self.log_prior = points[seen], log_prior[seen]
        with torch.no_grad():
            self.mean = model.likelihood(model.latent(self.points)).mean
        self.sigma = float(model.decoder.sigma)  # type: ignore[union-attr,arg-type]
        self.arm = arm(self.points, law)

    def draw(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One draw for each x (B, 2), and the probability of the second arm (B,)."""
        drawn, share = [], []
        for rows in x.split(500):
            weight = torch.softmax(self.log_prior - 0.5 * torch.cdist(rows, self.mean).square() / self.sigma**2, 1)
            share.append(weight @ self.arm)
            total = weight.cumsum(1)
            picked = torch.searchsorted(total / total[:, -1:], torch.rand(len(rows), 1, generator=generator))
            place = self.points[picked[:, 0].clamp(max=len(self.points) - 1)]
            drawn.append(place + self.cell * (torch.rand(place.shape, generator=generator) - 0.5))
        return torch.cat(drawn), torch.cat(share)


def arm(z: Tensor, law: Dataset) -> Tensor:
    """1 where the second of two arms is nearer: the first coordinate, untwisted, says which."""
    point = z / law.scale  # type: ignore[attr-defined]
    twist = law.rate * point.norm(dim=1).exp()  # type: ignore[attr-defined]
    second: Tensor = twist.cos() * point[:, 0] + twist.sin() * point[:, 1] < 0
    return second.float()


def against_the_grid(directory: Path, count: int, seed: int) -> None:
    """Print how far each way of drawing is from the exact posterior."""
    composition = load_run(directory)
    model, data = composition.model, composition.data
    assert data is not None
    assert model.amortizer is not None
    law: Dataset = data.law  # type: ignore[attr-defined]
    x, _ = data.split("test").get(torch.arange(count))
    generator = torch.Generator().manual_seed(seed)
    grid, along = Grid(model, law), directions(2, 128, generator)
    truth, share = grid.draw(x, generator)
    other, _ = grid.draw(x, generator)
    floor = float(sliced_wasserstein(truth, other, along, order=1))
    target = PosteriorTarget(model, x)
    noise = target.draw_base(count, generator)
    kernels: dict[str, Sampler] = {
        "ex2 from noise, 60 rounds": Ex2(candidates=8, local=MALA(step_size=2e-2), local_steps=2, steps=60),
        "Langevin from noise, 50 steps": Langevin(step_size=5e-3, steps=50, clip=100.0),
        "Langevin from noise, 1,000 steps": Langevin(step_size=5e-3, steps=1_000, clip=100.0),
    }
    sets = {"amortizer": model.amortizer.sample_given(x, generator=generator)}
    for name, kernel in kernels.items():
        sets[name] = run_chain(target, kernel, noise, generator=generator).position
    split = float(((share > 0.02) & (share < 0.98)).float().mean())
    print(
        f"  the posterior on a grid: floor {floor:.4f}; both arms hold more than 2 % for {100 * split:.0f} % of the x"
    )
    for name, drawn in sets.items():
        apart = sum(float(sliced_wasserstein(drawn, one, along, order=1)) for one in (truth, other)) / 2 / floor
        wrong = 100 * float(((arm(drawn, law) - share).abs() > 0.98).float().mean())
        print(f"  {name:34s}{apart:8.2f} x floor{wrong:8.1f} % in the wrong arm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--recipe", default="damc-pinwheel")
    parser.add_argument("--paper", action="store_true", help="train with the paper's kernel")
    parser.add_argument("--grid", type=int, default=2_000, help="rows held against the exact posterior; 0 for none")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A.B=VALUE")
    parser.add_argument("--root", type=Path, default=None, help="keep the runs here")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="genfw-pinwheel-"))
    table: list[list[float]] = []
    heads = ["floor", *SETS, "floor|x", *(f"{name}|x" for name in SETS)]
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        began = time.perf_counter()
        sets = [f"seed={seed}", f"data.seed={seed}", *arguments.sets]
        if arguments.paper:
            sets.append(PAPER)
        result = engine.run(arguments.recipe, root=root, sets=sets)
        seconds = time.perf_counter() - began
        found = {one.name: math.nan if one.value is None else one.value for one in result.results}
        names = [f"sliced-wasserstein-{name}{end}" for end in ("", "-given-x") for name in ("floor", *SETS)]
        table.append([found.get(name, math.nan) for name in names])
        print(f"seed {seed}, {seconds:.0f} s, {result.directory}", flush=True)
        print("  " + "  ".join(f"{head} {value:.3g}" for head, value in zip(heads, table[-1], strict=True)), flush=True)
        gap = found.get("energy-gap-amortizer", math.nan)
        print(f"  energy gap of the amortizer {gap:+.3f} nats; mmd {found.get('mmd-amortizer', math.nan):.2f} x floor")
        if arguments.grid:
            against_the_grid(result.directory, arguments.grid, seed)
    print("\nsliced Wasserstein from the reference, in multiples of the floor (floors themselves in units of z)")
    print("".join(f"{head:>14s}" for head in heads))
    for row in table:
        print("".join(f"{value:14.3f}" for value in row))
    print("".join(f"{max(column):14.3f}" for column in zip(*table, strict=True)) + "   the worst")


if __name__ == "__main__":
    main()
