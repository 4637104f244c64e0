"""Devices and processes of a run, by Lightning Fabric; and what a signal asks of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from genfw import randomness
from genfw.errors import LostProcessError, RunError
from genfw.settings import EngineSettings

__all__ = [
    "Interrupts",
    "Workers",
    "count_processes",
    "first_device",
    "free_port",
    "gathered",
    "is_first",
    "launched_outside",
    "make_fabric",
    "own_device",
    "release",
    "tuned",
]


#: What further processes are started for.
Task = Literal["run", "evaluate"]


class _Placed(LightningEnvironment):
    """Processes on this machine that genfw started itself, so that neither this script nor the environment is re-run or
    read.
    """

    def __init__(self, rank: int, port: int) -> None:
        super().__init__()
        self._rank, self._port = rank, port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


def launched_outside() -> bool:
    """Whether ``torchrun`` started several processes of this program; they are then taken as they are."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes: all but those that ``torchrun`` counts from 1 up."""
    return not launched_outside() or os.environ.get("RANK", "0") == "0"


def own_device(accelerator: str) -> torch.device:
    """The device of this process: the first one, unless ``torchrun`` has counted it otherwise."""
    return first_device(accelerator, int(os.environ.get("LOCAL_RANK", "0")) if launched_outside() else 0)


def first_device(accelerator: str, rank: int = 0) -> torch.device:
    """The device of a process.

    Arguments:
        accelerator: As in the recipe's ``engine:`` section.
        rank: Number of the process on this machine.

    Raises:
        RunError: This machine has no such accelerator.
    """
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", rank)
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    if accelerator in ("auto", "cpu"):
        return torch.device("cpu")
    raise RunError(
        f"engine.accelerator is '{accelerator}', and torch finds none here; use --set engine.accelerator=cpu"
    )


def count_processes(settings: EngineSettings) -> int:
    """Processes to train with on this machine."""
    if settings.devices != "auto":
        return settings.devices
    device = first_device(settings.accelerator)
    return torch.cuda.device_count() if device.type == "cuda" else 1


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_fabric(
    settings: EngineSettings, *, rank: int = 0, world: int = 1, port: int = 0, alone: torch.device | None = None
) -> Fabric:
    """A launched Fabric: this process knows its device, its precision and its fellows.

    Modules are not handed to ``Fabric.setup``: :class:`~genfw.optim.Updater` averages gradients itself, so that a stage
    may take gradients in any order and of any part.

    Arguments:
        settings: The recipe's ``engine:`` section.
        rank: Number of this process.
        world: Count of processes.
        port: Where they meet.
        alone: This process's device, where it asks none of the others, whatever others there are. Fabric makes it the
            process's current one, through which objects travel: another one than before would be every message's end.
    """
    accelerator = first_device(settings.accelerator, rank).type if alone is None else alone.type
    common: dict[str, Any] = {"accelerator": accelerator, "precision": settings.precision}
    with _quiet():
        if alone is not None:
            devices = [alone.index or 0] if alone.type == "cuda" else 1
            fabric = Fabric(devices=devices, plugins=[_Placed(0, port)], **common)
        elif launched_outside():
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = int(os.environ["WORLD_SIZE"]) // local
            fabric = Fabric(devices=local, num_nodes=nodes, strategy="ddp", **common)
        elif world == 1:
            fabric = Fabric(devices=1, plugins=[_Placed(0, port)], **common)
        else:
            fabric = Fabric(devices=world, strategy=DDPStrategy(cluster_environment=_Placed(rank, port)), **common)
        fabric.launch()
    return fabric


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Fabric announces precision and processes through a logger of its own, and guesses about clusters in warnings."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")
            yield
    finally:
        logger.setLevel(level)


def release() -> None:
    """Leave the group of processes, so that this one can go on alone and train again later."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        if not launched_outside():
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)


@contextlib.contextmanager
def tuned(settings: EngineSettings) -> Iterator[None]:
    """Give this process the recipe's threads, determinism and default type, and leave it, random states included, as it
    was found.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with randomness.kept_apart(first_device(settings.accelerator)):
        try:
            if settings.threads:
                torch.set_num_threads(settings.threads)
            if settings.deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True, warn_only=True)
            if settings.precision == "64-true":
                torch.set_default_dtype(torch.float64)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)
            torch.set_default_dtype(dtype)


class Workers:
    """The further processes of a run on this machine: ``python -m genfw.worker`` for each, given the run directory.

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
                [sys.executable, "-m", "genfw.worker", json.dumps({**order, "rank": rank})],
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


class Interrupts:
    """Turns SIGINT and SIGTERM into one question that the training loop asks between steps.

    Inside :meth:`held` the first signal sets :attr:`requested`, and a second one raises ``KeyboardInterrupt`` at once;
    outside of it every signal raises at once. Signals can be caught in the main thread alone; in another thread nothing
    changes.
    """

    def __init__(self) -> None:
        #: A signal has asked the run to stop.
        self.requested = False
        self._held = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Catch the signals inside the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the loop finish its step, and save, before it stops."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._held and not self.requested:
            self.requested = True
        else:
            raise KeyboardInterrupt
