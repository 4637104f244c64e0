"""Start the further processes of a run on this machine, and end them."""

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

from genfw.engine.devices import first_device, launched_outside, make_fabric, release
from genfw.errors import LostProcessError, RunError
from genfw.training.settings import EngineSettings

__all__ = ["Workers", "free_port", "gathered"]

#: What further processes are started for.
Task = Literal["run", "evaluate"]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Workers:
    """The further processes of a run on this machine, each ``python -m genfw.engine.worker`` in the run directory.

    This process is number 0 whatever program it is (a script, the command line, a notebook); no script is run twice.

    Arguments:
        directory: The run directory.
        world: Count of processes, this one included.
        task: ``run``, train along and then help to evaluate; or ``evaluate``, the second alone.
        accelerator: As in the recipe's ``engine:`` section, which it takes the place of.
        checkpoint: Name of the checkpoint to go on from.
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
        self._door = socket.create_server(("127.0.0.1", 0))
        order = {
            "directory": str(directory),
            "world": world,
            "task": task,
            "accelerator": accelerator,
            "port": self.port,
            "door": self._door.getsockname()[1],
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

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._door.close()
        for process in self.processes:
            try:
                # They come to their end with this one, by themselves; after a failure they wait for a message that
                # never comes.
                process.wait(timeout=30 if kind is None else 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def gather(self) -> None:
        """Wait until all of them have composed their model: where they meet next, nobody could be told of one that did
        not come.

        Raises:
            RunError: One of them has failed.
        """
        self._door.settimeout(0.1)
        waiting = len(self.processes)
        while waiting:
            try:
                self._door.accept()[0].close()
                waiting -= 1
            except TimeoutError:
                self.check()

    def check(self, patience: float = 0.0) -> None:
        """Complain of processes that have failed.

        Arguments:
            patience: Seconds to wait for the first: a connection breaks before its process has ended.

        Raises:
            RunError: There are some.
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
def gathered(
    settings: EngineSettings,
    directory: Path,
    world: int,
    *,
    task: Task = "run",
    checkpoint: str | None = None,
    plugins: Sequence[str] = (),
) -> Iterator[Fabric]:
    """This process as one of several inside the block: the first, which starts the others, or one of ``torchrun``'s.

    Arguments:
        settings: The recipe's ``engine:`` section.
        directory: The run directory.
        world: Count of processes; what ``torchrun`` has started is taken as it is.
        task: See :class:`Workers`.
        checkpoint: See :class:`Workers`.
        plugins: See :class:`Workers`.

    Raises:
        RunError: A further process has failed, or there are too few devices.
    """
    if launched_outside() or world == 1:
        try:
            yield make_fabric(settings)
        finally:
            release()
        return
    if first_device(settings.accelerator).type == "cuda" and world > torch.cuda.device_count():
        raise RunError(
            f"each of {world} processes takes a device of its own, and torch finds {torch.cuda.device_count()} here"
        )
    with Workers(
        directory, world, task=task, accelerator=settings.accelerator, checkpoint=checkpoint, plugins=plugins
    ) as workers:
        try:
            workers.gather()
            yield make_fabric(settings, rank=0, world=world, port=workers.port)
        except (RuntimeError, LostProcessError) as error:
            try:
                workers.check(patience=30.0 if "onnection" in str(error) else 0.0)
            except RunError as failed:
                raise failed from error
            raise
        finally:
            release()
