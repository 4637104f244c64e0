"""Start and end the worker processes of a run on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

from genfw.engine.cluster import found_outside
from genfw.engine.devices import first_device, make_fabric, muted, release
from genfw.errors import BrokenPartError, LostProcessError, RunError
from genfw.training.settings import EngineSettings


class WorkerProcesses:
    """The workers of a run on this machine, each ``python -m genfw.engine.worker``, started and ended by torch.

    This process has rank 0, whatever program it is (a script, the command line, a notebook). No script is run twice.

    Arguments:
        world: Count of processes, including this one.
        store: Where the processes meet; this process holds it.
        order: What the workers do; see :func:`genfw.engine.worker.main`.
    """

    def __init__(self, world: int, store: TCPStore, order: Mapping[str, Any]) -> None:
        self.store, self.world, self._logs = store, world, tempfile.mkdtemp(prefix="genfw-")
        order = {**order, "world": world, "port": store.port}
        words = [("-m", "genfw.engine.worker", json.dumps({**order, "rank": rank})) for rank in range(1, world)]
        path = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        # In the main thread torch would replace this process's handlers of signals.
        with _quiet_torch(), ThreadPoolExecutor(1) as thread:
            self._context = thread.submit(
                start_processes,
                "genfw",
                sys.executable,
                dict(enumerate(words)),
                dict.fromkeys(range(world - 1), path),
                DefaultLogsSpecs(self._logs),
            ).result()

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Workers end with this process by themselves; after a failure they may wait for a message for ever.
        with _quiet_torch():
            self._context.wait(timeout=30 if kind is None else 2, period=0.1)
            self._context.close(getattr(signal, "SIGKILL", None))
        shutil.rmtree(self._logs, ignore_errors=True)

    def pids(self) -> list[int]:
        """Numbers of the workers."""
        return list(self._context.pids().values())

    def wait_until_ready(self) -> None:
        """Wait until all workers have composed their model; a barrier could not report a missing one.

        Raises:
            RunError: A worker has failed.
        """
        while self.store.add("ready", 0) < self.world - 1:
            self.check()
            time.sleep(0.05)

    def check(self, patience: float = 0.0) -> None:
        """Raise an error if workers have failed; torch then ends the others.

        Arguments:
            patience: Seconds to wait for the first failure: a connection breaks before its process has ended.

        Raises:
            RunError: Workers have failed.
        """
        end = time.monotonic() + patience
        with _quiet_torch():
            while (result := self._context.wait(timeout=0)) is None and time.monotonic() < end:
                time.sleep(0.05)
        if result is not None and result.failures:
            first = min(result.failures.values(), key=lambda failure: failure.timestamp)
            raise RunError(
                f"a worker, one of {self.world} processes, failed with exit code {first.exitcode}; its messages are "
                "above"
            )


def _quiet_torch() -> contextlib.AbstractContextManager[None]:
    """torch logs what :meth:`WorkerProcesses.check` raises, and that it leaves signals alone."""
    return muted("torch.distributed.elastic.multiprocessing.api", logging.CRITICAL)


@contextlib.contextmanager
def launched(
    settings: EngineSettings,
    directory: Path,
    world: int,
    *,
    task: Literal["run", "evaluate"] = "run",
    checkpoint: str | None = None,
    plugins: Sequence[str] = (),
) -> Iterator[Fabric]:
    """Inside the block this process is one of several: the first, which starts its workers, or one that something else
    started.

    Arguments:
        settings: The recipe's ``engine:`` section.
        directory: The run directory.
        world: Count of processes; ignored where something else started the processes.
        task: ``run`` to train and then to evaluate, or ``evaluate``.
        checkpoint: Name of the checkpoint to resume from.
        plugins: Files of local plugins.

    Raises:
        RunError: A worker has failed, or there are too few devices.
    """
    if world == 1 or found_outside() is not None:
        try:
            yield make_fabric(settings)
        finally:
            release()
        return
    if first_device(settings.accelerator).type == "cuda" and world > torch.cuda.device_count():
        raise RunError(
            f"each of {world} processes takes a device of its own, and torch finds {torch.cuda.device_count()} here"
        )
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    order = {"directory": str(directory), "task": task, "accelerator": settings.accelerator}
    with WorkerProcesses(world, store, {**order, "checkpoint": checkpoint, "plugins": list(plugins)}) as workers:
        try:
            workers.wait_until_ready()
            yield make_fabric(settings, rank=0, world=world, store=store)
        except (RuntimeError, LostProcessError, BrokenPartError) as error:
            try:
                workers.check(patience=30.0 if "onnection" in str(error) else 0.0)
            except RunError as failed:
                raise failed from error
            raise
        finally:
            release()
