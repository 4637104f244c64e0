"""`genfw plan` against the first 100 steps of each stage of a run, extrapolated to the recipe's steps, and its metrics.

python benchmarks/speed/plan_accuracy.py [damc-digits] [vaebm-fashion] [--set data.root=DIR]

Both are in seconds of this process alone (one thread). Others on the machine slow these down too, by sharing its
caches, so the plan is made before the run and again after it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from genfw.engine import plan
from genfw.engine import run as engine
from genfw.engine.plan import Plan, plan_run
from genfw.recipes.compose import compose
from genfw.recipes.recipe import open_recipe
from genfw.training.tracker import Tracker

#: Steps of each stage that are run, and between two readings of the clock.
STEPS, EVERY = 100, 20
#: Overrides of the plan and the run of each recipe, and of the run alone.
SETS = {
    "damc-digits": ([], [f"train.0.steps={STEPS}"]),
    "vaebm-fashion": (["evaluate=[]", "sample.count=1"], [f"vars.nvae.steps={STEPS}", f"vars.energy_steps={STEPS}"]),
}


class Readings(Tracker):
    """Reads the clock at every row, and where stages and the evaluation begin."""

    def __init__(self) -> None:
        self.rows: dict[int, list[tuple[int, float]]] = {}
        self.began: list[float] = []
        self.evaluated = 0.0

    def log(self, row: Mapping[str, Any]) -> None:
        """A row: the stage's step, and the time."""
        self.rows.setdefault(int(row["stage"]), []).append((int(row["step"]), time.process_time()))

    def event(self, kind: str, message: str) -> None:
        """Where a stage begins, and the evaluation."""
        if kind == "stage" and "begins" in message:
            self.began.append(time.process_time())
        elif kind == "evaluate":
            self.evaluated = time.process_time()

    def stage_seconds(self, index: int, steps: int) -> float:
        """A stage's time as it ran up to its first row, and at the pace of its further rows from there on."""
        (first, start), *_, (last, end) = self.rows[index]
        return start - self.began[index] + (end - start) / (last - first) * (steps - first)


def make_plan(name: str, sets: list[str]) -> Plan:
    """The plan, in seconds of this process."""
    plan.clock = time.process_time
    recipe, registry = open_recipe(name, sets=["engine.threads=1", *SETS[name][0], *sets])
    return plan_run(compose(recipe, registry))


def compare(name: str, sets: list[str], again: bool) -> None:
    """Print the planned and the real time of a recipe's stages and evaluation."""
    plans, readings = [make_plan(name, sets)], Readings()
    own = ["engine.threads=1", f"engine.log_every={EVERY}", *SETS[name][0], *SETS[name][1], *sets]
    with tempfile.TemporaryDirectory() as folder:
        engine.run(name, sets=own, trackers=[readings], directory=f"{folder}/run")
        ended = time.process_time()
    if again:
        plans.append(make_plan(name, sets))
    pairs = {
        stage.name: (readings.stage_seconds(index, stage.steps), [one.stages[index].seconds for one in plans])
        for index, stage in enumerate(plans[0].stages)
    }
    if plans[0].metrics:
        pairs["evaluation"] = (ended - readings.evaluated, [one.evaluation_seconds for one in plans])
    pairs["whole run"] = (sum(real for real, _ in pairs.values()), [one.seconds for one in plans])
    for what, (real, planned) in pairs.items():
        errors = " and ".join(f"{guess:.1f} s ({100 * (guess / real - 1):+.0f} %)" for guess in planned)
        print(f"{name}, {what}: took {real:.1f} s, planned {errors}", flush=True)
    for metric in plans[0].metrics:
        print(f"  {metric.name}: {metric.seconds:.1f} s {metric.reason}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--set", action="append", default=[], help="further overrides, such as data.root=DIR")
    parser.add_argument("--once", action="store_true", help="plan before the run alone")
    given = parser.parse_args()
    for chosen in given.recipes:
        compare(chosen, given.set, not given.once)
