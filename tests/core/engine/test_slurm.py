"""A real SLURM of two nodes on this machine (`.ci/slurm`): one run of two tasks, a requeued job, a sweep."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genfw.engine import run as engine
from genfw.runs.directory import RunDirectory
from killed_sweep import end_as_undisturbed
from places import ROOT
from run_toys import assert_same
from tiny_recipe import TINY_VAE

pytestmark = pytest.mark.slow

RECIPE = (
    TINY_VAE
    + """train: [{use: elbo, steps: 1000, batch: 8, optimizer: {use: adam, lr: 1e-3}}]
sample: {count: 4}
engine: {accelerator: cpu, threads: 1, log_every: 50, checkpoint_every: 50}
"""
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    script = ROOT / ".ci" / "slurm"
    if shutil.which("slurmctld") is None:
        if shutil.which("apt-get") is None:
            pytest.skip("there is no SLURM here, and no apt-get that could install it")
        said = subprocess.run([script, "install"], capture_output=True, text=True, check=False)
        if said.returncode:
            pytest.skip(f"SLURM can't be installed here: {said.stderr.strip().splitlines()[-1:]}")
    folder = tmp_path_factory.mktemp("slurm")
    said = subprocess.run([script, "start", folder], capture_output=True, text=True, check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        # The nodes' names are no hosts of a network here.
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        try:
            assert said.returncode == 0, said.stderr + (folder / "log" / "slurmctld.log").read_text()[-2000:]
            yield folder
        finally:
            subprocess.run(["scancel", "--user", "root"], check=False)
            time.sleep(1.0)
            subprocess.run([script, "stop", folder], check=False)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def states(run):
    last = run.checkpoints.find("best")
    assert last.world == 2
    return [run.checkpoints.load(last, rank=rank) for rank in range(2)]


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def until(what, seconds=240.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(slurm, recipe):
    """One run of two tasks on two nodes, by `srun -N2 -n2`."""
    runs = recipe.parent / "runs"
    command = ["srun", "-N2", "-n2", "-c1", "genfw", "run", recipe, "--root", runs]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert said.returncode == 0, said.stderr
    made = list(runs.glob("*/*/resolved.yaml"))
    assert len(made) == 1  # before, each task made a run of its own
    return RunDirectory(made[0].parent)


def test_srun_makes_one_run_of_its_tasks(whole, recipe):
    assert whole.status().state == "finished"
    first, second = states(whole)
    assert_same(first["model"], second["model"])
    assert str(first["generator"].tolist()) != str(second["generator"].tolist())
    pair = engine.run(recipe, directory=recipe.parent / "pair", sets=["engine.devices=2"]).directory
    for one, other in zip(states(RunDirectory(pair)), (first, second), strict=True):
        assert_same(one, other)


def test_a_requeued_job_goes_on_by_itself(slurm, whole, recipe):
    """The batch file of docs/cluster.md, as it stands there, with another recipe."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    (text,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", page, flags=re.DOTALL)
    run, names = RunDirectory(recipe.parent / "requeued"), "damc-cifar10 --dir runs/damc-cifar10"
    assert names in text
    text = text.replace(names, f"{recipe} --dir {run.path}")
    script = recipe.parent / "job.sh"
    # Nothing here has a GPU.
    script.write_text("".join(line for line in text.splitlines(keepends=True) if "gpus" not in line))
    job = ask("sbatch", "--parsable", f"--chdir={slurm}", script).strip()
    until(lambda: any(checkpoint.step >= 100 for checkpoint in run.checkpoints.all()))
    ask("scontrol", "requeue", job)
    until(lambda: run.status().state != "running", 60.0)
    assert run.status().state in ("interrupted", "killed")
    # SLURM lets a requeued job wait for two minutes.
    until(lambda: "PENDING" in ask("squeue", "-h", "-j", job, "-o", "%T"))
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
    until(lambda: run.status().state == "finished")
    assert any(row["kind"] == "resume" for row in run.read_events())
    for requeued, undisturbed in zip(states(run), states(whole), strict=True):
        assert_same(requeued, undisturbed)


def test_a_warned_job_requeues_itself(slurm, recipe):
    run = RunDirectory(recipe.parent / "warned")
    script = recipe.parent / "warned.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH --requeue\nsrun -n1 genfw run {recipe} --dir {run.path} --resume")
    job = ask("sbatch", "--parsable", "-n1", f"--chdir={slurm}", script).strip()
    until(lambda: any(checkpoint.step >= 100 for checkpoint in run.checkpoints.all()))
    ask("scancel", "--signal=USR1", job)
    until(lambda: run.status().state == "interrupted", 60.0)
    until(lambda: "Restarts=1" in ask("scontrol", "show", "job", job), 60.0)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
    until(lambda: run.status().state == "finished")


def test_a_sweep_of_jobs_with_one_killed(slurm, recipe, tmp_path):
    pytest.importorskip("submitit")
    end_as_undisturbed(recipe, tmp_path, on="slurm", options={"time": "10", "cpus_per_task": "1"})
