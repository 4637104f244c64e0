"""Sabotage small trainings and see whether any ends as if all were well, with numbers that are none.

    python benchmarks/robustness/sabotage.py --show
    python benchmarks/robustness/sabotage.py --only 'health off' --each

Learning rates, step sizes, scales and data are made absurd, with the health monitor on, off and only warning. A run may
end with an error, or with exit code 6; where it ends with 0, its rows, weights, samples and measured numbers are read
again. Prints one summary line, and exits with 1 unless all of them are finite, or marked as failed or doubtful.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

import attrs
import numpy as np
import torch
from safetensors.torch import load_file

from attempts import Outcome, Tally, call_genfw, campaign_options, fresh_folder, in_children, judge_call, judge_error
from genfw.runs.directory import RunDirectory

_HEAD = """
genfw: 1
name: sabotaged
data: {use: gaussian-grid, train: 500, test: 100}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [16], sigma: 0.2}
engine: {log_every: 5, checkpoint_every: 10, accelerator: cpu, threads: 1}
"""
#: Name -> a small recipe.
RECIPES = {
    "vaebm": _HEAD
    + """
encoder: {use: mlp, hidden: [16]}
energy: {use: mlp, on: data, hidden: [16]}
train:
  - {use: elbo, steps: 30, batch: 32, optimizer: {use: adam, lr: 1e-3}}
  - use: contrastive
    steps: 30
    batch: 32
    optimizer: {use: adam, lr: 1e-3}
    negatives: {sampler: {use: langevin, step_size: 1e-3, steps: 5}, start: {use: replay, size: 64}}
sample: {count: 32, sampler: {use: langevin, step_size: 1e-3, steps: 20}}
evaluate:
  - {use: reconstruction, count: 50}
  - {use: chain-diagnostics, chains: 4, steps: 40}
""",
    "lebm": _HEAD
    + """
energy: {use: mlp, on: latent, hidden: [16]}
train:
  - use: alternating
    steps: 30
    batch: 32
    optimizer: {use: adam, lr: 1e-3}
    energy_optimizer: {use: adam, lr: 1e-3}
    prior: {sampler: {use: langevin, step_size: 1e-2, steps: 5}, start: {use: noise}}
    posterior: {sampler: {use: langevin, step_size: 1e-3, steps: 5}, start: {use: noise}}
sample: {count: 32, space: prior, sampler: {use: langevin, step_size: 1e-2, steps: 20}}
evaluate:
  - {use: chain-diagnostics, chains: 4, steps: 40}
""",
    "data": """
genfw: 1
name: sabotaged
data: {use: gaussian-grid, train: 500, test: 100}
energy: {use: mlp, on: data, hidden: [16]}
train:
  - use: contrastive
    space: data
    steps: 30
    batch: 32
    optimizer: {use: adam, lr: 1e-3}
    negatives: {sampler: {use: langevin, step_size: 1e-2, steps: 5}, start: {use: replay, size: 64}}
sample: {count: 32, space: data, sampler: {use: langevin, step_size: 1e-2, steps: 20}}
evaluate:
  - {use: chain-diagnostics, chains: 4, steps: 40}
engine: {log_every: 5, checkpoint_every: 10, accelerator: cpu, threads: 1}
""",
}
_TRAIN = {"vaebm": "train.1.negatives", "lebm": "train.0.prior", "data": "train.0.negatives"}
_LR = {"vaebm": "train.1.optimizer.lr", "lebm": "train.0.energy_optimizer.lr", "data": "train.0.optimizer.lr"}
#: Name -> what is set in every recipe; ``LR`` and ``CHAIN`` stand for the recipe's own places.
SETS: dict[str, list[str]] = {
    "nothing": [],
    "lr 1e2": ["LR=1e2"],
    "lr 1e10": ["LR=1e10"],
    "lr 1e14": ["LR=1e14"],
    "training step_size 1e4": ["CHAIN.sampler.step_size=1e4"],
    "training step_size 1e14": ["CHAIN.sampler.step_size=1e14"],
    "sampling step_size 1e4": ["sample.sampler.step_size=1e4"],
    "sampling step_size 1e14": ["sample.sampler.step_size=1e14"],
    "sampling step_size 1e14, no metric": ["sample.sampler.step_size=1e14", "evaluate=[]"],
    "lr and step_size": ["LR=1e6", "CHAIN.sampler.step_size=1e6", "sample.sampler.step_size=1e6"],
    "a sampler that rejects all": ["sample.sampler={use: mala, step_size: 1e12, steps: 20, adapt: false}"],
}
#: What one recipe alone allows.
MORE: dict[str, dict[str, list[str]]] = {
    "vaebm": {
        "first lr 1e14": ["train.0.optimizer.lr=1e14"],
        "sigma 1e-15": ["decoder.sigma=1e-15"],
        "sgd of lr 1e10": ["train.1.optimizer={use: sgd, lr: 1e10}"],
        "weight_decay 1e12": ["train.0.optimizer={use: adamw, lr: 1e-3, weight_decay: 1e12}"],
    },
    "lebm": {
        "generator lr 1e14": ["train.0.optimizer.lr=1e14"],
        "sigma 1e-15": ["decoder.sigma=1e-15"],
        "posterior step_size 1e10": ["train.0.posterior.sampler.step_size=1e10"],
    },
    "data": {
        "sgd of lr 1e10": ["train.0.optimizer={use: sgd, lr: 1e10}"],
        "huge data": ["data={use: tensor-file, file: huge.npz, shape: [2]}"],
        "constant data": ["data={use: tensor-file, file: constant.npz, shape: [2]}"],
    },
}
HEALTH = {
    "health on": [],
    "health off": ["health.enabled=false"],
    "only warned": ["health.action=warn"],
}


@attrs.frozen
class Sabotage:
    """One sabotaged training."""

    label: str
    recipe: str
    sets: tuple[str, ...]


def cases() -> Iterator[Sabotage]:
    """All sabotaged trainings."""
    for recipe in RECIPES:
        for name, sets in (SETS | MORE[recipe]).items():
            for health, more in HEALTH.items():
                if health == "only warned" and not name.startswith(("lr", "training")):
                    continue
                placed = [s.replace("LR", _LR[recipe]).replace("CHAIN", _TRAIN[recipe]) for s in (*sets, *more)]
                yield Sabotage(f"{recipe}: {name}, {health}", RECIPES[recipe], tuple(placed))


def attempt(case: Sabotage) -> Outcome:
    """Run it in this process, which should be a child."""

    def run() -> Outcome:
        called = call_genfw("run", "r.yaml", "--dir", "out", *[w for s in case.sets for w in ("--set", s)])
        found = judge_call(called)
        if called.code == 0 and found.fine:
            wrong = not_finite(RunDirectory("out"))
            return Outcome("wrong", f"exit 0, and not finite: {wrong}") if wrong else found
        return found

    with fresh_folder() as folder:
        os.chdir(folder)
        (folder / "r.yaml").write_text(case.recipe)
        rows = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
        np.savez(folder / "huge.npz", train=rows * 1e30)
        np.savez(folder / "constant.npz", train=np.ones_like(rows))
        try:
            return run()
        except BaseException as error:
            return judge_error(error)
        finally:
            os.chdir("/")


def not_finite(run: RunDirectory) -> str:
    """Where a run has numbers that are none and are not marked; empty where it has no such numbers."""
    weights = run.checkpoints.load(run.checkpoints.find("best"))["model"]
    places = [f"weights {name}" for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    for path in run.samples.rglob("*.safetensors"):
        places += [
            f"samples {name}" for name, value in load_file(path).items() if not bool(torch.isfinite(value).all())
        ]
    places += [f"row {row['step']} {key}" for row in run.read_metrics() for key, value in row.items() if value is None]
    for record in json.loads(run.evaluation.read_text())["results"]:
        if record["value"] is None and not record["doubt"] and not record["figures"]:
            places.append(f"result {record['name']}")
    return ", ".join(places[:3])


def main() -> None:
    given = campaign_options(__doc__, "trainings")
    with fresh_folder() as folder:
        call_genfw("run", "quickstart", "--smoke", "--dir", folder / "warm")  # imports are paid here
    tally, ended = Tally(), 0
    for case, outcome in in_children([case for case in cases() if given.only in case.label], attempt, share=1):
        tally.add(case.label, outcome)
        ended += outcome.kind == "ok"
        if given.each or (given.show and not outcome.fine):
            print(f"{outcome.kind:15} {case.label}: {outcome.say[-250:]}", flush=True)
    print(f"{ended} ended with exit 0, all their numbers finite; {tally.summary('sabotaged trainings', ('wrong',))}")
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
