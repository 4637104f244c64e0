"""What a sweep's runs are executed by: a pool of processes on this machine, or submitit's jobs on a cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import attrs
import torch

from genfw.engine.devices import usable_cores
from genfw.engine.job import Job
from genfw.errors import RunError
from genfw.runs.lock import is_held
from genfw.runs.sweep import Sweep, SweepRun

#: Program of a run on this machine; its last argument is a :class:`~genfw.engine.job.Job` as JSON.
COMMAND = (sys.executable, "-m", "genfw.engine.job")
#: How often a run is begun or gone on with in one call, where its process was killed.
_ATTEMPTS = 3
#: States of a SLURM job that has ended.
_ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def default_jobs() -> int:
    """Runs at a time on this machine: one per GPU, or one per core that this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return usable_cores()


class LocalPool:
    """A process for each run; each writes what it says to ``logs/``.

    Arguments:
        sweep: The sweep.
        runs: Those of its runs to execute.
        jobs: Most processes at a time; by default one per GPU, or one per core where there is none.
    """

    def __init__(self, sweep: Sweep, runs: Sequence[SweepRun], jobs: int | None = None) -> None:
        self.sweep, jobs = sweep, jobs or default_jobs()
        (sweep.path / "logs").mkdir(exist_ok=True)
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._slots: SimpleQueue[dict[str, str]] = SimpleQueue()
        for slot in range(jobs):
            self._slots.put(_share(slot, jobs))
        self._threads = ThreadPoolExecutor(jobs)
        self._futures = [self._threads.submit(self._run, run) for run in runs]

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in list(self._processes):
            process.terminate()  # it saves its state first
        self._threads.shutdown(wait=True)

    def busy(self) -> bool:
        """Whether there is anything left to do; raises what a thread raised."""
        done = [future for future in self._futures if future.done()]
        for future in done:
            future.result()
        return len(done) < len(self._futures)

    def _run(self, run: SweepRun) -> None:
        environment = self._slots.get()
        try:
            for _ in range(_ATTEMPTS):
                while is_held(self.sweep.path / run.name):  # by a process of an earlier call that was killed itself
                    if self._stopping.wait(1.0):
                        return
                if self._stopping.is_set() or self.sweep.directory(run).status().state == "finished":
                    return
                # A negative code is a signal's: the process was killed, and another one goes on.
                if self._attempt(run, environment) >= 0:
                    return
        finally:
            self._slots.put(environment)

    def _attempt(self, run: SweepRun, environment: Mapping[str, str]) -> int:
        job = Job(str(self.sweep.path / run.name), run.plugins)
        with open(self.sweep.path / "logs" / f"{run.name}.log", "ab") as log:
            process = subprocess.Popen(
                [*COMMAND, json.dumps(attrs.asdict(job))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                # Ctrl-C reaches this process alone, which then asks each run once to save and stop.
                start_new_session=True,
            )
        self._processes.add(process)
        try:
            if self._stopping.is_set():  # it came between the question and the start
                process.terminate()
            return process.wait()
        finally:
            self._processes.discard(process)


def _share(slot: int, jobs: int) -> dict[str, str]:
    """Environment of the runs in one of several slots: a share of the cores, and of the GPUs."""
    environment = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, default_jobs() // jobs) if not torch.cuda.is_available() else 1)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = named.split(",") if named else [str(index) for index in range(count)]
        size = max(1, count // jobs)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[(slot * size + k) % count] for k in range(size))
    return environment


class Cluster:
    """Jobs that submitit submits; on SLURM they go on without this process.

    Arguments:
        sweep: The sweep.
        runs: Those of its runs to execute. One whose job is queued is not submitted again.
        cluster: ``slurm``, or ``submitit`` for submitit's processes on this machine.
        jobs: Most jobs at a time.
        options: See :func:`slurm_options`.
    """

    def __init__(
        self,
        sweep: Sweep,
        runs: Sequence[SweepRun],
        cluster: str,
        jobs: int | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise RunError("--on slurm takes submitit: pip install 'genfw[slurm]'") from error
        self.sweep, self.slurm = sweep, cluster == "slurm"
        folder = sweep.path / "submitit"
        if self.slurm:
            self._executor = _slurm_executor(submitit, folder, options or {})
            limit = {} if jobs is None else {"array_parallelism": jobs}
            self._executor.update_parameters(job_name=sweep.path.name, **limit)
        else:
            self._executor = submitit.LocalExecutor(folder)
            self._executor.update_parameters(timeout_min=60 * 24 * 7)
        #: Jobs to submit at a time: SLURM has a queue, this machine has none.
        self._limit = len(runs) if self.slurm else jobs or default_jobs()
        self._handles: dict[str, Any] = {}
        self._attempts: Counter[str] = Counter()
        queued = _queued([run.job for run in runs if run.job]) if self.slurm else set()
        self._attempts.update(run.name for run in runs if run.job in queued)
        self._waiting = {run.name for run in runs}
        self._submit([run for run in runs if run.job not in queued])

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.slurm:
            for handle in self._handles.values():
                handle.cancel()

    def busy(self) -> bool:
        """Whether there is anything left to do; submits a run again where its job died."""
        current = [run for run in self.sweep.runs if run.name in self._waiting]
        alive = self._alive(current)
        dead = []
        for run in current:
            state = self.sweep.directory(run).status().state
            if run.name in alive or state == "running":  # a dead job's run is "running" until its lock expires
                continue
            attempts = self._attempts[run.name]
            if attempts == 0 or (state in ("killed", "waiting") and attempts < _ATTEMPTS):
                dead.append(run)
            else:
                self._waiting.discard(run.name)
        self._submit(dead)
        return bool(self._waiting)

    def _alive(self, runs: Sequence[SweepRun]) -> set[str]:
        if self.slurm:
            queued = _queued([run.job for run in runs])
            return {run.name for run in runs if run.job in queued}
        handles = {run.name: self._handles[run.name] for run in runs if run.name in self._handles}
        return {name for name, handle in handles.items() if not handle.done()}

    def _submit(self, runs: Sequence[SweepRun]) -> None:
        """Submit runs, as many as the limit leaves room for; the others are asked for again."""
        alive = sum(not handle.done() for handle in self._handles.values()) if not self.slurm else 0
        runs = runs[: self._limit - alive]
        if not runs:
            return
        with self._executor.batch():
            handles = [self._executor.submit(Job(str(self.sweep.path / run.name), run.plugins)) for run in runs]
        self._handles |= {run.name: handle for run, handle in zip(runs, handles, strict=True)}
        self._attempts.update(run.name for run in runs)
        numbers = {run.name: str(self._handles[run.name].job_id) for run in runs}
        self.sweep.runs = [attrs.evolve(run, job=numbers.get(run.name, run.job)) for run in self.sweep.runs]
        self.sweep.save()


def _queued(jobs: Sequence[str]) -> set[str]:
    """Those of some jobs that SLURM has not ended, says squeue: sacct needs accounting, which a cluster may lack."""
    if not jobs:
        return set()
    numbers = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    command = ["squeue", "--noheader", "--array", "--states=all", "--jobs", numbers, "--format=%i %T"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode and "Invalid job id" not in said.stderr:
        raise RunError(f"squeue failed: {said.stderr.strip()}")
    found = dict(line.split(maxsplit=1) for line in said.stdout.splitlines() if line.strip())
    return {job for job, state in found.items() if state not in _ENDED} & set(jobs)


def _slurm_executor(submitit: Any, folder: Path, options: Mapping[str, str]) -> Any:
    if submitit.SlurmExecutor.affinity() < 0:
        raise RunError("--on slurm needs SLURM's commands, and there is no srun here")
    executor = submitit.SlurmExecutor(folder)
    try:
        executor.update_parameters(**slurm_options(options))
    except (TypeError, ValueError) as error:
        raise RunError(f"--slurm: {error}") from error
    return executor


def slurm_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Options of ``--slurm`` as submitit takes them.

    Arguments:
        options: Names of sbatch's options, with ``-`` or ``_``, and their values; ``time`` in minutes or as SLURM
            writes it, such as ``2-00`` or ``8:00:00``.
    """
    given: dict[str, Any] = {name.replace("-", "_"): value for name, value in options.items()}
    for name, value in given.items():
        if name == "time":
            given[name] = _minutes(value)
        elif re.fullmatch(r"\d+", value):
            given[name] = int(value)
    return {"time": 60 * 24, **given}


def _minutes(text: str) -> int:
    """Minutes of ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` and ``D-H:M:S``."""
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        if dash:
            hours, minutes, *_ = [*parts, 0, 0]
        else:
            hours, minutes = (parts[0], parts[1]) if len(parts) == 3 else (0, parts[0])
        return (int(days or 0) * 24 + hours) * 60 + minutes
    except (ValueError, IndexError) as error:
        raise RunError(f"--slurm time={text} is no time of SLURM's, such as 90, 8:00:00 or 2-00") from error
