"""A run that would blow up: a recipe with a stage's learning rate multiplied, and what the health monitor makes of it.

    python benchmarks/robustness/blow_up.py quickstart --factor 10 100
    python benchmarks/robustness/blow_up.py vaebm-fashion --stage 1 --factor 10 --set 'train.0={use: load, run: RUN}'

Printed for every factor: what the monitor did and why, the step of the weights that evaluation used, and the results;
and beside them those of the same run with the monitor off, where it ends at all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from genfw.engine import run as engine
from genfw.errors import DivergenceError
from genfw.recipes.recipe import open_recipe
from genfw.runs.directory import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--stage", type=int, default=1, help="number of the stage whose rate is multiplied")
    parser.add_argument("--factor", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A.B=VALUE")
    parser.add_argument("--root", type=Path, default=None, help="keep the runs here")
    parser.add_argument("--only-watched", action="store_true", help="leave the runs without monitor out")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="genfw-blow-up-"))
    path = f"train.{arguments.stage}.optimizer.lr"
    node = open_recipe(arguments.recipe, sets=arguments.sets)[0].get(path)
    if node is None:
        parser.error(f"{arguments.recipe} has no {path}")
    for factor in arguments.factor:
        for watched in (True, False)[: 1 if arguments.only_watched else 2]:
            directory = root / f"x{factor:g}-{'watched' if watched else 'unwatched'}"
            rate = float(node.value) * factor  # type: ignore[arg-type]
            sets = [*arguments.sets, f"{path}={rate}", f"health.enabled={str(watched).lower()}"]
            print(f"{path} = {rate:g}, {'watched' if watched else 'nobody watches'}: {directory}")
            try:
                results = engine.run(arguments.recipe, directory=directory, sets=sets).results
            except DivergenceError as error:
                print(f"  ended: {error}")
                results = ()
            show(RunDirectory(directory))
            for result in results:
                if result.value is not None:
                    print(f"  {result.name:32s}{result.value:12.4f}", flush=True)


def show(run: RunDirectory) -> None:
    """What the monitor said, and which weights were left."""
    for line in (run.path / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] in ("rollback", "warning", "stop"):
            print(f"  stage {event.get('stage')} step {event.get('step')}, {event['kind']}: {event['message']}")
    status, best = run.status(), run.checkpoints.find("best")
    ended = f"{status.state} {status.reason}".rstrip()
    print(f"  {ended}; evaluated: stage {best.stage}, step {best.step}", flush=True)


if __name__ == "__main__":
    main()
