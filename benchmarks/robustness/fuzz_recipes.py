"""Mutate the shipped recipes and see what ``genfw check`` makes of each.

    python benchmarks/robustness/fuzz_recipes.py --count 10000 --show
    python benchmarks/robustness/fuzz_recipes.py --replay huge:23

Prints one summary line; with ``--show`` each distinct failure once, with what replays it. Exits with 1 while there are
failures: an exception that is no error of genfw's, a fault without a place, more than 2 s or 500 MB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

from attempts import Tally, in_children
from genfw.plugins import load_plugins
from recipe_mutations import MAIN, MUTATIONS, attempt, mutate, mutations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--kind", choices=[*MUTATIONS, "mixed"], default=None, help="only mutations of this kind")
    parser.add_argument("--compose", action="store_true", help="build what passes the check, as a smoke run does")
    parser.add_argument("--show", action="store_true", help="print each distinct failure once")
    parser.add_argument("--replay", metavar="KIND:SEED", help="print one mutated recipe, and what becomes of it")
    given = parser.parse_args()
    registry = load_plugins(enabled=False)
    if given.replay:
        kind, _, seed = given.replay.partition(":")
        case = mutate(kind, int(seed))
        print(case.files[MAIN].decode("utf-8", "backslashreplace")[:5_000])
        print(
            f"# {case.label}\n# other files {sorted({*case.files} - {MAIN})}, --set {case.sets}, --unset {case.unsets}"
        )
        print(f"# {attempt(case, registry, composed=given.compose)}")
        return
    tally = Tally()
    seeds = range(given.seed, given.seed + given.count)
    cases = (mutate(given.kind, seed) for seed in seeds) if given.kind else mutations(given.count, given.seed)
    for case, found in in_children(cases, lambda one: attempt(one, registry, composed=given.compose)):
        tally.add(case.label, found)
    if given.show:
        tally.show()
    print(tally.summary("mutations", ("internal error", "without position")))
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
