"""Fill the disk at many moments of a small run, resume it with room, and compare its end with a run that had room.

    python benchmarks/robustness/disk_full.py --moments 30
    python benchmarks/robustness/disk_full.py --how size --show

A disk is filled in three ways: ``disk`` is a file system of a few pages (root alone can mount one); ``size`` is a limit
on the size of a file; ``open`` refuses every file that is opened for writing from the k-th on. Prints one line a way
and a summary; exits with 1 unless every error names a file and is no fault of genfw's, and every resumed run ends
equal, bit for bit.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from kill_resume import differences, outcome

from attempts import Outcome, Tally, call_genfw, in_children, judge_call, judge_error

RECIPE = """
genfw: 1
name: small
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [16], sigma: 0.2}
encoder: {use: mlp, hidden: [16]}
energy: {use: mlp, on: data, hidden: [16]}
train:
  - {use: elbo, steps: 20, batch: 16, optimizer: {use: adam, lr: 1e-3}}
  - use: contrastive
    steps: 10
    batch: 16
    optimizer: {use: adam, lr: 1e-3}
    negatives: {sampler: {use: langevin, step_size: 1e-3, steps: 2}, start: {use: replay, size: 32}}
sample: {count: 16}
evaluate: [{use: reconstruction}]
engine: {log_every: 2, checkpoint_every: 5, accelerator: cpu, threads: 1}
"""


def _nothing(moment: int, run: Path) -> None:
    """There is room."""


def _limit_size(moment: int, run: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (moment, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _refuse_opening(moment: int, run: Path) -> None:
    """ENOSPC for every file below the run's folder that is opened for writing, from this one on. A hook can't be taken
    out again, so this is for a process that ends.
    """
    left = moment

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event != "open" or not isinstance(arguments[0], str) or not arguments[0].startswith(str(run.parent)):
            return
        if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(hook)


#: Way -> what to do in the process before it runs.
WAYS: dict[str, Callable[[int, Path], None]] = {"disk": _nothing, "size": _limit_size, "open": _refuse_opening}


@contextmanager
def place(folder: Path, way: str, moment: int) -> Iterator[Path]:
    """A folder for one run; a file system of its own for the way ``disk``."""
    mount = folder / f"{way}-{moment}"
    mount.mkdir()
    if way != "disk":
        yield mount / "run"
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={moment}", "none", str(mount)], check=True)
    try:
        yield mount / "run"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def make_room(run: Path, way: str) -> None:
    """Undo what has filled the disk; the other ways ended with their process."""
    if way == "disk":
        subprocess.run(["mount", "-o", "remount,size=1g", str(run.parent)], check=True)


def can_mount() -> bool:
    """Whether a small file system can be had here."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
    return done.returncode == 0


def _run(recipe: Path, run: Path, way: str, moment: int) -> Outcome:
    """Run while the disk is full; the error has to name a file of the run."""
    WAYS[way](moment, run)
    called = call_genfw("run", recipe, "--dir", run, "--no-plugins")
    found = judge_call(called)
    if found.kind != "refused":
        # A page that was not written, or a picture, need not end a run; it ends well only where it says so.
        unsaid = found.kind == "ok" and not (run / "report.html").exists() and "was not written" not in called.err
        return Outcome("accepted", "no report, and not a word") if unsaid else found
    error = "".join(line for line in called.err.splitlines(keepends=True) if not line.startswith("stage "))
    last = re.split("^error:", error, flags=re.MULTILINE)[-1]  # a library's own words may say "error:" too
    return found if str(run) in last or run.name in last.split() else Outcome("unnamed", last.strip()[:200])


def _resume(recipe: Path, run: Path) -> Outcome:
    """Go on with room; begin anew where not even the recipe was written."""
    begun = (run / "resolved.yaml").is_file()
    words = ("resume", run) if begun else ("run", recipe, "--dir", run)
    found = judge_call(call_genfw(*words, "--no-plugins"))
    return found if found.kind == "ok" else Outcome("no resume", found.say)


def _alone(attempt: Callable[[], Outcome]) -> Outcome:
    """In a process of its own: a limit can't be taken back, and a killed process costs nothing."""

    def judged(_: int) -> Outcome:
        try:
            return attempt()
        except BaseException as error:
            return judge_error(error)

    ((_, found),) = in_children([0], judged, hard=200.0)
    return found


def campaign(folder: Path, way: str, moments: list[int], recipe: Path, expected: dict[str, Any], tally: Tally) -> None:
    for moment in moments:
        with place(folder, way, moment) as run:
            first = _alone(lambda run=run, moment=moment: _run(recipe, run, way, moment))
            tally.add(f"{way} at {moment}", first)
            make_room(run, way)
            second = _alone(lambda run=run: _resume(recipe, run))
            wrong = differences(expected, outcome(run)) if second.fine else []
            if wrong:
                second = Outcome("different", f"differs in {', '.join(sorted(wrong)[:5])}")
            tally.add(f"{way} at {moment}, resumed", second)


def moments_of(way: str, count: int, straight: Path) -> list[int]:
    """When to fill the disk: sizes in bytes, or numbers of a file, over all that a run writes."""
    files = [path for path in straight.rglob("*") if path.is_file()]
    if way == "open":
        return sorted({round(number * 90 / count) for number in range(count)})
    most = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
    if way == "disk":
        return sorted({4096 * max(1, round((number + 1) * most / count / 4096)) for number in range(count)})
    largest = max(path.stat().st_size for path in files)
    return sorted({round(largest ** ((number + 1) / count)) for number in range(count)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=30, help="moments for each way")
    parser.add_argument("--how", choices=list(WAYS), default=None, help="this way alone")
    parser.add_argument("--show", action="store_true", help="print each distinct failure once")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    warnings.simplefilter("ignore")
    total = Tally()
    with tempfile.TemporaryDirectory(prefix="disk-full-") as name:
        folder = Path(name)
        recipe, straight = folder / "small.yaml", folder / "straight"
        recipe.write_text(RECIPE)
        called = call_genfw("run", recipe, "--dir", straight, "--no-plugins")
        if called.code:
            sys.exit(called.err)
        expected = outcome(straight)
        for way in [given.how] if given.how else list(WAYS):
            if way == "disk" and not can_mount():
                print("disk: left out, no file system can be mounted here", flush=True)
                continue
            tally = Tally()
            campaign(folder, way, moments_of(way, given.moments, straight), recipe, expected, tally)
            if given.show:
                tally.show()
            said = tally.summary("runs and resumes", ("internal error", "unnamed", "different"))
            print(f"{way}: {said.rpartition(', worst time')[0]}", flush=True)
            for kind, count in tally.counts.items():
                total.counts[kind] = total.counts.get(kind, 0) + count
    kinds = ("internal error", "unnamed", "no resume", "different")
    print(total.summary("runs and resumes", kinds).rpartition(", worst time")[0])
    sys.exit(1 if total.failed else 0)


if __name__ == "__main__":
    main()
