"""Every speed benchmark one after the other, as one table: plain, genfw, ratio, spread, agreement.

    OMP_NUM_THREADS=1 python benchmarks/speed/all.py --quick      # small batches, few repeats: about ten minutes
    OMP_NUM_THREADS=1 python benchmarks/speed/all.py

Each script runs in a process of its own. A script that fails is named, and the others go on. Ratios are plain over
genfw, so above 1 genfw is the faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _ratios import HEAD, Row, machine

#: What is run, with its arguments in full and in a hurry.
SCRIPTS = (
    ("damc_speed.py", "prior amortizer", "prior amortizer --repeats 1"),
    ("damc_speed.py", "posterior --batch 8", "posterior --batch 2 --steps 5 --repeats 2"),
    ("damc_speed.py", "iteration --batch 4", "iteration --batch 1 --repeats 1"),
    ("damc_speed.py", "lebm --batch 32", "lebm --batch 8 --repeats 2"),
    ("convolution_speed.py", "", "--batch 2 --repeats 3"),
    ("vaebm_speed.py", "--batch 4", "--batch 1 --steps 3 --repeats 2"),
    ("training_speed.py", "overhead nvae", "overhead nvae --batch 2 --repeats 2"),
    ("checkpoint_speed.py", "", "--mebibytes 64 --repeats 2"),
    ("stylegan_speed.py", "", "--side 64 --channels 128 --repeats 2"),
)


def main() -> int:
    """Run them all; the number of scripts that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, few repeats")
    parser.add_argument("--json", type=Path, help="write the rows there too, with the processor's name")
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        for script, full, quick in SCRIPTS:
            arguments = (quick if given.quick else full).split()
            command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
            done = subprocess.run(command, env={**os.environ, "GENFW_SPEED_ROWS": str(rows)}, check=False)
            if done.returncode:
                failed.append(f"{script} {' '.join(arguments)}")
        found = [Row(*json.loads(line)) for line in rows.read_text().splitlines()]
    print(f"\n{machine()}\n\n{HEAD}", *found, *(f"failed: {each}" for each in failed), sep="\n")
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine(), "rows": [row._asdict() for row in found]}, indent=1))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
