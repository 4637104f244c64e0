"""Hand hostile files to every reader that genfw has, each in a process of its own under limits.

    python benchmarks/robustness/hostile_files.py --show
    python benchmarks/robustness/hostile_files.py --only 'image: ' --show

Prints one summary line; with ``--show`` each distinct failure once, with ``--each`` every case. Exits with 1 while
there are failures: code that ran, an exception that is no error of genfw's, a file that should be refused and is not,
more than 2 s or 500 MB.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

import hostile_checkpoints
import hostile_data
import hostile_recipes
import hostile_runs
from attempts import Tally, call_genfw, campaign_options, fresh_folder, in_children
from hostile import attempt


def main() -> None:
    given = campaign_options(__doc__, "cases")
    tally = Tally()
    with fresh_folder() as folder:
        base = hostile_runs.prepare(folder)
        call_genfw("import", "vaebm-energy", "/nowhere")
        found = [
            *hostile_recipes.cases(),
            *hostile_checkpoints.cases(),
            *hostile_data.cases(),
            *hostile_runs.cases(lambda: base),
        ]
        chosen = [case for case in found if given.only in case.name and (case.quick or not given.quick)]
        for case, outcome in in_children(chosen, attempt, share=1):
            tally.add(case.name, outcome)
            if given.each:
                cost = f"{outcome.seconds:6.2f} s {outcome.megabytes:5.0f} MB"
                print(f"{outcome.kind:15} {cost}  {case.name}: {outcome.say[:160]}", flush=True)
    if given.show:
        tally.show()
    print(tally.summary("hostile files", ("executed", "internal error", "accepted", "slow", "large")))
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
