"""`genfw plan` against the time that runs really take: all of damc-digits, and 100 steps of vaebm-fashion's stages.

python benchmarks/speed/plan_accuracy.py [damc-digits] [vaebm-fashion] [--set data.root=DIR]

Both are in seconds of this process alone (one thread), so that others on the machine do not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from genfw.engine import plan
from genfw.engine import run as engine
from genfw.engine.plan import plan_run
from genfw.recipes.compose import compose
from genfw.recipes.recipe import open_recipe

#: Overrides of each recipe.
SETS = {
    "damc-digits": ["engine.threads=1"],
    "vaebm-fashion": ["engine.threads=1", "vars.nvae.steps=100", "vars.energy_steps=100", "evaluate=[]"],
}


def compare(name: str, sets: list[str]) -> None:
    """Print the planned and the real time of a recipe."""
    plan.clock = time.process_time
    recipe, registry = open_recipe(name, sets=[*SETS[name], *sets])
    began = time.process_time()
    planned = plan_run(compose(recipe, registry))
    cost = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        engine.run(recipe, registry=registry, directory=f"{folder}/run")
        real = time.process_time() - began
    error = 100.0 * (planned.seconds / real - 1.0)
    print(f"{name}: planned {planned.seconds:.1f} s in {cost:.1f} s, took {real:.1f} s: {error:+.0f} %", flush=True)
    for stage in planned.stages:
        print(f"  {stage.name}: {stage.steps} x {stage.step_seconds:.4f} s + {stage.setup_seconds:.1f} s")
    for metric in planned.metrics:
        print(f"  {metric.name}: {metric.seconds:.1f} s {metric.reason}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--set", action="append", default=[], help="further overrides, such as data.root=DIR")
    given = parser.parse_args()
    for chosen in given.recipes:
        compare(chosen, given.set)
