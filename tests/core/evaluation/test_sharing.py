"""One evaluation in two processes on the CPU: the numbers of one, bit for bit, and no silence where one fails."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from genfw.engine import finished as trained
from genfw.engine import run as engine
from genfw.engine.devices import tuned
from genfw.engine.finished import local_plugins, open_evaluation, prepare
from genfw.engine.launching import WorkerProcesses, launched
from genfw.errors import GenfwError, RunError
from genfw.evaluation.measure import write_samples
from genfw.evaluation.sharing import _pack
from genfw.runs.directory import RunDirectory
from genfw.training.settings import EngineSettings
from run_toys import assert_same, edit_recipe

PLUGIN = '''
"""Metrics that share their work out, each in its own way, and a start that counts its draws."""

import os
import signal
import sys
from typing import Literal

import torch

from genfw.plugins.component import Component
from genfw.plugins.hookspecs import hookimpl
from genfw.interfaces import Metric, Result, Start


@hookimpl
def genfw_components():
    return [
        Component("start", "counting", f"{__name__}:Counting", "each draw lies further out"),
        Component("metric", "stream", f"{__name__}:Stream", "moments of samples that are never all in memory"),
        Component("metric", "spread", f"{__name__}:Spread", "one number for each task"),
    ]


class Counting(Start):
    """Begins its draws ever further out."""

    def __init__(self) -> None:
        self.draws = 0

    def draw(self, request):
        self.draws += 1
        return self.draws * request.target.draw_base(request.count, request.generator)

    def state_dict(self):
        return {"draws": self.draws}

    def load_state_dict(self, state):
        self.draws = state["draws"]


class Stream(Metric):
    """Moments of samples."""

    def __init__(self, samples: int = 50) -> None:
        self.samples = samples

    def compute(self, evaluation):
        total = sum(batch.x.double().square().sum() for batch in evaluation.sample_batches(self.samples))
        protocol = evaluation.protocol(samples=self.samples)
        return [Result("square", float(total) / self.samples, protocol=protocol)]


class Spread(Metric):
    """Means of normal numbers, task by task; ``trouble`` at task 3, which is the further process's, ``own`` at 2."""

    def __init__(self, tasks: int = 5, trouble: Literal["", "note", "fault", "own", "death"] = "") -> None:
        self.tasks, self.trouble = tasks, trouble

    def compute(self, evaluation):
        found = evaluation.spread(self.mean, [(number, torch.tensor(0.5 * number)) for number in range(self.tasks)])
        values, processes = zip(*found)
        protocol = evaluation.protocol(tasks=self.tasks)
        return [
            Result(f"mean-{number}", value, protocol=protocol, note=f"{value}") for number, value in enumerate(values)
        ] + [Result("processes", float(len(set(processes))))]

    def mean(self, evaluation, number, shift):
        if number == 2 and self.trouble == "own":
            raise ZeroDivisionError("two")
        if number == 3 and self.trouble == "note":
            from genfw.errors import ContractError
            raise ContractError("three is too many")
        if number == 3 and self.trouble == "fault":
            raise ZeroDivisionError("three")
        if number == 3 and self.trouble == "death" and sys.argv[0].endswith("worker.py"):
            os.kill(os.getpid(), signal.SIGKILL)
        noise = torch.randn(7, generator=evaluation.generator(f"spread.{number}"))
        return float((noise + shift).mean()), os.getpid()
'''

RECIPE = """
genfw: 1
name: shared
seed: 2
plugins: [./shared.py]
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [8]}
encoder: {use: mlp, hidden: [8]}
energy: {use: mlp, on: latent, hidden: [8]}
train: [{use: elbo, steps: 6, batch: 16, optimizer: {use: adam, lr: 1e-2}, average: 0.5, tilted: false}]
sample:
  count: 30
  batch: 8
  keep_every: 2
  sampler: {use: mala, step_size: 1e-2, steps: 4}
  start: [{use: noise}, {use: counting}]
evaluate:
  - {use: spread}
  - {use: spread, trouble: note}
  - {use: spread, trouble: fault}
  - {use: spread, trouble: own}
  - {use: stream}
  - {use: sample-grid}
  - use: reconstruction
    batch: 30
    count: 100
    chain: {sampler: {use: langevin, step_size: 1e-2, steps: 3}, start: {use: noise}}
  - {use: anomaly, outliers: train, count: 40, trials: 3, checkpoints: 2, scores: [log-joint, elbo], batch: 30}
  - {use: ood, derived: [interpolation], scores: [log-p, elbo], count: 40, importance: 3, noise: 0.1}
  - {use: long-run, steps: [16], chains: 10, batch: 4, count: 20, fresh: false}
  - use: log-likelihood
    sampler: {use: hmc, step_size: 1e-1, steps: 2, leapfrog_steps: 2}
    chain: {sampler: {use: mala, step_size: 1e-2, steps: 3}, start: {use: noise}}
    draws: 10
    fits: 4
    refine: 2
    count: 50
    batch: 100
    temperatures: 4
    chains: 8
    settle: 2
engine: {accelerator: cpu, log_every: 2, checkpoint_every: 3, devices: 2}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with two processes, and what it found."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "shared.py").write_text(PLUGIN)
    (folder / "shared.yaml").write_text(RECIPE)
    path = engine.run(folder / "shared.yaml", directory=folder / "run").directory
    assert not torch.distributed.is_initialized()
    return RunDirectory.open(path), records(path)


def records(path):
    """What evaluation.json holds, but for the times it took."""
    content = json.loads((path / "evaluation.json").read_text())
    return [{key: value for key, value in one.items() if key != "metric_seconds"} for one in content["results"]]


def but_for_processes(found):
    return [one for one in found if one["name"] != "processes"]


def counted(found):
    return [one["value"] for one in found if one["name"] == "processes"]


@contextmanager
def two_processes(composition, run):
    settings = composition.engine
    with (
        tuned(settings),
        launched(
            settings,
            run.path,
            2,
            task="evaluate",
            plugins=local_plugins(composition.resolved.recipe, composition.registry),
        ) as fabric,
        open_evaluation(composition, fabric, run) as evaluation,
    ):
        yield evaluation


def test_two_processes_measure_what_one_does(finished):
    run, by_two = finished
    torch.manual_seed(99)
    trained.evaluate_run(run.path)
    by_one = records(run.path)
    assert but_for_processes(by_one) == but_for_processes(by_two)
    assert (counted(by_one), counted(by_two)) == ([1.0], [2.0])
    # A failure costs one metric, and says the same from wherever it comes.
    assert [one["note"].partition(" (")[0] for one in by_one if one["failed"]] == [
        "three is too many",
        "ZeroDivisionError: three",
        "ZeroDivisionError: two",
    ]
    assert {"square", "mse", "auprc-elbo", "auroc-log-p-interpolation", "log-z-lower"} <= {
        one["name"] for one in by_one
    }


@pytest.mark.slow
def test_two_processes_share_what_the_first_one_holds(finished, tmp_path, monkeypatch):
    """Its weights and states, in whatever order and depth things are asked for; and a signal is heard meanwhile."""
    run, _ = finished
    composition = trained.load_run(run.path)
    for parameter in composition.model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    composition.sample.starts[1].draws = 4
    workers = []
    wait = WorkerProcesses.wait_until_ready
    monkeypatch.setattr(WorkerProcesses, "wait_until_ready", lambda self: workers.extend(self.pids()) or wait(self))

    def work():
        with two_processes(composition, run) as evaluation:
            same_samples(prepare(composition, run.path), evaluation, tmp_path)
            same_tasks(prepare(composition, run.path), evaluation, [metric for _, metric in composition.metrics])
            os.kill(workers[0], signal.SIGSTOP)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            evaluation.spread(composition.metrics[0][1].mean, [(0, torch.zeros(())), (1, torch.zeros(()))])

    # Whoever starts the tests in the background may have them ignore this signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(workers[0], 0)
    assert composition.sample.starts[1].draws == 4


def same_samples(alone, shared, folder):
    expected = alone.samples(30)
    first = next(shared.sample_batches(30))  # the others are left where they are
    assert torch.equal(first.x, expected.x[:8])
    found = shared.samples()
    for name in ("x", "position", "potential", "trace", "potentials", "kept", "acceptance"):
        assert_same(getattr(found, name), getattr(expected, name))
    share = torch.cat([batch.x for batch in shared.sample_batches(30, share=(1, 3))])
    assert torch.equal(share, expected.x[8:16])
    for name, evaluation in (("one", alone), ("two", shared)):
        write_samples(evaluation, folder / name, count=45, seed=1)
    one, two = [load_file(folder / name / "samples.safetensors") for name in ("one", "two")]
    assert len(one["x"]) == 45
    assert_same(one, two)


def same_tasks(alone, shared, metrics):
    for batch, known in zip(shared.sample_batches(30), alone.sample_batches(30), strict=True):
        assert_same([batch.x, batch.position, batch.trace], [known.x, known.position, known.trace])
        within = shared.spread(metrics[0].mean, [(number, torch.zeros(())) for number in range(3)])
        assert len({process for _, process in within}) == 2
    with pytest.raises(GenfwError, match="three is too many"):
        shared.spread(metrics[1].mean, [(number, torch.zeros(())) for number in range(5)])
    with pytest.raises(ZeroDivisionError, match="two"):
        shared.spread(metrics[3].mean, [(number, torch.zeros(())) for number in range(5)])
    # A metric that the recipe does not know is this process's own.
    own = shared.spread(type(metrics[0])().mean, [(number, torch.zeros(())) for number in range(3)])
    assert {process for _, process in own} == {os.getpid()}


def test_a_part_of_a_tensor_travels_without_the_rest():
    part = torch.arange(1e6).view(1000, 1000)[:, :3]
    packed = _pack({"part": part})
    assert len(packed) < 50_000
    assert_same(pickle.loads(packed), {"part": part})


@pytest.mark.slow
def test_a_process_that_is_gone_ends_the_evaluation(finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[0].path, copy)
    edit_recipe(copy, "trouble: note", "trouble: death")
    with pytest.raises(RunError, match="one of 2 processes, failed with exit code -9"):
        trained.evaluate_run(copy, processes=2)
    assert not torch.distributed.is_initialized()
    assert not (copy / "LOCK").exists()
    trained.evaluate_run(copy)
    assert sum(one["failed"] for one in records(copy)) == 2


@pytest.mark.slow
def test_a_process_that_can_not_begin_ends_the_evaluation(finished, tmp_path, capfd):
    run, _ = finished
    composition = trained.load_run(run.path)
    began = time.monotonic()
    with (
        pytest.raises(RunError, match="one of 2 processes, failed with exit code 1"),
        launched(composition.engine, tmp_path / "nowhere", 2, task="evaluate"),
    ):
        pytest.fail("there is nobody to begin with")
    assert time.monotonic() - began < 120
    assert "nowhere" in capfd.readouterr().err


def test_more_processes_than_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RunError, match="torch finds 1 here"), launched(EngineSettings(), tmp_path, 2):
        pytest.fail("it began")


@pytest.mark.slow
def test_processes_of_torchrun_serve_the_first(finished, tmp_path):
    run, by_two = finished
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    code = f"from genfw.engine import finished as trained\ntrained.evaluate_run({str(copy)!r})\n"
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "script.py"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300, capture_output=True)
    assert records(copy) == by_two
