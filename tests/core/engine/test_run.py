import json
import os
import random
import shutil
import signal
import threading
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch

from genfw.engine import run as engine
from genfw.engine.finished import load_weights
from genfw.engine.observers import Observers
from genfw.engine.recovery import Clock
from genfw.errors import ContractError, RunError
from genfw.runs.directory import RunDirectory
from genfw.training.scalars import RunningMeans
from genfw.training.tracker import Tracker
from run_toys import assert_same, composition, final_state, go, place

CONCLUDE = engine._conclude


@pytest.fixture(autouse=True)
def training_alone(monkeypatch):
    """These tests are about training; sampling, metrics and report are tested where they live."""
    monkeypatch.setattr(engine, "_conclude", lambda *_: [])


class Notes(Tracker):
    def __init__(self, fail_on=()):
        self.fail_on, self.told = fail_on, []

    def _note(self, kind, *what):
        self.told.append((kind, *what))
        if kind in self.fail_on:
            raise ValueError("broken tracker")

    def start(self, run):
        self._note("start", run.resumed_at, run.stages)

    def log(self, row):
        self._note("log", row["step"])
        row.clear()  # a rude tracker changes nothing for the others

    def event(self, kind, message):
        self._note(kind, message)

    def end(self, status):
        self._note("end", status)


def test_a_stage_ends_when_its_time_is_up(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(Clock, "seconds", lambda clock: now)

    def tick(step):
        nonlocal now
        now += 1.0

    parts = composition(2)
    spent = []
    first, second = (stage for _, stage in parts.stages)
    first.seconds = 12.5
    first.hook = lambda step: (tick(step), spent.append(first.run.spent))
    second.hook = tick
    go(tmp_path / "run", parts)
    run = RunDirectory.open(tmp_path / "run")
    ends = {row["stage"]: row["step"] for row in run.read_metrics()}
    assert ends == {0: 13, 1: 40}
    assert spent[:3] == [0.0, 1.0 / 12.5, 2.0 / 12.5]
    assert [c.step for c in run.checkpoints.all() if c.stage == 0 and c.final] == [13]
    # The second stage has no limit, though the clock is far beyond the first one's.
    assert run.status().state == "finished"


def test_a_run_leaves_everything_behind(tmp_path):
    tracker = Notes()
    go(tmp_path / "run", trackers=[tracker])
    run = RunDirectory.open(tmp_path / "run")
    assert run.status().state == "finished"
    rows = run.read_metrics()
    assert [(row["stage"], row["name"], row["step"]) for row in rows] == [
        (stage, f"restless-{stage}", step) for stage in (0, 1) for step in (7, 14, 21, 28, 35, 40)
    ]
    assert {"loss", "energy/gap", "gradient", "even", "time"} <= rows[0].keys()
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    saved = run.checkpoints.all()
    assert [(one.stage, one.step, one.healthy, one.final) for one in saved] == [
        (0, 40, True, True), (1, 20, True, False), (1, 30, True, False), (1, 40, True, True),
    ]  # fmt: skip
    kinds = [kind for kind, *_ in tracker.told]
    assert kinds[0] == "start"
    assert tracker.told[0] == ("start", None, (("restless-0", 40), ("restless-1", 40)))
    assert kinds[-1] == "end"
    assert [step for kind, step, *_ in tracker.told if kind == "log"] == [row["step"] for row in rows]
    assert json.loads(run.environment.read_text())["packages"]["torch"] == torch.__version__
    assert not (run.path / "LOCK").exists()


def test_the_model_is_left_with_what_finish_made_of_it(tmp_path):
    parts = go(tmp_path / "run")
    state = final_state(tmp_path / "run")
    assert_same(dict(parts.model.state_dict()), state["stage"]["average"]["average"])
    assert not torch.equal(parts.model.state_dict()["0.weight"], state["model"]["0.weight"])
    assert not parts.model.training
    other = composition()
    load_weights(other, RunDirectory.open(tmp_path / "run"))
    assert_same(dict(other.model.state_dict()), dict(parts.model.state_dict()))


def test_a_run_neither_reads_nor_moves_the_callers_randomness(tmp_path):
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    def seed():
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)

    seed()
    go(tmp_path / "a")
    after = draw()
    seed()
    assert draw() == after
    go(tmp_path / "b")
    assert_same(final_state(tmp_path / "a"), final_state(tmp_path / "b"))


def test_observers_and_snapshots_do_not_change_the_run(tmp_path, monkeypatch):
    def nosy(model, settings, count, *, seed, device):
        torch.rand(7), np.random.rand(3), random.random()
        return SimpleNamespace(x=model(torch.randn(count, 2)))

    drawn = []
    monkeypatch.setattr("genfw.engine.loop.draw_samples", nosy)
    monkeypatch.setattr("genfw.engine.loop.save_samples", lambda path, x: drawn.append((path.name, x.shape)))
    go(tmp_path / "plain", composition(1))
    watched = composition(1, engine_settings={"snapshot_every": 15})
    go(tmp_path / "watched", watched, trackers=[Notes(fail_on={"log"})])
    assert drawn == [("stage0-step000015.png", (4, 1)), ("stage0-step000030.png", (4, 1))]
    assert_same(final_state(tmp_path / "plain"), final_state(tmp_path / "watched"))


def test_a_broken_tracker_is_reported_once_and_dropped(tmp_path, capsys):
    broken, sound = Notes(fail_on={"log"}), Notes()
    go(tmp_path / "run", trackers=[broken, sound])
    assert [kind for kind, *_ in broken.told].count("log") == 1
    assert [kind for kind, *_ in sound.told].count("log") == 12
    assert capsys.readouterr().err.count("broken tracker") == 1


def test_a_failure_is_recorded_with_its_reason(tmp_path):
    parts = composition()

    def fail(step):
        if step == 15:
            raise ZeroDivisionError("sixteenth step")

    parts.stages[0][1].hook = fail
    tracker = Notes()
    with pytest.raises(ZeroDivisionError):
        go(tmp_path / "run", parts, trackers=[tracker])
    status = RunDirectory.open(tmp_path / "run").status()
    assert (status.state, status.stage) == ("failed", "restless-0")
    assert "sixteenth step" in status.reason
    assert tracker.told[-1] == ("end", "failed")


def test_a_report_that_can_not_be_written_does_not_fail_the_run(tmp_path, monkeypatch):
    def no_page(_):
        raise OSError("no room")

    monkeypatch.setattr(engine, "_conclude", CONCLUDE)
    monkeypatch.setattr(engine, "_see_samples", lambda *_: None)
    monkeypatch.setattr("genfw.runs.pages.report.write_report", no_page)
    tracker = Notes()
    go(tmp_path / "run", trackers=[tracker])
    assert RunDirectory.open(tmp_path / "run").status().state == "finished"
    assert [message for kind, message, *_ in tracker.told if kind == "warning"] == [
        "the report was not written (OSError: no room); `genfw report` writes it again"
    ]


def test_training_needs_data(tmp_path):
    parts = composition()
    parts.data = None
    with pytest.raises(ContractError, match="data"):
        go(tmp_path / "run", parts)


def test_two_processes_cant_be_at_one_run(tmp_path):
    parts = composition()
    where = place(tmp_path / "run")
    with where.lock(), pytest.raises(RunError, match="in use"):
        engine.drive(parts, where)


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [3, 19])  # between checkpoints, and on one
def test_a_signal_saves_and_stops_and_resuming_changes_nothing(tmp_path, number, at):
    go(tmp_path / "straight")
    parts = composition()

    def send(step):
        if step == at and parts.stages[0][1].run.lr_scale == 1.0:
            os.kill(os.getpid(), number)

    parts.stages[0][1].hook = send
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", parts)
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    run = RunDirectory.open(tmp_path / "run")
    assert run.status().state == "interrupted"
    assert run.checkpoints.find("last").step == at + 1
    tracker = Notes()
    go(tmp_path / "run", trackers=[tracker])
    assert tracker.told[0][1] == (0, at + 1)
    assert_same(final_state(tmp_path / "run"), final_state(tmp_path / "straight"))
    without_time = [{k: v for k, v in row.items() if k != "time"} for row in run.read_metrics()]
    straight = RunDirectory.open(tmp_path / "straight").read_metrics()
    assert without_time == [{k: v for k, v in row.items() if k != "time"} for row in straight]
    assert [one.step for one in run.checkpoints.all()] == [
        one.step for one in RunDirectory.open(tmp_path / "straight").checkpoints.all()
    ]


def test_a_run_in_a_thread_leaves_signals_alone(tmp_path):
    errors = []

    def work():
        try:
            go(tmp_path / "run", composition(1, steps=8))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert RunDirectory.open(tmp_path / "run").status().state == "finished"


# -- rows -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Alone:
    world_size: int = 1


def test_rows_are_means_over_the_steps_that_had_a_value():
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    means.add({"a": torch.tensor(2.0)})
    means.add({"a": torch.tensor(6.0), "b": torch.tensor(30.0)})
    copied = RunningMeans()
    copied.load_state_dict(means.state_dict())
    assert means.take(Alone(), flag=True) == ({"a": 3.0, "b": 20.0}, True)
    assert copied.take(Alone()) == ({"a": 3.0, "b": 20.0}, False)
    assert means.take(Alone()) == ({}, False)
    means.add({})
    means.add({"a": torch.tensor(float("nan"))})
    means.add({"a": torch.tensor(1.0)})
    assert np.isnan(means.take(Alone())[0]["a"])
    with pytest.raises(ContractError, match="'wide'"):
        means.add({"wide": torch.ones(2)})


def test_hooks_of_plugins_are_told_apart_from_one_another(capsys):
    from genfw.engine.observers import hook_trackers
    from genfw.plugins.hookspecs import hookimpl
    from genfw.plugins.registry import Registry, new_manager

    told = []

    class Good:
        @hookimpl
        def genfw_run_log(self, row):
            told.append(row["step"])

    class Bad:
        @hookimpl
        def genfw_run_log(self, row):
            raise OSError("disk full")

        @hookimpl
        def genfw_run_end(self, status):
            told.append(status)

    class Silent:
        pass

    manager = new_manager()
    for name, plugin in (("bad", Bad()), ("good", Good()), ("silent", Silent())):
        manager.register(plugin, name)
    trackers = hook_trackers(Registry(manager=manager))
    assert len(trackers) == 2
    observers = Observers(trackers)
    observers.log({"step": 1})
    observers.log({"step": 2})
    observers.end("finished")
    assert told == [1, 2]
    assert "bad" in capsys.readouterr().err


def test_a_run_directory_that_is_removed_meanwhile_is_no_success(tmp_path, monkeypatch):
    def measure(*_):
        shutil.rmtree(tmp_path / "run")
        return []

    monkeypatch.setattr(engine, "_conclude", measure)
    with pytest.raises(RunError, match=r"run was removed or emptied while the run was at work"):
        go(tmp_path / "run", composition(1, steps=2))
