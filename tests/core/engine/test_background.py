"""Checkpoints are written while the training goes on; what fails there is told, and nothing is left half-done."""

import signal
import threading
import time

import pytest

from genfw.engine import run as engine
from genfw.engine.background import Background
from genfw.errors import DiskError
from genfw.runs import checkpoints
from genfw.runs.directory import RunDirectory
from run_toys import assert_same, composition, final_state, go


@pytest.fixture(autouse=True)
def training_alone(monkeypatch):
    monkeypatch.setattr(engine, "_conclude", lambda *_: [])


def test_things_are_done_in_order_and_told_in_the_callers_thread():
    background, gate, done = Background(1), threading.Event(), []
    background.do(lambda: gate.wait(20) and threading.get_ident(), lambda thread: done.append(("first", thread)))
    background.do(lambda: 2, lambda number: done.append((number, threading.get_ident())))
    assert not done
    gate.set()
    background.settle()
    (_, thread), second = done
    assert thread != threading.get_ident()
    assert second == (2, threading.get_ident())


def test_what_fails_is_raised_once_by_a_later_call():
    background, done = Background(1), []
    background.do(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.settle()
    background.do(lambda: 3, done.append)
    background.settle()
    assert done == [3]


def test_an_exception_waits_for_the_thread_and_comes_first():
    background, gate, done = Background(1), threading.Event(), []

    def work():
        gate.wait(20)
        done.append(1)
        raise ZeroDivisionError

    background.do(work)
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(KeyError), background.settled():
        raise KeyError
    assert done == [1]


def held(monkeypatch, hold):
    """Have the writing of tensors call ``hold`` first."""
    save = checkpoints.save_tensors
    monkeypatch.setattr(checkpoints, "save_tensors", lambda path, tensors: hold(path) or save(path, tensors))


def hooked(function):
    parts = composition(1)
    parts.stages[0][1].hook = function
    return parts


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    gate, waited = threading.Event(), []

    def hold(path):
        if "step000010" in path.parent.name:
            waited.append(gate.wait(60))

    with monkeypatch.context() as patch:
        held(patch, hold)
        go(tmp_path / "held", hooked(lambda step: gate.set() if step == 17 else None))
    assert waited == [True]  # the writing ended after seven further steps had begun
    go(tmp_path / "calm", composition(1))
    assert_same(final_state(tmp_path / "held"), final_state(tmp_path / "calm"))


def test_a_failed_write_ends_the_run_at_the_next_checkpoint(tmp_path, monkeypatch):
    steps = []

    def hold(path):
        if "step000020" in path.parent.name:
            raise DiskError(f"{path} can't be written")

    with monkeypatch.context() as patch:
        held(patch, hold)
        with pytest.raises(DiskError, match="step000020"):
            go(tmp_path / "run", hooked(steps.append))
    assert max(steps) < 30
    run = RunDirectory.open(tmp_path / "run")
    assert (run.status().state, run.checkpoints.find("last").step) == ("failed", 10)
    go(run.path, composition(1))
    go(tmp_path / "calm", composition(1))
    assert_same(final_state(run.path), final_state(tmp_path / "calm"))


def test_an_interrupted_run_ends_when_its_state_is_written(tmp_path, monkeypatch):
    held(monkeypatch, lambda path: time.sleep(0.1))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", hooked(lambda step: signal.raise_signal(signal.SIGTERM) if step == 12 else None))
    run = RunDirectory.open(tmp_path / "run")
    assert run.checkpoints.find("last").step == 13
    assert not list((run.path / "checkpoints").glob(".*"))
