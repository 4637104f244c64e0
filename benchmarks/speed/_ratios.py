"""Two ways of computing one thing, timed in turn in one process, so that a shared machine's load falls on both; and the
memory of each, in a process of its own.

Every script prints its rows as one table. Where ``GENFW_SPEED_ROWS`` names a file, it also appends them there as JSON
lines, from which ``all.py`` makes one table of all scripts.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from genfw.nn.precision import ChainPrecision

__all__ = ["HEAD", "Row", "agree", "interleaved", "machine", "peak", "peaks", "precisions", "row", "table"]


#: Of the table that rows make.
HEAD = (
    "| work | sizes | plain | genfw | ratio | its spread | largest difference |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


class Row(NamedTuple):
    """What was measured of one piece of work; times in seconds, ratios are plain over genfw."""

    what: str
    settings: str
    plain: float
    genfw: float
    ratio: float
    least: float
    most: float
    apart: float | None

    def __str__(self) -> str:
        apart = "" if self.apart is None else f"{self.apart:.0e}"
        spread = f"{self.least:.2f} to {self.most:.2f}"
        cells = self.what, self.settings, _time(self.plain), _time(self.genfw), f"{self.ratio:.2f}", spread, apart
        return f"| {' | '.join(cells)} |"


def row(what: str, settings: str, plain: Sequence[float], genfw: Sequence[float], apart: float | None = None) -> Row:
    """A row of the table, from the seconds of each way round by round.

    Arguments:
        what: The work.
        settings: Its sizes.
        plain: Seconds of the plain way, one number for each round.
        genfw: Seconds of genfw's, of the same rounds.
        apart: Largest difference between what the two compute, where they compute the same.
    """
    ratios = sorted(one / other for one, other in zip(plain, genfw, strict=True))
    medians = statistics.median(plain), statistics.median(genfw)
    return Row(what, settings, *medians, statistics.median(ratios), ratios[0], ratios[-1], apart)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def agree(what: str, one: torch.Tensor, other: torch.Tensor, tolerance: float) -> float:
    """The largest difference; stops the benchmark where the two do not compute the same thing."""
    apart = float((one - other).abs().max())
    if not apart <= tolerance:
        raise SystemExit(f"{what}: the two ways differ by {apart:.2e}, more than {tolerance:.0e}; nothing was timed")
    print(f"{what}: equal within {tolerance:.0e} (largest difference {apart:.1e})", flush=True)
    return apart


def interleaved(ways: Sequence[Callable[[], object]], repeats: int, warm: bool = True) -> list[list[float]]:
    """Seconds of each way in each round; processor seconds on the CPU, where another process's turn would count
    otherwise. Rounds alternate between the two orders.

    With ``warm`` each way is called once before it counts.
    """
    for way in ways if warm else ():
        way()
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats):
        for number, way in list(enumerate(ways))[:: 1 if turn % 2 == 0 else -1]:
            began = _now()
            way()
            seconds[number].append(_now() - began)
    return seconds


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def peak(way: Callable[[], object]) -> float:
    """MiB that a way takes at its worst, beyond what the process had taken before; for a fresh process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    way()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def peaks(ways: Sequence[str]) -> None:
    """Have the calling script measure the peak of each way in a process of its own: it is started with ``--peak WAY``,
    and prints the figure.
    """
    for way in ways:
        out = subprocess.run(
            [sys.executable, *sys.argv, "--peak", way], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        print(f"peak memory, {way}: {float(out):.0f} MiB", flush=True)


def precisions() -> tuple[ChainPrecision, ...]:
    """Precisions of chains and draws to time: bfloat16 where the processor multiplies in it, or ``GENFW_SPEED_BF16`` is
    set. Elsewhere it is emulated, and would tell nothing.
    """
    if torch.cuda.is_available():
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return ("model", "bf16") if supported or "GENFW_SPEED_BF16" in os.environ else ("model",)


def machine() -> str:
    """What the figures were measured on."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
        name = f"{name or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}; {torch.get_num_threads()} thread(s); torch {torch.__version__}"


def table(rows: Sequence[Row]) -> None:
    """Print what was measured as a Markdown table, and leave it for ``all.py`` where that asked for it."""
    print(f"\n{machine()}\n\n{HEAD}", *rows, sep="\n", flush=True)
    if "GENFW_SPEED_ROWS" in os.environ:
        with Path(os.environ["GENFW_SPEED_ROWS"]).open("a") as file:
            file.writelines(json.dumps(each) + "\n" for each in rows)
