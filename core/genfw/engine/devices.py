"""Devices and precision of a process, by Lightning Fabric."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from genfw import randomness
from genfw.errors import RunError
from genfw.training.settings import EngineSettings

__all__ = [
    "count_processes",
    "first_device",
    "is_first",
    "launched_outside",
    "make_fabric",
    "own_device",
    "release",
    "tuned",
]


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


def make_fabric(
    settings: EngineSettings, *, rank: int = 0, world: int = 1, port: int = 0, alone: torch.device | None = None
) -> Fabric:
    """A launched Fabric: this process knows its device, its precision and its fellows.

    Modules are not handed to ``Fabric.setup``: :class:`~genfw.training.updater.Updater` averages gradients itself, so
    that a stage may take gradients in any order and of any part.

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
