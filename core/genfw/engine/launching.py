"""Start and end the worker processes of a run on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric

from genfw.engine.cluster import found_outside
from genfw.engine.devices import first_device, make_fabric, release
from genfw.errors import BrokenPartError, LostProcessError, RunError
from genfw.training.settings import EngineSettings

#: What workers are started for.
Task = Literal["run", "evaluate"]


def free_port() -> int:
    """A TCP port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class WorkerProcesses:
    """The workers of a run on this machine, each ``python -m genfw.engine.worker`` with the run directory.

    This process has rank 0, whatever program it is (a script, the command line, a notebook). No script is run twice.

    Arguments:
        directory: The run directory.
        world: Count of processes, including this one.
        task: ``run`` to train and then to evaluate, or ``evaluate``.
        accelerator: Replaces the recipe's ``engine.accelerator``.
        checkpoint: Name of the checkpoint to resume from.
        plugins: Files of local plugins.
    """

    def __init__(
        self,
        directory: Path,
        world: int,
        *,
        task: Task = "run",
        accelerator: str = "auto",
        checkpoint: str | None = None,
        plugins: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._ready = socket.create_server(("127.0.0.1", 0))
        order = {
            "directory": str(directory),
            "world": world,
            "task": task,
            "accelerator": accelerator,
            "port": self.port,
            "ready_port": self._ready.getsockname()[1],
            "checkpoint": checkpoint,
            "plugins": list(plugins),
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "genfw.engine.worker", json.dumps({**order, "rank": rank})],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
            for rank in range(1, world)
        ]

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ready.close()
        for process in self.processes:
            try:
                # Workers end with this process by themselves; after a failure they wait for a message for ever.
                process.wait(timeout=30 if kind is None else 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_until_ready(self) -> None:
        """Wait until all workers have composed their model; a barrier could not report a missing one.

        Raises:
            RunError: A worker has failed.
        """
        self._ready.settimeout(0.1)
        waiting = len(self.processes)
        while waiting:
            try:
                self._ready.accept()[0].close()
                waiting -= 1
            except TimeoutError:
                self.check()

    def check(self, patience: float = 0.0) -> None:
        """Raise an error if workers have failed.

        Arguments:
            patience: Seconds to wait for the first failure: a connection breaks before its process has ended.

        Raises:
            RunError: Workers have failed.
        """
        end = time.monotonic() + patience
        while (
            not (codes := [code for process in self.processes if (code := process.poll())]) and time.monotonic() < end
        ):
            time.sleep(0.05)
        if codes:
            raise RunError(
                f"{len(codes)} of {1 + len(self.processes)} processes failed with exit code {codes[0]}; "
                "their messages are above"
            )


@contextlib.contextmanager
def launched(
    settings: EngineSettings,
    directory: Path,
    world: int,
    *,
    task: Task = "run",
    checkpoint: str | None = None,
    plugins: Sequence[str] = (),
) -> Iterator[Fabric]:
    """Inside the block this process is one of several: the first, which starts its workers, or one that
    something else started.

    Arguments:
        settings: The recipe's ``engine:`` section.
        directory: The run directory.
        world: Count of processes; ignored where something else started the processes.
        task: See :class:`WorkerProcesses`.
        checkpoint: See :class:`WorkerProcesses`.
        plugins: See :class:`WorkerProcesses`.

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
    with WorkerProcesses(
        directory, world, task=task, accelerator=settings.accelerator, checkpoint=checkpoint, plugins=plugins
    ) as workers:
        try:
            workers.wait_until_ready()
            yield make_fabric(settings, rank=0, world=world, port=workers.port)
        except (RuntimeError, LostProcessError, BrokenPartError) as error:
            try:
                workers.check(patience=30.0 if "onnection" in str(error) else 0.0)
            except RunError as failed:
                raise failed from error
            raise
        finally:
            release()
