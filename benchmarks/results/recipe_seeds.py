"""Run a recipe under several seeds and print what it measured: mean, spread, and the worst.

    python benchmarks/results/recipe_seeds.py quickstart --seeds 5
    python benchmarks/results/recipe_seeds.py vaebm-25gaussians-langevin --seeds 3 \
        --set 'evaluate=[{use: log-likelihood-2d}]'

The health monitor's interventions are counted: a seed that was rolled back did not just "work".
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

from genfw.engine import run as engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A.B=VALUE")
    parser.add_argument("--root", type=Path, default=None, help="keep the runs here")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="genfw-seeds-"))
    table: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        began = time.perf_counter()
        result = engine.run(arguments.recipe, root=root, sets=[f"seed={seed}", *arguments.sets])
        seconds = time.perf_counter() - began
        events = result.directory / "events.jsonl"
        told = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
        rollbacks = sum(event.get("kind") == "rollback" for event in told)
        numbers = {one.name: one.value for one in result.results if one.value is not None}
        numbers |= {"seconds": seconds, "rollbacks": float(rollbacks)}
        for name, value in numbers.items():
            table.setdefault(name, []).append(value)
        print(f"seed {seed}: " + "  ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)
    print(f"\n{'':28s}{'mean':>12s}{'std':>12s}{'min':>12s}{'max':>12s}   over {arguments.seeds} seeds")
    for name, values in table.items():
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))
        print(f"{name:28s}{mean:12.4f}{spread:12.4f}{min(values):12.4f}{max(values):12.4f}")


if __name__ == "__main__":
    main()
