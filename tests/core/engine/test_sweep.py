"""Sweeps: what is planned, what a pool does with runs that fail or are killed, and the real thing (slow)."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from genfw.engine import executors
from genfw.engine.executors import slurm_options
from genfw.engine.job import main as job
from genfw.engine.sweep import expand, parse_over, plan_sweep, run_sweep
from genfw.errors import RecipeError, RunError
from genfw.plugins import load_plugins
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.sweep import Sweep, SweepRun
from killed_sweep import OVER, end_as_undisturbed
from places import ROOT
from tiny_recipe import TINY_VAE

RECIPE = (
    TINY_VAE
    + """train: [{use: elbo, steps: 4, batch: 8, optimizer: {use: adam, lr: 1e-3}}]
sample: {count: 4}
engine: {accelerator: cpu, threads: 1, log_every: 2}
"""
)


@pytest.fixture(scope="module")
def registry():
    return load_plugins()


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=0..3", ["0", "1", "2", "3"]),
        ("seed=-1..1,7", ["-1", "0", "1", "7"]),
        ("train.0.optimizer.lr=1e-3, 2e-3", ["1e-3", "2e-3"]),
        ("decoder.hidden=[4, 8],[16]", ["[4, 8]", "[16]"]),
        ("energy={use: mlp, on: data},null", ["{use: mlp, on: data}", "null"]),
        ("name='a,b',c", ["'a,b'", "c"]),
    ],
)
def test_values_are_yaml_with_commas_between(text, values):
    assert parse_over(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["seed", "seed=", "=1", "seed=1,1", "seed=[1", "seed=3..1"])
def test_values_that_are_none_are_refused(text):
    with pytest.raises(RunError, match="--over"):
        parse_over(text)


def test_a_sweep_has_a_directory_for_each_combination_and_is_found_again(recipe, registry, tmp_path):
    sweep = plan_sweep([recipe], OVER, registry, root=tmp_path / "runs")
    names = [f"seed={seed},lr={lr}" for seed, lr in itertools.product("012", ("1e-3", "2e-3"))]
    assert [run.name for run in sweep.runs] == names
    assert [row.state for row in sweep.rows()] == ["waiting"] * 6
    assert {run.group for run in sweep.runs} == {f"tiny train.0.optimizer.lr={lr}" for lr in ("1e-3", "2e-3")}
    plain = [json.loads(json.dumps(sweep.directory(run).resolved.read_text())) for run in sweep.runs]
    assert len(set(plain)) == 6
    # The same call, and one with further values, find the same folder.
    again = plan_sweep([recipe], OVER, registry, root=tmp_path / "runs")
    assert (again.path, again.runs) == (sweep.path, sweep.runs)
    more = plan_sweep([recipe], ["seed=3", OVER[1]], registry, root=tmp_path / "runs")
    assert more.path == sweep.path
    assert len(Sweep.open(sweep.path).runs) == 8


def test_a_changed_recipe_is_not_mixed_into_a_sweep(recipe, registry, tmp_path):
    plan_sweep([recipe], ["seed=0..1"], registry, directory=tmp_path / "sweep")
    with pytest.raises(RunError, match=r"train\.0\.steps is 4 there, and 5 here"):
        plan_sweep([recipe], ["seed=0..1"], registry, sets=["train.0.steps=5"], directory=tmp_path / "sweep")


def test_nothing_is_written_where_a_run_is_wrong(recipe, registry, tmp_path):
    with pytest.raises(RecipeError, match="nonsense"):
        plan_sweep([recipe], ["seed=0..1", "decoder.nonsense=1,2"], registry, root=tmp_path / "runs")
    with pytest.raises(RecipeError, match="images") as refused:  # which only trying the recipe tells
        plan_sweep([recipe], ["seed=0..1", "evaluate=[],[{use: fid}]"], registry, root=tmp_path / "runs")
    assert [fault.code for fault in refused.value.faults] == ["GF217"]
    for over, message in (([], "several runs"), (["seed=0..1", "seed=2"], "--over names seed twice")):
        with pytest.raises(RunError, match=message):
            plan_sweep([recipe], over, registry, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").touch()
    with pytest.raises(RunError, match="not empty and no sweep"):
        plan_sweep([recipe], ["seed=0..1"], registry, directory=tmp_path / "mine")


def test_long_and_odd_values_make_names_of_files(recipe, registry, tmp_path):
    sets = [f"description=/{'x' * 200}{end},a b" for end in "12"]
    sweep = plan_sweep([recipe], sets[:1], registry, directory=tmp_path / "one")
    assert all(run.name.startswith("description=-xxx") and len(run.name) < 140 for run in sweep.runs[:1])
    assert sweep.runs[1].name.startswith("description=a-b-")


def test_several_recipes_by_pattern(registry, recipe, tmp_path):
    found = expand(["small/damc-*"], registry)
    assert [Path(path).name for path in found] == sorted(path.name for path in ROOT.glob("recipes/small/damc-*.yaml"))
    assert len(found) >= 3
    with pytest.raises(RunError, match="no shipped recipe matches 'x\\*'"):
        expand(["x*"], registry)
    sweep = plan_sweep([recipe, "quickstart"], [], registry, directory=tmp_path / "two")
    assert [run.name for run in sweep.runs] == ["tiny", "quickstart"]


def test_options_of_slurm():
    assert slurm_options({"partition": "main", "cpus-per-task": "4", "time": "2-01:30"}) == {
        "partition": "main",
        "cpus_per_task": 4,
        "time": (2 * 24 + 1) * 60 + 30,
    }
    assert [slurm_options({"time": text})["time"] for text in ("90", "90:00", "1:30:00", "2-00")] == [90, 90, 90, 2880]
    with pytest.raises(RunError, match="time=soon is no time"):
        slurm_options({"time": "soon"})


# -- the pool, with jobs of a moment ----------------------------------------------------------------------------------

FAKE = """
import json, os, pathlib, signal, sys
run = pathlib.Path(json.loads(sys.argv[1])["directory"])
told = lambda state: (run / "STATUS").write_text(json.dumps({"state": state, "pid": os.getpid()}))
with open(run / "attempts", "a") as file:
    file.write("x")
attempts = len((run / "attempts").read_text())
if run.name == "fails":
    told("failed")
    sys.exit(1)
if run.name == "dies" or (run.name == "killed" and attempts == 1):
    told("running")
    os.kill(os.getpid(), signal.SIGKILL)
told("finished")
"""


def test_a_pool_keeps_what_is_finished_and_goes_on_with_what_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "COMMAND", (sys.executable, "-S", "-c", FAKE))
    names = ["first", "fails", "killed", "dies", "last"]
    sweep = Sweep(tmp_path, [SweepRun(name, "r", {}) for name in names])
    for run in sweep.runs:
        RunDirectory.create(tmp_path, "r", "name: r\n", path=tmp_path / run.name).write_status(Status("waiting"))
    sweep.directory(sweep.runs[0]).write_status(Status("finished"))
    sweep.save()
    run_sweep(sweep, jobs=2, interval=0.01)
    states = {row.run.name: row.state for row in sweep.rows()}
    assert states == {
        "first": "finished",
        "fails": "failed",
        "killed": "finished",
        "dies": "killed",
        "last": "finished",
    }
    attempts = [len((tmp_path / name / "attempts").read_text()) for name in names[1:]]
    assert attempts == [1, 2, 3, 1]
    assert not (tmp_path / "first" / "attempts").exists()


def test_an_interrupt_asks_every_run_once_to_stop(tmp_path, monkeypatch):
    fake = "import pathlib, json, signal, sys, time\nrun = pathlib.Path(json.loads(sys.argv[1])['directory'])\n"
    fake += "signal.signal(signal.SIGTERM, lambda *_: ((run / 'asked').touch(), sys.exit(130)))\n"
    fake += "(run / 'begun').touch()\ntime.sleep(60)"
    monkeypatch.setattr(executors, "COMMAND", (sys.executable, "-S", "-c", fake))
    sweep = Sweep(tmp_path, [SweepRun(name, "r", {}) for name in "abc"])
    for run in sweep.runs:
        RunDirectory.create(tmp_path, "r", "name: r\n", path=tmp_path / run.name)

    def watch(_):
        if all((tmp_path / name / "begun").exists() for name in "ab"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, jobs=2, interval=0.01, watch=watch)
    assert [(tmp_path / name / "asked").exists() for name in "abc"] == [True, True, False]


def test_a_job_says_why_it_fails(tmp_path, capfd):
    assert job(json.dumps({"directory": str(tmp_path)})) == 1
    assert "is not a run directory" in capfd.readouterr().err


def test_a_pool_shares_cores_and_devices_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(executors, "default_jobs", lambda: 8)
    assert [executors._share(slot, 3)["OMP_NUM_THREADS"] for slot in range(3)] == ["2", "2", "2"]
    monkeypatch.setattr(executors.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(executors.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [executors._share(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["4,5", "6,7"]
    assert [executors._share(slot, 5)["CUDA_VISIBLE_DEVICES"] for slot in (3, 4)] == ["7", "4"]


# -- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("on", ["local", "submitit"])
def test_a_sweep_whose_worker_is_killed_ends_as_an_undisturbed_one(on, recipe, tmp_path):
    if on == "submitit":
        pytest.importorskip("submitit")
    end_as_undisturbed(recipe, tmp_path, on=on, jobs=2)
