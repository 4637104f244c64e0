"""Kill a run at random moments, resume it each time, and compare its end with that of a run that was left alone.

    python benchmarks/robustness/kill_resume.py quickstart --kills 20 --set train.0.steps=300 --set train.1.steps=200

Prints one line per kill, and exits with 1 unless every tensor of the final state, every logged row and every measured
number is equal, bit for bit. Where a run is finished before all kills are done, the next one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from genfw.engine import run as engine
from genfw.runs.directory import RunDirectory


def child(recipe: str, path: Path, sets: list[str]) -> int:
    """Run, or go on, in a forked process: the imports are paid once, and a kill hits a whole process."""
    if not (path / "resolved.yaml").exists():
        shutil.rmtree(path, ignore_errors=True)
    pid = os.fork()
    if pid:
        return pid
    try:
        if (path / "resolved.yaml").exists():
            engine.resume(path)
        else:
            engine.run(recipe, directory=path, sets=sets)
    except BaseException as error:
        print(f"the run failed: {error!r}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def finish(recipe: str, path: Path, sets: list[str]) -> float:
    began = time.perf_counter()
    if os.waitpid(child(recipe, path, sets), 0)[1]:
        sys.exit("the run failed; see above")
    return time.perf_counter() - began


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        return {prefix: tree}
    return {path: leaf for key, item in items for path, leaf in leaves(item, f"{prefix}/{key}").items()}


def outcome(path: Path) -> dict[str, Any]:
    """Everything that must not depend on kills; times and speeds must not be compared."""
    run = RunDirectory.open(path)
    found = run.checkpoints.find("best")
    rows = [{key: value for key, value in row.items() if key != "time"} for row in run.read_metrics()]
    numbers = json.loads(run.evaluation.read_text())["results"] if run.evaluation.exists() else []
    values = {
        one["name"]: one["value"] for one in numbers if "speed" not in one["name"] and "second" not in one["unit"]
    }
    return {**leaves(run.checkpoints.load(found), "state"), **leaves(rows, "rows"), **leaves(values, "evaluation")}


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)

    return [
        path
        for path in left.keys() | right.keys()
        if path not in left or path not in right or not same(left[path], right[path])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--directory", type=Path, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    chance = random.Random(seed)
    folder = given.directory or Path(tempfile.mkdtemp(prefix="kill-resume-"))
    sets = ["engine.accelerator=cpu", *given.sets]
    seconds = finish(given.recipe, folder / "straight", sets)
    expected = outcome(folder / "straight")
    print(f"recipe {given.recipe}, {given.kills} kills, seed {seed}; left alone it takes {seconds:.1f} s; {folder}")
    print(f"{'kill':>4} {'run':>3} {'after s':>8}  {'died in':24} {'at step':>7}  last checkpoint")
    number, kills, wrong = 0, 0, 0
    while kills < given.kills:
        path, number = folder / f"killed-{number}", number + 1
        done = False
        while not done:
            after = chance.uniform(0.0, seconds / 3) if kills < given.kills else None
            pid = child(given.recipe, path, sets)
            if after is None:
                done = os.waitpid(pid, 0)[1] == 0
                break
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
            code = os.waitpid(pid, 0)[1]
            if not os.WIFSIGNALED(code):
                done = code == 0
                break
            kills += 1
            if not (path / "resolved.yaml").exists():
                print(f"{kills:4} {number:3} {after:8.2f}  {'before it began':24}")
                continue
            run = RunDirectory.open(path)
            status, saved = run.status(), run.checkpoints.all()
            where = status.stage or "start"
            print(
                f"{kills:4} {number:3} {after:8.2f}  {where:24} {status.step:7}  {saved[-1].name if saved else '-'}",
                flush=True,
            )
        found = differences(expected, outcome(path)) if done else ["the resumed run failed"]
        wrong += bool(found)
        print(
            f"     run {number}: {'equal, bit for bit' if not found else 'DIFFERS in ' + ', '.join(sorted(found)[:5])}",
            flush=True,
        )
    print(f"{len(expected)} values compared per run; {number} run(s), {kills} kills, {wrong} run(s) differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
