"""A run directory elsewhere: copied at every checkpoint, and brought back to go on with."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import fsspec
import pytest

from genfw.engine import run as engine
from genfw.errors import RunError
from genfw.runs.directory import RunDirectory
from genfw.runs.mirror import Mirror
from genfw.training.tracker import Tracker
from ports import free_port
from run_toys import assert_same, final_state
from tiny_recipe import TINY_VAE

RECIPE = (
    TINY_VAE
    + """train: [{use: elbo, steps: 12, batch: 8, optimizer: {use: adam, lr: 1e-3}}]
sample: {count: 4}
engine: {accelerator: cpu, threads: 1, log_every: 2, checkpoint_every: 4, keep: 2}
"""
)


class Sender(Tracker):
    def log(self, row):
        if row["step"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def contents(path):
    files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".", "LOCK")))
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def copied(url):
    files, base = fsspec.core.url_to_fs(url)
    return {name[len(base) :].lstrip("/"): files.cat_file(name) for name in files.find(base)}


def goes_on(recipe, tmp_path, url):
    """A run whose directory is lost midway ends as one that was left in peace; its copy is as it is."""
    sets = [f"engine.mirror={url}"]
    with pytest.raises(KeyboardInterrupt):
        engine.run(recipe, directory=tmp_path / "run", sets=sets, trackers=[Sender()], go_on=True)
    assert copied(f"{url}/run") == contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert engine.run(recipe, directory=tmp_path / "run", sets=sets, go_on=True).status == "finished"
    assert any(row["kind"] == "resume" for row in RunDirectory(tmp_path / "run").read_events())
    assert copied(f"{url}/run") == contents(tmp_path / "run")
    whole = engine.run(recipe, directory=tmp_path / "whole").directory
    assert_same(final_state(tmp_path / "run"), final_state(whole))


def test_a_run_goes_on_from_its_copy(recipe, tmp_path):
    goes_on(recipe, tmp_path, "memory://runs")


def test_a_copy_that_stops_midway_is_no_checkpoint(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "toy", "name: toy\n", path=tmp_path / "run")
    mirror = Mirror("memory://midway", run.path)
    kept = run.checkpoints.save({"x": 1}, stage=0, step=1)
    mirror.push()
    run.checkpoints.save({"x": 2}, stage=0, step=2)
    run.checkpoints._remove(kept.path)
    put, done = mirror._files.put_file, []

    def put_some(source, target):
        if len(done) == 2:
            raise OSError("the network is gone")
        done.append(put(source, target))

    monkeypatch.setattr(mirror._files, "put_file", put_some)
    with pytest.raises(OSError, match="network"):
        mirror.push()
    there = RunDirectory(tmp_path / "there" / "run")
    assert Mirror("memory://midway", there.path).pull()
    assert there.checkpoints.all() == []
    monkeypatch.undo()
    mirror.push()
    assert copied("memory://midway/run") == contents(run.path)


def test_a_mirror_that_fails_does_not_stop_the_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Mirror, "push", lambda self: (_ for _ in ()).throw(OSError("no network")))
    run = engine.run(recipe, directory=tmp_path / "run", sets=["engine.mirror=memory://runs"])
    messages = [row["message"] for row in RunDirectory(run.directory).read_events() if row["kind"] == "warning"]
    assert messages
    assert all("no network" in message for message in messages)


def test_an_unknown_file_system_is_refused(recipe, tmp_path):
    with pytest.raises(RunError, match=r"engine\.mirror is 'nowhere://x'"):
        engine.run(recipe, directory=tmp_path / "run", sets=["engine.mirror=nowhere://x"])


@pytest.mark.slow
def test_s3(recipe, tmp_path, monkeypatch):
    """s3fs against moto's server: pip install s3fs 'moto[server]'."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        end = time.monotonic() + 60.0
        while True:
            try:
                urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"]).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("bucket")
        goes_on(recipe, tmp_path, "s3://bucket/runs")
    finally:
        server.terminate()
        server.wait()
