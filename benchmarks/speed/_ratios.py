"""Two ways of computing one thing, timed in turn in one process, so that a shared machine's load falls on both; and the
memory of each, in a process of its own.
"""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

__all__ = ["Timed", "agree", "interleaved", "machine", "peak", "peaks", "table"]

Timed = tuple[str, float, float, str]


def agree(what: str, one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    """Stop the benchmark where the two do not compute the same thing."""
    apart = float((one - other).abs().max())
    if not apart <= tolerance:
        raise SystemExit(f"{what}: the two ways differ by {apart:.2e}, more than {tolerance:.0e}; nothing was timed")
    print(f"{what}: equal within {tolerance:.0e} (largest difference {apart:.1e})", flush=True)


def interleaved(ways: Sequence[Callable[[], object]], repeats: int, warm: bool = True) -> list[float]:
    """Median seconds of each way; processor seconds on the CPU, where another process's turn would count otherwise.

    With ``warm`` each way is called once before it counts.
    """
    for way in ways if warm else ():
        way()
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for number, way in enumerate(ways):
            began = _now()
            way()
            seconds[number].append(_now() - began)
    return [statistics.median(each) for each in seconds]


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


def table(rows: Sequence[Timed]) -> None:
    """Print what was measured as a Markdown table."""
    print(f"\n{machine()}\n")
    print("| what | plain, ms | genfw, ms | ratio | settings |\n| --- | --- | --- | --- | --- |")
    for name, plain, ours, settings in rows:
        print(f"| {name} | {1e3 * plain:.1f} | {1e3 * ours:.1f} | {plain / ours:.2f}x | {settings} |")
