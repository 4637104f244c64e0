"""Devices and precision of a process, through Lightning Fabric."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from genfw import randomness
from genfw.engine.cluster import Process, found_outside, fresh_store
from genfw.errors import RunError
from genfw.models.compiling import CompiledChains, compiled
from genfw.models.recording import Recordings, recorded
from genfw.nn.choices import Choices, choosing
from genfw.runs.files import write_atomically
from genfw.training.settings import EngineSettings

#: File of a run directory: the ways that ``engine.tune`` found fastest.
CHOICES = "choices.json"


def own_device(accelerator: str) -> torch.device:
    """The device of this process: the first one, or that of its local rank where something started several."""
    environment = found_outside()
    return first_device(accelerator, 0 if environment is None else environment.local_rank())


def first_device(accelerator: str, rank: int = 0) -> torch.device:
    """The device of a process.

    Arguments:
        accelerator: As in the recipe's ``engine:`` section.
        rank: Rank of the process on this machine. A scheduler may show each process its own GPU alone.

    Raises:
        RunError: This machine has no such accelerator.
    """
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        # Deterministic kernels need it, and cuBLAS reads it at a process's first product, which composing may take.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return torch.device("cuda", rank % (torch.cuda.device_count() or rank + 1))
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
    settings: EngineSettings,
    *,
    rank: int = 0,
    world: int = 1,
    store: TCPStore | None = None,
    device: torch.device | None = None,
) -> Fabric:
    """A launched Fabric, with the device and precision of this process and its connection to the others.

    genfw does not call ``Fabric.setup``: :class:`~genfw.training.updater.Updater` averages gradients itself, so that a
    stage may take gradients in any order and of any part.

    Arguments:
        settings: The recipe's ``engine:`` section.
        rank: Rank of this process.
        world: Count of processes.
        store: Where several processes of this machine meet.
        device: Device for a single-process Fabric, whatever other processes there are. It must be the process's device:
            Fabric sets the current CUDA device, and collective calls fail if it changes.
    """
    with quiet_fabric():
        if device is not None:
            process, own = Process(), device
        elif (outside := found_outside()) is not None:
            process = Process(outside.global_rank(), outside.world_size(), outside.main_address, outside.main_port)
            own = first_device(settings.accelerator, outside.local_rank())
            store = None if torch.distributed.is_initialized() else fresh_store(process)
        else:
            process, own = Process(rank, world), first_device(settings.accelerator, rank)
        if store is not None:  # Fabric takes the group that there is
            torch.distributed.init_process_group(
                "nccl" if own.type == "cuda" else "gloo",
                store=PrefixStore("group", store),
                rank=process.global_rank(),
                world_size=process.world_size(),
            )
        several = process.world_size() > 1
        fabric = Fabric(
            accelerator=own.type,
            devices=[own.index or 0] if own.type == "cuda" else 1,
            num_nodes=process.world_size(),
            precision=settings.precision,
            **({"strategy": DDPStrategy(cluster_environment=process)} if several else {"plugins": [process]}),
        )
        fabric.launch()
    return fabric


@contextlib.contextmanager
def quiet_fabric() -> Iterator[None]:
    """Silence Fabric's announcements of precision and processes, and its warnings about clusters."""
    with muted("lightning_fabric", logging.ERROR), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")
        yield


@contextlib.contextmanager
def muted(name: str, level: int) -> Iterator[None]:
    """Inside the block a package logs nothing below a level.

    Arguments:
        name: The logger's name.
        level: The level, as in :mod:`logging`.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def release() -> None:
    """Leave the process group, so that this process can continue and train again later."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, within the quota of its control group."""
    from joblib import cpu_count

    return max(1, int(cpu_count()))


def _choices(path: Path, times: bool) -> Choices:
    """The choices of a run directory, which is given every new one before it is used.

    Raises:
        RunError: The file is damaged.
    """
    table: Any = {}
    if path.is_file():
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            table = None
        if not isinstance(table, dict) or not all(isinstance(way, str) for way in table.values()):
            raise RunError(f"{path} is damaged; without it, a resumed run times again what it had chosen")
    return Choices(table, lambda table: write_atomically(path, json.dumps(table, indent=1) + "\n"), times)


@contextlib.contextmanager
def tuned(
    settings: EngineSettings, device: torch.device | None = None, *, folder: Path | None = None, alone: bool = True
) -> Iterator[None]:
    """Inside the block this process has the recipe's threads, determinism, TF32, default type, recordings of chains and
    compiled ones; afterwards all of these and the random states are restored.

    Arguments:
        settings: The recipe's ``engine:`` section.
        device: The device of this process; by default :func:`own_device`.
        folder: The run directory, which keeps what ``engine.tune`` has timed; without one nothing is timed.
        alone: Whether no other process computes the same numbers: only then something may be timed.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    fast = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    recordings = Recordings() if settings.capture == "auto" else None
    chains = CompiledChains() if settings.compile else None
    own = own_device(settings.accelerator) if device is None else device
    ways = None
    if settings.tune and folder is not None:
        single = alone and count_processes(settings) == 1 and found_outside() is None
        ways = _choices(folder / CHOICES, times=single and not settings.deterministic)
    with randomness.isolated_rng(own), recorded(recordings), compiled(chains), choosing(ways):
        try:
            # Also where the recipe says nothing: torch counts the machine's cores, whatever a container allows.
            torch.set_num_threads(min(settings.threads or threads, usable_cores()))
            matmul.allow_tf32 = cudnn.allow_tf32 = settings.tf32
            cudnn.benchmark = settings.cudnn_benchmark
            if settings.deterministic:
                torch.use_deterministic_algorithms(True, warn_only=True)
            if settings.precision == "64-true":
                torch.set_default_dtype(torch.float64)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)
            torch.set_default_dtype(dtype)
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = fast
