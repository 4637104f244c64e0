"""A run that is killed and resumed ends with the same bits as one that never was."""

import json
import os
import subprocess
import sys

import pytest
import torch

from genfw.engine import run as engine
from genfw.errors import ChangedRecipeError, RunError
from genfw.runs.directory import RunDirectory
from places import ROOT
from run_toys import Explosive, assert_same, composition, final_state, flat, go, place

HELPERS = ROOT / "tests" / "helpers"

#: Forks a run, kills it after the seconds given, resumes it, ... and finishes it. A process of its own: a forked
#: child may not use autograd after its parent.
KILLER = """
import os, signal, sys, time
from pathlib import Path
from genfw.engine import run as engine
engine._conclude = lambda *_: []
from run_toys import go
path, waits = Path(sys.argv[1]), [float(wait) for wait in sys.argv[2:]]
kills = 0
for wait in [*waits, None]:
    child = os.fork()
    if not child:
        go(path)
        os._exit(0)
    if wait is None:
        assert os.waitpid(child, 0)[1] == 0
        break
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
print(kills)
"""


@pytest.fixture(autouse=True)
def training_alone(monkeypatch):
    monkeypatch.setattr(engine, "_conclude", lambda *_: [])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_conclude", lambda *_: [])
        go(path)
    return path


def rows(path):
    return [{k: v for k, v in row.items() if k != "time"} for row in RunDirectory.open(path).read_metrics()]


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path, straight):
    seed = int.from_bytes(os.urandom(4), "big")
    waits = (0.05 + 0.35 * torch.rand(4, generator=torch.Generator().manual_seed(seed))).tolist()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "run"), *map(str, waits)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (waits, done.stderr)
    assert int(done.stdout) >= 1, waits
    assert_same(final_state(tmp_path / "run"), final_state(straight))
    assert rows(tmp_path / "run") == rows(straight)
    assert not list((tmp_path / "run" / "checkpoints").glob(".tmp*"))


class KilledError(BaseException):
    """Nothing in the engine may catch it and tidy up."""


def die_at(monkeypatch, number):
    """Have the ``number``-th change of the disk, from now on, end the run as a kill would."""
    calls = 0

    def wrap(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls >= number:  # and every one after it: a dead process writes nothing
                raise KilledError
            return original(*args, **kwargs)

        return call

    import genfw.runs.checkpoints

    monkeypatch.setattr(os, "replace", wrap(os.replace))
    monkeypatch.setattr(os, "fsync", wrap(os.fsync))
    monkeypatch.setattr(genfw.runs.checkpoints, "save_tensors", wrap(genfw.runs.checkpoints.save_tensors))
    return lambda: calls


def test_kill_at_the_write_points_of_a_run(tmp_path):
    parts, where = composition(1, steps=20), place(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(patch, 10**9)
        engine.drive(parts, where)
        writes = count()
    # Every write of the checkpoint at step 10 and of what surrounds it, and the run's ends.
    for number in [1, 5, *range(12, 34), writes - 4, writes - 2]:
        path = tmp_path / str(number)
        parts, where = composition(1, steps=20), place(path)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, number)
            with pytest.raises(KilledError):
                engine.drive(parts, where)
        # The with-blocks of a killed process release nothing.
        (path / "LOCK").write_text(json.dumps({"pid": 2**22 + 1, "host": os.uname().nodename, "started": None}))
        go(path, composition(1, steps=20))
        assert_same(final_state(path), final_state(tmp_path / "whole"))
        assert rows(path) == rows(tmp_path / "whole")
        assert not list((path / "checkpoints").glob(".*"))


def stop_at(parts, stage, step):
    def hook(number):
        if number == step:
            raise KilledError

    parts.stages[stage][1].hook = hook
    return parts


@pytest.mark.parametrize(("stage", "step"), [(0, 0), (0, 10), (0, 13), (1, 0), (1, 39)])
def test_every_piece_of_state_is_restored(tmp_path, straight, stage, step):
    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(), stage, step))
    go(tmp_path / "run")
    assert_same(final_state(tmp_path / "run"), final_state(straight))
    assert rows(tmp_path / "run") == rows(straight)


@pytest.mark.parametrize(
    "leaf",
    [
        "/generator",
        "/random/torch",
        "/random/numpy/2",
        "/random/python/1",
        "/stage/replay/rows",
        "/stage/average/updates",
    ],
)
def test_the_comparison_would_notice_a_lost_piece(tmp_path, straight, leaf, monkeypatch):
    """Negative control: with one piece spoilt on the way back, the end differs."""
    from genfw.runs.checkpoints import Checkpoints

    load = Checkpoints.load

    def forgetful(self, checkpoint, **options):
        state = load(self, checkpoint, **options)
        *path, last = leaf.strip("/").split("/")
        inner = state
        for key in path:
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        last = int(last) if isinstance(inner, list) else last
        value = inner[last]
        if leaf == "/generator":
            inner[last] = torch.Generator().manual_seed(5).get_state()
        elif leaf == "/random/torch":
            inner[last] = torch.Generator().manual_seed(6).get_state()
        else:
            inner[last] = value + 1
        return state

    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(), 0, 13))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "load", forgetful)
        go(tmp_path / "run")
    left, right = flat(final_state(tmp_path / "run")), flat(final_state(straight))
    assert any(not torch.equal(left[k], right[k]) for k in left if k.startswith("/model"))


def test_a_damaged_checkpoint_is_passed_over(tmp_path, straight, caplog):
    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(), 0, 35))
    store = RunDirectory.open(tmp_path / "run").checkpoints
    (store.find("last").path / "state.safetensors").write_bytes(b"rubbish")
    go(tmp_path / "run")
    assert "SHA-256" in caplog.text
    assert_same(final_state(tmp_path / "run"), final_state(straight))


def test_a_kill_after_training_goes_on_with_evaluation(tmp_path, straight, monkeypatch):
    told = []

    def killed(*_):
        raise KilledError

    monkeypatch.setattr(engine, "_conclude", killed)
    with pytest.raises(KilledError):
        go(tmp_path / "run")
    monkeypatch.setattr(engine, "_conclude", lambda parts, *_: told.append(dict(parts.model.state_dict())) or [])
    parts = composition()
    parts.stages[1][1].hook = parts.stages[0][1].hook = lambda step: told.append("a step")
    go(tmp_path / "run", parts)
    (weights,) = told
    assert_same(weights, final_state(straight)["stage"]["average"]["average"])
    assert RunDirectory.open(tmp_path / "run").status().state == "finished"


def test_a_rollback_survives_a_kill(tmp_path):
    go(tmp_path / "whole", composition(1, stage=Explosive))
    for step in (27, 23):
        path = tmp_path / str(step)
        parts = composition(1, stage=Explosive)
        stage = parts.stages[0][1]

        def kill_on_the_second_path(number, stage=stage, step=step):
            if number == step and stage.run.lr_scale < 1.0:
                raise KilledError

        stage.hook = kill_on_the_second_path
        with pytest.raises(KilledError):
            go(path, parts)
        go(path, composition(1, stage=Explosive))
        assert_same(final_state(path), final_state(tmp_path / "whole"))
        assert rows(path) == rows(tmp_path / "whole")


def test_changed_versions_are_warned_of(tmp_path, caplog):
    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(), 0, 13))
    run = RunDirectory.open(tmp_path / "run")
    before = json.loads(run.environment.read_text())
    before["packages"]["torch"] = "1.0"
    before["plugins"] = [{"name": "genfw-quad:quad", "version": "1", "code": ""}]
    run.environment.write_text(json.dumps(before))
    go(tmp_path / "run")
    assert "torch was 1.0 and is" in caplog.text
    assert "the plugin genfw-quad:quad 1 is gone" in caplog.text
    assert [event["kind"] for event in run.read_events()].count("warning") == 2
    assert json.loads(run.environment.read_text())["before"][0]["packages"]["torch"] == "1.0"


def test_a_checkpoint_of_another_model_is_explained(tmp_path):
    from genfw.errors import RunError

    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(), 0, 13))
    parts = composition()
    parts.model.add_module("extra", torch.nn.Linear(1, 1))
    with pytest.raises(RunError, match="does not fit"):
        go(tmp_path / "run", parts)


def test_the_count_of_threads_goes_with_the_run(tmp_path):
    from genfw.runs import checkpoints

    seen = []
    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(1, steps=16), 0, 13))
    meta = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").find("last").path / "checkpoint.json"
    content = json.loads(meta.read_text())
    content["info"]["threads"] = 2
    content["digest"] = checkpoints._digest(content)
    meta.write_text(json.dumps(content))
    parts = composition(1, steps=16)
    parts.stages[0][1].hook = lambda step: seen.append(torch.get_num_threads())
    before = torch.get_num_threads()
    go(tmp_path / "run", parts)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_an_edited_recipe_is_not_resumed(tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(1, steps=16), 0, 13))
    resolved = tmp_path / "run" / "resolved.yaml"
    resolved.write_text(resolved.read_text() + "\n")
    with pytest.raises(ChangedRecipeError, match=r"resolved\.yaml has changed since stage0-step\d+ was written"):
        go(tmp_path / "run", composition(1, steps=16))


def test_a_run_without_a_whole_checkpoint_is_not_begun_again_in_silence(tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path / "run", stop_at(composition(1, steps=16), 0, 13))
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    with pytest.raises(RunError, match=r"no checkpoint of .* is whole: .* is damaged.*begin a new run"):
        go(tmp_path / "run", composition(1, steps=16))
