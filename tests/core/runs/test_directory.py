import json
import os
import subprocess
import sys
import threading
import time

import pytest

from genfw.errors import RunError
from genfw.runs import lock
from genfw.runs.directory import RunDirectory, Status, list_runs


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "demo", "name: demo\n", "name: demo  # as given\n")


def test_a_fresh_directory_is_named_by_time_and_hash_and_never_shared(tmp_path):
    first = RunDirectory.create(tmp_path, "demo", "name: demo\n", "given")
    second = RunDirectory.create(tmp_path, "demo", "name: demo\n")
    other = RunDirectory.create(tmp_path, "demo", "name: demo\nseed: 1\n")
    assert len({first.path, second.path, other.path}) == 3
    assert first.path.parent == tmp_path / "demo"
    assert first.path.name.split("-")[2] == second.path.name.split("-")[2] != other.path.name.split("-")[2]
    assert first.recipe.read_text() == "given"
    assert first.resolved.read_text() == "name: demo\n"


def test_a_directory_in_use_is_not_taken_over(tmp_path, run):
    with pytest.raises(RunError, match="not empty"):
        RunDirectory.create(tmp_path, "demo", "", path=run.path)
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.open(tmp_path)
    assert RunDirectory.create(tmp_path, "demo", "name: demo\n", path=tmp_path / "mine").path == tmp_path / "mine"


def test_a_folder_with_a_recipe_of_the_user_is_not_taken(tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        RunDirectory.create(tmp_path, "demo", "name: demo\n", path=tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_status_says_killed_when_the_process_is_gone(run):
    assert run.status().state == "killed"
    with run.lock():
        run.write_status(Status("running", "elbo", 7))
        assert run.status() == Status("running", "elbo", 7, pid=os.getpid(), time=run.status().time)
    assert run.status().state == "killed"
    assert (run.status().stage, run.status().step) == ("elbo", 7)
    run.write_status(Status("failed", reason="no luck"))
    assert (run.status().state, run.status().reason) == ("failed", "no luck")


def test_rows_survive_a_torn_last_line(run):
    run.append_metrics({"step": 1, "loss": 0.5})
    run.append_metrics({"step": 2, "loss": float("nan"), "inner": {"x": float("inf")}})
    with open(run.metrics, "a") as file:
        file.write('{"step": 3, "lo')
    assert run.read_metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "inner": {"x": None}}]
    run.metrics.unlink()
    assert run.read_metrics() == []


def test_going_back_forgets_rows_but_not_that_the_run_was_interrupted(run):
    run.append_metrics({"step": 1})
    run.append_event("stage", "begins", step=0)
    sizes = run.log_sizes()
    run.append_metrics({"step": 2})
    run.append_event("warning", "gap", step=2)
    run.append_event("end", "interrupted")
    with open(run.metrics, "a") as file:
        file.write('{"step"')
    run.truncate(sizes)
    assert run.read_metrics() == [{"step": 1}]
    assert [event["kind"] for event in run.read_events()] == ["stage", "end"]
    run.append_metrics({"step": 2})
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_a_rollback_keeps_the_rows_of_the_path_it_gives_up(run):
    run.append_metrics({"step": 1})
    sizes = run.log_sizes()
    run.append_metrics({"step": 2, "loss": 1e9})
    run.append_event("rollback", "gap", step=2)
    run.truncate(sizes, reject=True)
    assert run.read_metrics() == [{"step": 1}]
    assert [json.loads(line) for line in run.rejected.read_text().splitlines()] == [{"step": 2, "loss": 1e9}]
    assert len(run.read_events()) == 1


def test_a_log_that_lost_its_end_is_not_grown(run):
    run.append_metrics({"step": 1})
    run.truncate({"metrics.jsonl": 10_000, "events.jsonl": 10_000})
    assert run.read_metrics() == [{"step": 1}]


# -- locking ----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from genfw.runs.directory import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_turned_away_and_a_dead_one_is_not_waited_for(run):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"), run.lock():
            pass
        run.write_status(Status("running"))
        assert run.status().state == "running"
        holder.kill()
        holder.wait()
    assert run.status().state == "killed"
    with run.lock():
        assert json.loads((run.path / "LOCK").read_text())["pid"] == os.getpid()
    assert not (run.path / "LOCK").exists()


def test_a_process_that_got_the_number_of_a_dead_one_holds_nothing(run):
    (run.path / "LOCK").write_text(json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "started": "1"}))
    with run.lock():
        assert json.loads((run.path / "LOCK").read_text())["started"] != "1"


def test_a_lock_from_another_machine_holds_while_it_is_touched(run, monkeypatch):
    path = run.path / "LOCK"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": None}))
    run.write_status(Status("running"))
    assert run.status().state == "running"
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    touch = threading.Timer(0.1, os.utime, [path])
    touch.start()
    with pytest.raises(RunError, match="elsewhere"), run.lock():
        pass
    touch.join()
    # Its clock may be wrong: what counts is that nothing touches it while this process looks.
    os.utime(path, (time.time() + 30.0,) * 2)
    monkeypatch.setattr(lock, "EXPIRY", 0.1)
    with run.lock():
        assert json.loads(path.read_text())["pid"] == os.getpid()
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": None}))
    os.utime(path, (time.time() - 1.0,) * 2)
    assert run.status().state == "killed"


def test_a_holder_touches_its_lock_and_no_other(run, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    path = run.path / "LOCK"
    with run.lock():
        os.utime(path, (0.0, 0.0))
        while path.stat().st_mtime == 0.0:
            time.sleep(0.01)
        path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": None}))
        os.utime(path, (0.0, 0.0))
        time.sleep(0.1)
        assert path.stat().st_mtime == 0.0
    assert path.exists()


# -- all runs ---------------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_their_numbers(tmp_path):
    assert list_runs(tmp_path / "none") == []
    began = time.time()
    first = RunDirectory.create(tmp_path, "a", "genfw: 1\nname: alpha\n")
    first.write_status(Status("finished"))
    first.evaluation.write_text(
        json.dumps({"results": [{"name": "fid", "value": 12.5}, {"name": "mse", "value": None}]})
    )
    second = RunDirectory.create(tmp_path, "b", "name: beta\n")
    second.write_status(Status("interrupted", "elbo", 30, "a signal asked it to stop"))
    (tmp_path / "b" / "not-a-run").mkdir()
    alpha, beta = list_runs(tmp_path)
    assert (alpha.name, alpha.path, alpha.status) == ("alpha", first.path, "finished")
    assert alpha.numbers == {"fid": 12.5, "mse": None}
    assert (beta.name, beta.status, beta.stage, beta.step) == ("beta", "interrupted", "elbo", 30)
    assert beta.numbers == {}
    assert began - 1 <= alpha.updated <= time.time()
    assert second.path.name.startswith(beta.time)
