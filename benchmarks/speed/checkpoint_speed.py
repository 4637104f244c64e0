"""A checkpoint beside `torch.save` of the same state, both flushed to the disk: what the training waits for, and all.

    OMP_NUM_THREADS=1 python benchmarks/speed/checkpoint_speed.py [--mebibytes 256] [--repeats 5]

The training waits for the copy to host memory alone; a thread writes, hashes and renames. Seconds are of the calling
thread's processor for the wait, and of the whole process otherwise, so waiting for a disk counts for neither.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from _ratios import interleaved, row, table

from genfw.engine.background import Background
from genfw.runs.checkpoints import Checkpoints
from genfw.runs.files import sync_file


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the state")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    # Weights and two moments of layers of a mebibyte each.
    state = {f"layer{index}": torch.randn(512, 512) for index in range(given.mebibytes)}
    waits: list[float] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        store, background, plain_file = Checkpoints(Path(folder) / "checkpoints"), Background(1), Path(folder) / "plain"

        def plain() -> None:
            torch.save(state, plain_file)
            sync_file(plain_file)

        def at_once() -> None:
            store.save(state, stage=0, step=0)

        def in_the_background() -> None:
            began = time.thread_time()
            background.do(store.prepare(state, stage=0, step=1))
            waits.append(time.thread_time() - began)
            background.settle()

        bare, whole, _ = interleaved((plain, at_once, in_the_background), given.repeats)
    size = f"{given.mebibytes} MiB"
    table([row("checkpoint, all", size, bare, whole), row("checkpoint, the training's wait", size, bare, waits[1:])])


if __name__ == "__main__":
    main()
