"""Whoever started several processes of this program: torchrun, SLURM, MPI, LSF or Kubernetes, as Fabric reads them."""

from __future__ import annotations

import os
import pickle
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.kubeflow import KubeflowEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import default_pg_timeout

from genfw.errors import GenfwError, RunError

T = TypeVar("T")

#: Variables in which implementations of MPI give each process the count of processes.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


class _Slurm(SLURMEnvironment):
    """SLURM's variables, also where ``srun -n`` alone counts the tasks.

    Fabric asks for ``--ntasks-per-node``, because it derives ranks from devices per node; genfw takes SLURM's ranks.
    """

    @staticmethod
    def _validate_srun_variables() -> None:
        pass


class Process(LightningEnvironment):
    """One process of a run, with one device of its own, as Fabric's strategies ask for it.

    Arguments:
        rank: Rank among all processes.
        world: Count of processes.
        address: Host of the first process.
        port: Port of the first process.
    """

    #: Fabric is to start no process.
    creates_processes_externally = True
    main_address = ""

    def __init__(self, rank: int = 0, world: int = 1, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__()
        self._global_rank, self._world_size, self.main_address, self._main_port = rank, world, address, port

    def local_rank(self) -> int:
        """Index of the device among those that Fabric is given: there is one."""
        return 0

    def node_rank(self) -> int:
        """For Fabric every process is a node with one device."""
        return self._global_rank


def found_outside() -> ClusterEnvironment | None:
    """The environment of whoever started several processes of this program; ``None`` where this one is alone.

    Raises:
        RunError: Several processes were started in a way that does not say how to connect them.
    """
    environment = os.environ
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment() if _count("WORLD_SIZE") > 1 else None
    if _count("WORLD_SIZE") > 1 and "RANK" in environment:
        if {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
            return TorchElasticEnvironment() if "LOCAL_RANK" in environment else KubeflowEnvironment()
        raise _refusal("WORLD_SIZE", "set MASTER_ADDR and MASTER_PORT too")
    # A batch script has SLURM_NTASKS too, but only srun starts a process for each task.
    if "SLURM_STEP_ID" in environment and max(_count("SLURM_STEP_NUM_TASKS"), _count("SLURM_NTASKS")) > 1:
        return _Slurm()
    if _count("JSM_NAMESPACE_SIZE") > 1:
        if LSFEnvironment.detect():
            return LSFEnvironment()
        raise _refusal("JSM_NAMESPACE_SIZE", "LSF's LSB_JOBID and LSB_DJOB_RANKFILE are missing")
    for name in _MPI_SIZES:
        if _count(name) > 1:
            if MPIEnvironment.detect():
                return MPIEnvironment()
            raise _refusal(name, "MPI needs mpi4py to connect them: pip install mpi4py")
    return None


def _count(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else 1


def _refusal(name: str, remedy: str) -> RunError:
    return RunError(
        f"{os.environ[name]} processes of genfw were started ({name}), and they would each make a run of their own; "
        f"{remedy}, or start them with torchrun or srun (docs/cluster.md)"
    )


def fresh_store(process: ClusterEnvironment) -> TCPStore | None:
    """A store in which the processes that torchrun has started find each other; ``None`` where torch makes a new one.

    torchrun gives all its attempts one store, and in torch 2.13 the addresses of an attempt's dead processes stay there
    for the next one to read. So the first process opens a new store. To learn its port, each of the others leaves a
    word there that nobody has used before, and reads the answer to it.

    Arguments:
        process: This process.

    Raises:
        RunError: Not all processes came.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, rank, world = process.main_address, process.global_rank(), process.world_size()
    known = TCPStore(host, process.main_port, is_master=False, timeout=default_pg_timeout)
    if rank:
        word = uuid.uuid4().hex
        known.set(f"genfw/{rank}", word)
        store = TCPStore(host, int(known.get(f"genfw/{word}")), is_master=False, timeout=default_pg_timeout)
        store.add("here", 1)
        return store
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=default_pg_timeout)
    end = time.monotonic() + default_pg_timeout.total_seconds()
    while (here := store.add("here", 0)) < world - 1:
        for name in [f"genfw/{other}" for other in range(1, world)]:
            if known.check([name]):  # perhaps a dead process's, whose answer nobody reads
                known.set(f"genfw/{known.get(name).decode()}", str(store.port))
        if time.monotonic() > end:
            raise RunError(f"{here + 1} of {world} processes came within {default_pg_timeout}; start them again")
        time.sleep(0.05)
    return store


def is_first() -> bool:
    """Whether this process writes the run's files: not one that something else started with a rank above 0."""
    environment = found_outside()
    return environment is None or environment.global_rank() == 0


def agreed(decide: Callable[[], T], connect: Callable[[], object]) -> T:
    """What the first process decides, in all processes that something else started.

    Arguments:
        decide: Called in the first process alone. What it returns or raises can be pickled.
        connect: Joins the process group, if that has not been done.

    Raises:
        GenfwError: What ``decide`` raised, in all processes.
    """
    if found_outside() is None:
        return decide()
    connect()
    outcome: list[T | GenfwError | None] = [None]
    if is_first():
        try:
            outcome[0] = decide()
        except GenfwError as error:
            _share([_sendable(error)])
            raise
    _share(outcome)
    if isinstance(outcome[0], GenfwError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]


def _share(outcome: list[Any]) -> None:
    torch.distributed.broadcast_object_list(outcome, 0)


def _sendable(error: GenfwError) -> GenfwError:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error that needs more than its arguments
        return RunError(str(error))
    return error
