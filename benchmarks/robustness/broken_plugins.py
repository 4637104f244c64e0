"""Use broken plugins and see whether genfw survives each, and names the component that is broken.

    python benchmarks/robustness/broken_plugins.py --show
    python benchmarks/robustness/broken_plugins.py --only 'energy: forward' --each

Prints one summary line; with ``--show`` each failure. Exits with 1 while there are any: success where a part is broken,
an error that does not name it, one that is called a fault of genfw, a command that a plugin takes along.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

from attempts import Tally, call_genfw, campaign_options, fresh_folder, in_children
from broken_parts import BASES, attempt, table


def main() -> None:
    given = campaign_options(__doc__, "plugins")
    for target in BASES.values():
        __import__(target.partition(":")[0])
    with fresh_folder() as folder:
        for words in (["list"], ["run", "quickstart", "--smoke", "--dir", folder / "warm"]):  # imports are paid here
            call_genfw(*words)
    chosen = [case for case in table() if given.only in case.label and (case.quick or not given.quick)]
    tally = Tally()
    for case, outcome in in_children(chosen, attempt, share=1):
        tally.add(case.label, outcome)
        if given.each or (given.show and not outcome.fine):
            print(f"{outcome.kind:15} {case.label}: {outcome.say[:200]}", flush=True)
    survived = tally.total - tally.failed
    print(f"{survived} of {tally.total} survived with the component named; {tally.summary('broken plugins')}")
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
