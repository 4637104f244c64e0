"""Who started several processes: Fabric's environments decide, or genfw refuses; signals of a scheduler."""

import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from torch.distributed import TCPStore

from genfw.engine import cluster
from genfw.engine import run as engine
from genfw.engine.cluster import Process, agreed, found_outside, fresh_store, is_first
from genfw.engine.devices import make_fabric, own_device
from genfw.engine.interrupts import Interrupts
from genfw.errors import RecipeError, RunError
from genfw.recipes.recipe import parse_recipe
from genfw.runs.directory import RunDirectory
from genfw.training.settings import EngineSettings
from genfw.training.tracker import Tracker
from tiny_recipe import TINY_VAE

ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", **ADDRESS}
SLURM = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "WORLD_SIZE": "3", "RANK": "2", **ADDRESS}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "PMI", "TORCHELASTIC", "MASTER_", "JSM_", "LSB_")) or name in TORCHRUN:
            monkeypatch.delenv(name)


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (TORCHRUN, (3, 4, 1)),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, None),
        (SLURM, (1, 2, 0)),
        ({**SLURM, **TORCHRUN}, (3, 4, 1)),  # torchrun, started by srun once on each node
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}, None),  # the batch script itself
        (KUBERNETES, (2, 3, 0)),
    ],
)
def test_fabrics_environment_is_found(monkeypatch, variables, expected):
    set_all(monkeypatch, variables)
    found = found_outside()
    assert (found and (found.global_rank(), found.world_size(), found.local_rank())) == expected
    assert is_first() == (expected is None or expected[0] == 0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "4"}, r"4 processes of genfw were started \(OMPI_COMM_WORLD_SIZE\).*mpi4py"),
        ({"PMI_SIZE": "2"}, "MPI needs mpi4py"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR and MASTER_PORT"),
        ({"JSM_NAMESPACE_SIZE": "2"}, "LSB_JOBID"),
    ],
)
def test_processes_that_can_not_be_connected_are_refused(monkeypatch, variables, message, tmp_path):
    monkeypatch.setattr(cluster.MPIEnvironment, "detect", lambda: False)
    set_all(monkeypatch, variables)
    with pytest.raises(RunError, match=message):
        found_outside()
    with pytest.raises(RunError, match=message):
        engine.run("quickstart", smoke=True, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_process_takes_its_own_device(monkeypatch):
    set_all(monkeypatch, TORCHRUN)
    made = []
    monkeypatch.setattr("genfw.engine.devices.Fabric", lambda **given: made.append(given) or _Launched())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for visible in (2, 1):  # a scheduler may show each process its own GPU alone
        monkeypatch.setattr("torch.cuda.device_count", lambda visible=visible: visible)
        make_fabric(EngineSettings())
        assert own_device("cuda").index == 1 % visible
    assert [(one["devices"], one["num_nodes"]) for one in made] == [([1], 4), ([0], 4)]
    environment = made[0]["strategy"].cluster_environment
    assert (environment.global_rank(), environment.world_size(), environment.main_port) == (3, 4, 29500)


class _Launched:
    def launch(self):
        pass


def test_what_the_first_process_decides_holds_for_all(monkeypatch):
    """Two processes, one after the other: what the first one sends, the second one gets."""
    sent = []
    monkeypatch.setattr(cluster, "_share", lambda outcome: sent.append(outcome[0]))
    set_all(monkeypatch, {**TORCHRUN, "RANK": "0"})
    assert agreed(lambda: "yes", lambda: None) == "yes"
    with pytest.raises(RunError, match="no"):
        agreed(lambda: (_ for _ in ()).throw(RunError("no")), lambda: None)
    with pytest.raises(RecipeError):
        agreed(lambda: (_ for _ in ()).throw(RecipeError("wrong")), lambda: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(cluster, "_share", lambda outcome: outcome.__setitem__(0, sent.pop(0)))
    assert agreed(lambda: "never called", lambda: None) == "yes"
    for message in ("no", "wrong"):
        with pytest.raises((RunError, RecipeError), match=message):
            agreed(lambda: "never called", lambda: None)


def test_nodes_are_not_a_setting():
    with pytest.raises(RecipeError, match="torchrun --nnodes or srun --nodes"):
        engine.run(parse_recipe("{genfw: 1, name: x, engine: {nodes: 2}}", strict=False))


# -- signals ----------------------------------------------------------------------------------------------------------


class Sender(Tracker):
    def __init__(self, signum):
        self.signum = signum

    def log(self, row):
        if row["step"] == 2:
            os.kill(os.getpid(), self.signum)


RECIPE = (
    TINY_VAE
    + """train: [{use: elbo, steps: 4, batch: 8, optimizer: {use: adam, lr: 1e-3}}]
sample: {count: 4}
engine: {accelerator: cpu, log_every: 2}
"""
)


@pytest.mark.parametrize(("signum", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_scheduler_warns_and_the_job_is_started_again(monkeypatch, tmp_path, signum, requeued):
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        engine.run(path, directory=run.path, trackers=[Sender(signum)], go_on=True)
    assert run.status().state == "interrupted"
    assert run.checkpoints.find("last").step == 3  # the signal came after the row of step 2
    said = tmp_path / "said"
    assert (said.read_text() if said.exists() else "") == ("requeue 77\n" if requeued else "")
    # The job that is started again goes on, and one that is started once more finds nothing to do.
    for _ in range(2):
        assert engine.run(path, directory=run.path, go_on=True).status == "finished"
    assert [row["message"] for row in run.read_events() if row["kind"] == "resume"] == ["goes on from stage 0, step 3"]


def test_a_job_goes_on_with_its_own_recipe_alone(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    with pytest.raises(RunError, match="--resume needs --dir"):
        engine.run(path, go_on=True)
    engine.run(path, directory=tmp_path / "run", sets=["train.0.steps=1"], go_on=True)
    with pytest.raises(RunError, match=r"train\.0\.steps is 1 there, and 4 here"):
        engine.run(path, directory=tmp_path / "run", go_on=True)
    # What a process leaves that is killed while it writes the first file is no obstacle.
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / ".resolved.yaml.part").write_text("genf")
    assert engine.run(path, directory=tmp_path / "left", sets=["train.0.steps=1"], go_on=True).status == "finished"


def test_a_setting_that_is_newer_than_the_run_is_no_change(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    run = engine.run(path, directory=tmp_path / "run", go_on=True).directory
    resolved = RunDirectory.open(run).resolved
    known = yaml.safe_load(resolved.read_text())
    del known["engine"]["compile"]
    resolved.write_text(yaml.safe_dump(known))
    assert engine.run(path, directory=run, go_on=True).status == "finished"
    with pytest.raises(RunError, match=r"engine\.compile is false there, and true here"):
        engine.run(path, directory=run, sets=["engine.compile=true"], go_on=True)


def test_a_second_signal_does_not_wait():
    interrupts = Interrupts()
    with interrupts.installed(), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (interrupts.requested, interrupts.warned) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_each_attempt_of_torchrun_meets_in_a_store_of_its_own(monkeypatch):
    """torchrun's own store still holds what the processes of earlier attempts, now dead, have written there."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    agents = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for key in ("genfw/1", "genfw/2", "genfw/dead"):
        agents.set(key, "dead")

    def meet(rank):
        store = fresh_store(Process(rank, 3, "127.0.0.1", agents.port))
        store.add("met", 1)
        return store

    ports = []
    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            stores = list(threads.map(meet, range(3)))
        assert {store.add("met", 0) for store in stores} == {3}
        ports.append({store.port for store in stores})
    assert [len(each) for each in ports] == [1, 1]
    assert len({agents.port}.union(*ports)) == 3
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert fresh_store(Process(0, 3)) is None
