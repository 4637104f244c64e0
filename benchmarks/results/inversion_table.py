"""GAN inversion in small (DAMC, Table 2): every row on one generator, with the errors of held-out images.

    GENFW_DATA=... python benchmarks/results/inversion_table.py
    python benchmarks/results/inversion_table.py --rows damc lebm-4x --generator runs/inversion-mnist-opt/...

The row ``opt`` trains the generator, the others load it from its run. The rows ``lebm-2x`` and ``lebm-4x`` are the
trained model of ``lebm-1x`` with more moves of the optimiser, so they load that. Processor time is that of the row's
own run: training of what the row needs beyond the generator, and inversion.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from genfw.engine import run as engine

ROWS = ("opt", "encoder", "lebm-1x", "lebm-2x", "lebm-4x", "damc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--generator", type=Path, help="run of the row 'opt', where there is one already")
    parser.add_argument("--lebm", type=Path, help="run of the row 'lebm-1x', where there is one already")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A.B=VALUE")
    parser.add_argument("--root", type=Path, default=None, help="keep the runs here")
    parser.add_argument("--smoke", action="store_true", help="make every part tiny, to see that it works")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="genfw-inversion-"))
    runs = {"opt": arguments.generator, "lebm-1x": arguments.lebm}
    for row in ROWS:
        if row not in arguments.rows and not (row == "opt" and runs["opt"] is None):
            continue
        sets = list(arguments.sets)
        if row != "opt":
            sets.append(f"vars.gan={{use: load, run: {runs['opt']}, parts: [prior, decoder]}}")
        if row in ("lebm-2x", "lebm-4x") and runs["lebm-1x"] is not None:
            sets.append(f"train=[{{use: load, run: {runs['lebm-1x']}}}]")
        began, clock = time.process_time(), time.perf_counter()
        run = engine.run(f"inversion-mnist-{row}", root=root, sets=sets, smoke=arguments.smoke)
        runs.setdefault(row, None)
        runs[row] = runs[row] or run.directory
        seconds = f"{time.process_time() - began:.0f} s of processor, {time.perf_counter() - clock:.0f} s of time"
        numbers = "  ".join(f"{one.name} {one.value:.5f}" for one in run.results if one.value is not None)
        failed = "; ".join(f"{one.name}: {one.note}" for one in run.results if one.value is None and one.note)
        print(f"{row:8s} ({seconds}): {numbers} {failed}\n         {run.directory}", flush=True)


if __name__ == "__main__":
    main()
