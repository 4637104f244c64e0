"""What genfw does on a GPU: recipes, chains as CUDA graphs, precisions, throughput beside plain code, a real training.

    benchmarks/gpu.sh                            # on a machine with a GPU, at most eight minutes
    benchmarks/gpu.sh --device cpu --quick       # small sizes, to try the command itself

It prints a row as soon as it has one, and writes all rows to ``--out`` as JSON. A part that fails is a row that says
why; the others go on. Parts begin only while there is time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from damc_plain import posterior_chain, prior_chain
from damc_speed import SIGMA, STEP, Pair, pair
from torch import Tensor
from vaebm_speed import networks, plain_chain

from genfw.engine.run import run
from genfw.interfaces.target import Target
from genfw.models.chains import run_chain
from genfw.models.recording import Recordings, recorded
from genfw.models.targets import NoiseTarget, PosteriorTarget, PriorTarget
from genfw_plugins.mcmc.langevin import Langevin

Row = dict[str, Any]

#: Seconds after which no further part begins.
BUDGET = 420.0


class Bench:
    """The device, the sizes, and how a piece of work is timed.

    Arguments:
        device: Where everything runs.
        quick: Small sizes, one repeat.
    """

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick
        self.repeats = 1 if quick else 7

    def generator(self) -> torch.Generator:
        """A fresh source of noise, the same each time."""
        return torch.Generator(self.device).manual_seed(1)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, work: Callable[[], object]) -> tuple[float, float]:
        """Median milliseconds of a piece of work after three warm-up calls, and its peak memory in MiB."""
        for _ in range(3):
            work()
        self.synchronise()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            work()
            self.synchronise()
            seconds.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else 0.0
        return round(1e3 * statistics.median(seconds), 3), round(peak, 1)


def recipes(bench: Bench) -> Iterator[Row]:
    """Smoke runs: do the recipes run on this device, in either precision?"""
    names = ["lebm-digits"] if bench.quick else ["lebm-digits", "damc-digits", "vaebm-digits-resnet", "vaebm-cifar10"]
    for name in names:
        for precision in ("32-true", "bf16-mixed"):
            sets = [f"engine.accelerator={bench.device.type}", f"engine.precision={precision}"]
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                result = run(name, root=folder, smoke=True, sets=sets)
            failed = [one.name for one in result.results if one.value is None and "failed" in one.note]
            yield {"recipe": name, "precision": precision, "status": result.status, "failed metrics": failed,
                   "s": round(time.perf_counter() - began, 1)}  # fmt: skip


def _damc(bench: Bench, batch: int) -> Pair:
    both = pair(batch, *((4, 4, 32) if bench.quick else ()))
    for network in (both.model, both.energy, both.decoder):
        network.to(bench.device)
    both.x, both.z = both.x.to(bench.device), both.z.to(bench.device)
    return both


def _chains(bench: Bench) -> Iterator[tuple[str, Target, Tensor, Callable[[], Tensor], float, int]]:
    """The papers' three chains on CIFAR-10: name, target, start, the plain way, step size, steps."""
    prior, posterior = _damc(bench, 8 if bench.quick else 256), _damc(bench, 2 if bench.quick else 128)
    steps = 3 if bench.quick else 30
    yield (
        "LEBM prior", PriorTarget(prior.model), prior.z,
        lambda: prior_chain(prior.energy, prior.z, STEP, 2 * steps, bench.generator()), STEP**2 / 2, 2 * steps,
    )  # fmt: skip
    nets = posterior.energy, posterior.decoder, SIGMA, posterior.x, posterior.z
    yield (
        "DAMC posterior", PosteriorTarget(posterior.model, posterior.x), posterior.z,
        lambda: posterior_chain(*nets, STEP, steps, bench.generator()), STEP**2 / 2, steps,
    )  # fmt: skip
    channels, groups, width = (4, 2, 0.0625) if bench.quick else (32, 8, 1.0)
    model = networks(channels, groups, width).to(bench.device)
    start = model.noise_layout.draw(2 if bench.quick else 32, generator=bench.generator())
    moves = 2 if bench.quick else 10
    yield (
        "VAEBM", NoiseTarget(model), start,
        lambda: plain_chain(model, start, moves, bench.generator(), False, 4e-5), 4e-5, moves,
    )  # fmt: skip


def chains(bench: Bench) -> Iterator[Row]:
    """Chains step by step, as one CUDA graph (equal bit for bit), and plainly written with the same noise."""
    for name, target, start, plain, step_size, steps in _chains(bench):
        kernel = Langevin(step_size=step_size, steps=steps)

        def ours(target: Target = target, kernel: Langevin = kernel, start: Tensor = start) -> Tensor:
            return run_chain(target, kernel, start, generator=bench.generator(), end_potential=False).position

        row: Row = {"chain": name, "batch": len(start), "steps": steps}
        row["eager ms"], row["eager MiB"] = bench.time(ours)
        row["plain ms"], row["plain MiB"] = bench.time(plain)
        row["difference to plain"] = float((ours() - plain()).abs().max())
        row["images/s"] = round(1e3 * len(start) / row["eager ms"], 1)
        if bench.device.type == "cuda":
            eager, recordings = ours(), Recordings()
            with recorded(recordings):
                row["captured ms"], row["captured MiB"] = bench.time(ours)
                row["captured equals eager"] = torch.equal(ours(), eager)
            row["replays"] = recordings.replays
            row["eager/captured"] = round(row["eager ms"] / row["captured ms"], 2)
        row["plain/genfw"] = round(row["plain ms"] / row.get("captured ms", row["eager ms"]), 2)
        yield row


def precisions(bench: Bench) -> Iterator[Row]:
    """One update of VAEBM's energy in float32, TF32 and bf16-mixed."""
    model = networks(4, 1, 0.0625 if bench.quick else 1.0).to(bench.device)
    x = torch.rand(4 if bench.quick else 64, 3, 32, 32, device=bench.device) * 2 - 1
    weights = list(model.energies.parameters())
    model.energies.train()

    def update(half: bool) -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=half):
            loss = model.data_energy(x).mean()
        torch.autograd.grad(loss, weights)
        return loss.detach()

    plain = update(False)
    for name in ("float32", "tf32", "bf16-mixed"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        half = name == "bf16-mixed"
        took, peak = bench.time(lambda half=half: update(half))
        apart = float((update(half) - plain).abs())
        row: Row = {"update of the energy": name, "batch": len(x), "ms": took, "MiB": peak}
        yield row | {"images/s": round(1e3 * len(x) / took, 1), "apart from float32": apart}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def training(bench: Bench) -> Iterator[Row]:
    """LEBM on the digits, really trained: FID in features of a classifier of them, after one step and at the end."""
    for steps in (1, 20 if bench.quick else 2_000):
        count = 1_000 if bench.quick else 2_000  # KID takes at least 1,000
        sets = [f"engine.accelerator={bench.device.type}", f"train.0.steps={steps}"]
        sets += [f"evaluate.{number}.samples={count}" for number in range(1, 5)]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            result = run("lebm-digits-fidelity", root=folder, sets=sets)
        numbers = {one.name: one.value for one in result.results if one.name in ("fid", "kid")}
        yield {"training of lebm-digits": f"{steps} steps", **numbers, "s": round(time.perf_counter() - began, 1)}


PARTS = {"chains": chains, "precisions": precisions, "recipes": recipes, "training": training}


def main() -> None:
    """Run the parts; print and write their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --device cpu --quick tries the command without one")
    began, bench = time.monotonic(), Bench(given.device, given.quick)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "quick": given.quick, "rows": []}
    print(f"# {name}, torch {torch.__version__}")

    def keep(part: str, row: Row) -> None:
        found["rows"].append({"part": part, **row})
        print(f"{part:<10} | {' | '.join(f'{key}: {value}' for key, value in row.items())}", flush=True)
        given.out.write_text(json.dumps(found, indent=1))

    for part in given.parts:
        if time.monotonic() - began > BUDGET:
            keep(part, {"left out": "no time left"})
            continue
        try:
            for row in PARTS[part](bench):
                keep(part, row)
        except Exception as error:
            keep(part, {"failed": f"{type(error).__name__}: {error}"})
    if any("failed" in row for row in found["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
