"""What an energy adds to its generator: a recipe's numbers with its chains, and of the generator alone.

    GENFW_DATA=... python benchmarks/results/energy_gain.py vaebm-fashion --seeds 3 --only fid ood

The generator alone is the same trained model, sampled without a chain: nothing is trained twice. Numbers that do not
depend on samples (of ``ood``, say) are the same in both columns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from genfw.engine import run as engine
from genfw.engine.finished import evaluate, load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["fid"], help="metrics of the recipe that both are measured by")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A.B=VALUE")
    parser.add_argument("--root", type=Path, default=None, help="keep the runs here")
    parser.add_argument("--smoke", action="store_true", help="make every part tiny, to see that it works")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="genfw-gain-"))
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        began = time.perf_counter()
        run = engine.run(arguments.recipe, root=root, sets=[f"seed={seed}", *arguments.sets], smoke=arguments.smoke)
        composition = load_run(run.directory, device=None)
        composition.sample.sampler, composition.sample.starts = None, []
        alone = evaluate(composition, run.directory / "generator-alone", only=arguments.only)
        names = {result.name for result in alone}
        whole = {result.name: result for result in run.results if result.name in names}
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s, {run.directory}")
        print(f"  {'':36s}{'generator alone':>16s}{'with energy':>14s}")
        for result in alone:
            with_energy = whole[result.name].value if result.name in whole else None
            values = [result.value, with_energy]
            shown = [f"{value:.4f}" if value is not None else "-" for value in values]
            print(f"  {result.name:36s}{shown[0]:>16s}{shown[1]:>14s}", flush=True)


if __name__ == "__main__":
    main()
