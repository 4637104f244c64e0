"""Two processes on the CPU, started by genfw itself, by way of a real recipe and a plugin file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import torch
from torch.distributed import TCPStore

from fit_plugin import write
from genfw.engine import devices
from genfw.engine import run as engine
from genfw.engine.devices import count_processes, first_device, make_fabric, release, tuned, usable_cores
from genfw.engine.launching import WorkerProcesses
from genfw.errors import RunError
from genfw.runs.checkpoints import Checkpoints
from genfw.runs.directory import RunDirectory
from genfw.training.settings import EngineSettings
from genfw.training.tracker import Tracker
from run_toys import assert_same, edit_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    stage = "steps: 12, optimizer: {use: adam, lr: 1e-2}"
    path = write(folder, stage, "engine: {accelerator: cpu, log_every: 4, checkpoint_every: 5}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_conclude", lambda *_: [])
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MASTER_ADDR", "host0")  # the user's, for something else
        yield path


def states(path):
    store = Checkpoints(path / "checkpoints")
    last = store.find("best")
    world = json.loads((last.path / "checkpoint.json").read_text())["world"]
    return [store.load(last, rank=rank) for rank in range(world)]


@pytest.mark.slow
def test_two_processes_that_fail_and_go_on_agree_with_each_other_and_with_one(recipe, tmp_path, capfd):
    with pytest.raises(RunError, match="one of 2 processes, failed"):
        engine.run(recipe, directory=tmp_path / "two", sets=["engine.devices=2", "train.0.die_at=8"])
    said = capfd.readouterr().err
    assert "the second process gives up" in said
    assert "exitcode" not in said  # torch's own words for it, which number the workers from 0
    run = RunDirectory.open(tmp_path / "two")
    assert run.status().state == "failed"
    assert run.checkpoints.find("last").step == 5
    edit_recipe(run.path, "die_at: 8", "die_at: -1")
    usable_cores()  # joblib sets a variable for OpenMP when it is imported
    environment = dict(os.environ)
    assert engine.resume(run.path).status == "finished"
    assert dict(os.environ) == environment
    assert not torch.distributed.is_initialized()
    alone = engine.run(recipe, directory=tmp_path / "one").directory
    (one,) = states(alone)
    first, second = states(run.path)
    assert_same(first["model"], second["model"])
    assert_same(first["stage"], second["stage"])
    assert not torch.equal(first["generator"], second["generator"])
    for name, value in one["model"].items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-4, atol=1e-5)
    losses = [[row["loss"] for row in RunDirectory(path).read_metrics()] for path in (alone, run.path)]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_a_worker_ends_with_a_killed_first_process(recipe, tmp_path):
    code = f"from genfw.engine.run import run; run({str(recipe)!r}, directory={str(tmp_path / 'two')!r}, sets="
    code += "['engine.devices=2', 'train.0.steps=1000000', 'engine.checkpoint_every=1000000'])"
    first = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        wait_until(lambda: RunDirectory(tmp_path / "two").read_metrics())
        first.kill()
        first.wait()
        # Processes of the session: the worker, until it notices.
        wait_until(lambda: subprocess.run(["pgrep", "-s", str(first.pid)], capture_output=True).returncode)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)


def wait_until(what):
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_signal_stops_both_processes_at_one_step(recipe, tmp_path):
    class Sender(Tracker):
        def log(self, row):
            if row["step"] == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        engine.run(recipe, directory=tmp_path / "two", sets=["engine.devices=2"], trackers=[Sender()])
    run = RunDirectory.open(tmp_path / "two")
    assert run.status().state == "interrupted"
    assert run.checkpoints.find("last").step == 8  # asked after the row of step 4, agreed on at that of step 8
    assert engine.resume(run.path).status == "finished"
    pair = engine.run(recipe, directory=tmp_path / "calm", sets=["engine.devices=2"]).directory
    for resumed, whole in zip(states(run.path), states(pair), strict=True):
        assert_same(resumed["model"], whole["model"])


# -- devices ----------------------------------------------------------------------------------------------------------


def test_an_absent_accelerator_is_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RunError, match=r"engine\.accelerator=cpu"):
        first_device("cuda")
    assert first_device("auto") == torch.device("cpu")
    assert count_processes(EngineSettings(devices="auto")) == 1
    assert count_processes(EngineSettings(devices=3)) == 3


def test_a_model_is_loaded_on_the_device_it_was_asked_for(monkeypatch):
    """A further process of a run may load another run's weights; the current device must stay its own."""
    made = []
    monkeypatch.setattr(devices, "Fabric", lambda **given: made.append(given) or mock.Mock())
    for device in ("cuda:3", "cuda", "cpu"):
        make_fabric(EngineSettings(), device=torch.device(device))
    assert [(one["accelerator"], one["devices"]) for one in made] == [("cuda", [3]), ("cuda", [0]), ("cpu", 1)]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)],
)
def test_precision(precision, dtype, capfd):
    settings = EngineSettings(accelerator="cpu", precision=precision, threads=1, deterministic=True)
    before = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    with tuned(settings):
        fabric = make_fabric(settings)
        assert (fabric.world_size, fabric.global_rank, fabric.device) == (1, 0, torch.device("cpu"))
        assert torch.are_deterministic_algorithms_enabled()
        with fabric.autocast():
            assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
        release()
    assert (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()) == before
    assert capfd.readouterr() == ("", "")  # Fabric keeps quiet


def test_tuning_touches_the_process_own_device_alone(monkeypatch):
    """Saving the random state of cuda:0 would open a context there in every process."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.zeros(16))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(device))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    settings = EngineSettings(accelerator="cuda", tf32=True, cudnn_benchmark=True)
    with tuned(settings, first_device("cuda", 3)):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # before anything computes
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (True, True, True)
        with tuned(EngineSettings(accelerator="cuda"), first_device("cuda", 3)):
            assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == before
    assert set(asked) == {torch.device("cuda", 3)}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    asked.clear()
    with tuned(settings):
        pass
    assert set(asked) == {torch.device("cuda", 2)}


def test_workers_are_not_left_behind():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), WorkerProcesses(2, store, {}) as workers:
        raise ZeroDivisionError
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
    (worker,) = workers.pids()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
