"""Langevin, MALA, HMC and ex2 on VAEBM's 25 Gaussians, as kernels of training and of sampling, on one budget.

    python benchmarks/results/chain_comparison.py
    python benchmarks/results/chain_comparison.py --steps 300 --vae-steps 500 --count 500      # to see that it works

The VAE is trained once. From its weights, one energy is trained with each kernel: persistent chains, everything else
the same. Each of the models is then sampled by each kernel. What a chain may spend is counted, not its moves: a
gradient of the tilt costs 1, a tilt alone ``--value`` (a forward pass of a forward and a backward one), so the fresh
draws that ex2 weighs are paid for.

Of a model: its exact log-likelihood in nats, and KL of its own weights of the 25 modes against 1/25 each.

Of sampling: KL of the chains' modes against the model's own, from fresh draws of the VAE and from the middle mode
alone, and how often a chain is seen to change its mode per 100 gradients' cost, in 100 looks. Chains that never change
keep the weights that they began with.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genfw.engine.devices import make_fabric
from genfw.engine.loop import set_up_stage
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces import Sampler
from genfw.models.chains import run_chain
from genfw.models.freezing import frozen_for_chain
from genfw.models.targets import NoiseTarget
from genfw.randomness import derive_seed
from genfw.recipes.compose import Composition, compose
from genfw.recipes.recipe import load_recipe
from genfw.training.loader import Loader
from genfw_plugins import recipes_dir
from genfw_plugins.mcmc.ex2 import Ex2
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.metrics.likelihood.log_likelihood_2d import LogLikelihood2D

KERNELS: dict[str, dict[str, Any]] = {
    "langevin": {"use": "langevin", "step_size": 5e-4},  # the paper's eta = 1e-3
    "mala": {"use": "mala", "step_size": 1e-2},
    "hmc": {"use": "hmc", "step_size": 5e-2, "leapfrog_steps": 5},
    "ex2": {"use": "ex2", "candidates": 8, "local": {"use": "mala", "step_size": 1e-2}},
}
SIDE = 5


def kernel(name: str, steps: int) -> Sampler:
    """The kernel of that name, for sampling."""
    block = {key: value for key, value in KERNELS[name].items() if key != "use"}
    match name:
        case "langevin":
            return Langevin(steps=steps, **block)
        case "mala":
            return MALA(steps=steps, **block)
        case "hmc":
            return HMC(steps=steps, **block)
    return Ex2(candidates=block["candidates"], local=MALA(step_size=block["local"]["step_size"]), steps=steps)


class Counting(NoiseTarget):
    """Counts what is asked of the tilt, in rows."""

    values = gradients = 0

    def tilt(self, position: Tensor) -> Tensor:
        self.values += len(position)
        return super().tilt(position)

    def tilt_and_grad(self, position: Tensor) -> tuple[Tensor, Tensor]:
        before = self.values
        result = super().tilt_and_grad(position)
        self.values = before
        self.gradients += len(position)
        return result

    def cost(self, value: float) -> float:
        return self.gradients + value * self.values


def cost_of_a_move(composition: Composition, name: str, value: float) -> float:
    """Gradients' worth of one move of one chain, beyond the first evaluation."""
    target = Counting(composition.model)
    generator = torch.Generator().manual_seed(0)
    costs = []
    for steps in (1, 11):
        target.values = target.gradients = 0
        run_chain(target, kernel(name, steps), target.draw_base(16, generator), generator=generator)
        costs.append(target.cost(value) / 16)
    return (costs[1] - costs[0]) / 10


def train(composition: Composition, number: int, seed: int) -> float:
    """One stage by itself; the seconds it took."""
    data = composition.data
    assert data is not None
    split = data.split("train")
    stage = set_up_stage(composition, make_fabric(composition.engine), number, len(split))
    loader = Loader(split, stage.batch, derive_seed(seed, "data", number))
    stage.prepare(lambda step: loader.batch_at(step))
    began = time.perf_counter()
    for step, batch in loader.batches(0, stage.steps):
        stage.step(batch, step)
    stage.finish()
    composition.model.eval().requires_grad_(False)
    return time.perf_counter() - began


def modes_of(x: Tensor) -> Tensor:
    """Number of the nearest of the 25 centres."""
    place = (x + (SIDE - 1) / 2).round().clamp(0, SIDE - 1).long()
    return place[:, 0] * SIDE + place[:, 1]


def divergence(weights: Tensor, law: Tensor) -> float:
    q, p = weights / weights.sum(), law / law.sum()
    seen = q > 0
    return float((q[seen] * (q[seen] / p[seen]).log()).sum())


def own_weights(composition: Composition, seed: int, draws: int = 400_000) -> Tensor:
    """The model's weight of each mode, by importance sampling of the VAE's draws; in two dimensions that will do."""
    target = NoiseTarget(composition.model)
    generator = torch.Generator().manual_seed(derive_seed(seed, "own"))
    weights = torch.zeros(SIDE**2, dtype=torch.float64)
    with frozen_for_chain(*target.modules()), torch.no_grad():
        log_weights, modes = [], []
        for _ in range(draws // 20_000):
            position = target.draw_base(20_000, generator)
            log_weights.append(-target.tilt(position).double())
            modes.append(modes_of(target.to_data(position)))
    every = torch.cat(log_weights)
    weights.index_add_(0, torch.cat(modes), (every - every.max()).exp())
    return weights / weights.sum()


def log_likelihood(composition: Composition, folder: Path, count: int) -> float:
    evaluation = Evaluation(composition.model, composition.data, composition.sample, folder, seed=composition.seed)
    metric = LogLikelihood2D(count=count, draws=100_000, grid=401, samples=0)
    return next(float(one.value or math.nan) for one in metric.compute(evaluation) if one.name == "log-likelihood")


def sample(composition: Composition, name: str, steps: int, start: Tensor, seed: int) -> tuple[Tensor, float, float]:
    """Last modes of the chains, changes of mode per chain, and mean acceptance."""
    target = NoiseTarget(composition.model)
    generator = torch.Generator().manual_seed(derive_seed(seed, "sample", name))
    every = max(1, steps // 100)
    chain = run_chain(target, kernel(name, steps), start, generator=generator, keep_every=every)
    with torch.no_grad():
        modes = torch.stack([modes_of(target.to_data(state)) for state in chain.trace])
        last = modes_of(target.to_data(chain.position))
    changes = float((modes[1:] != modes[:-1]).double().sum(0).mean())
    return last, changes, float(chain.acceptance.mean())


def starts(composition: Composition, count: int, seed: int) -> dict[str, Tensor]:
    """Fresh draws of the base, and draws that lie in the middle mode."""
    target = NoiseTarget(composition.model)
    generator = torch.Generator().manual_seed(derive_seed(seed, "starts"))
    with frozen_for_chain(*target.modules()), torch.no_grad():
        position = target.draw_base(40 * count, generator)
        middle = position[modes_of(target.to_data(position)) == SIDE**2 // 2]
    return {"fresh": position[:count], "middle": middle[:count]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae-steps", type=int, default=3500)
    parser.add_argument("--steps", type=int, default=3000, help="steps of the energy")
    parser.add_argument("--budget", type=float, default=10.0, help="gradients' cost of a chain in one training step")
    parser.add_argument("--sample-budget", type=float, default=500.0, help="gradients' cost of a chain in sampling")
    parser.add_argument("--value", type=float, default=0.5, help="cost of a tilt without its gradient")
    parser.add_argument("--count", type=int, default=2000, help="chains in sampling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here")
    arguments = parser.parse_args()
    recipe = load_recipe(recipes_dir() / "vaebm-25gaussians-langevin.yaml", search=[recipes_dir()])

    def composed(name: str, moves: int) -> Composition:
        plain = copy.deepcopy(recipe.plain())
        plain |= {"name": "chain-comparison", "seed": arguments.seed}
        plain["train"][0]["steps"], plain["train"][1]["steps"] = arguments.vae_steps, arguments.steps
        plain["train"][1]["negatives"]["sampler"] = {**KERNELS[name], "steps": moves}
        plain["evaluate"] = []
        return compose(plain)

    first = composed("langevin", 1)
    seconds = train(first, 0, arguments.seed)
    print(f"VAE: {arguments.vae_steps} steps, {seconds:.0f} s")
    weights = copy.deepcopy(first.model.state_dict())
    costs = {name: cost_of_a_move(first, name, arguments.value) for name in KERNELS}
    print("cost of a move: " + ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items()))
    floor = (SIDE**2 - 1) / (2 * arguments.count)
    print(f"KL of {arguments.count} draws of the right law: {floor:.4f}\n")
    rows: list[dict[str, Any]] = []
    print(f"{'trained by':10s}{'moves':>6s}{'nats':>9s}{'KL own':>9s}   {'sampled by':12s}{'moves':>6s}"
          f"{'KL fresh':>10s}{'KL middle':>11s}{'changes/100':>12s}{'accepted':>10s}")  # fmt: skip
    for trained in arguments.kernels:
        moves = max(1, int(arguments.budget / costs[trained]))
        composition = composed(trained, moves)
        composition.model.load_state_dict(weights)
        seconds = train(composition, 1, arguments.seed)
        own = own_weights(composition, arguments.seed)
        with tempfile.TemporaryDirectory() as folder:
            nats = log_likelihood(composition, Path(folder), 10_000)
        row: dict[str, Any] = {"trained": trained, "moves": moves, "nats": nats, "seconds": seconds}
        row["kl_own"] = divergence(own, torch.ones(SIDE**2, dtype=torch.float64))
        head = f"{trained:10s}{moves:6d}{nats:9.3f}{row['kl_own']:9.4f}"
        begins = starts(composition, arguments.count, arguments.seed)
        for sampled in KERNELS:
            count = max(1, int(arguments.sample_budget / costs[sampled]))
            found = {key: sample(composition, sampled, count, start, arguments.seed) for key, start in begins.items()}
            kl = {
                key: divergence(torch.bincount(last, minlength=SIDE**2).double(), own)
                for key, (last, _, _) in found.items()
            }
            rate = 100 * found["fresh"][1] / (count * costs[sampled])
            rows.append(
                {**row, "sampled": sampled, "sample_moves": count, "rate": rate} | {f"kl_{k}": v for k, v in kl.items()}
            )
            print(f"{head:34s}   {sampled:12s}{count:6d}{kl['fresh']:10.4f}{kl['middle']:11.4f}{rate:12.3f}"
                  f"{found['fresh'][2]:10.2f}", flush=True)  # fmt: skip
            head = ""
    if arguments.json is not None:
        content = {"arguments": {key: str(value) for key, value in vars(arguments).items()}, "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
