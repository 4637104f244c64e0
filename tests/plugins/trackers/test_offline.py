"""Trackers `wandb` and `mlflow` in their offline modes, read back through their own readers."""

import itertools
import json
import math
import os
import struct
import time
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imsave

from genfw.engine import run as engine
from genfw.plugins import load_plugins
from genfw.plugins.hookspecs import RunInfo
from genfw.runs.directory import RunDirectory
from genfw.testing import TrackerSuite

pytest.importorskip("wandb")
pytest.importorskip("mlflow")

from mlflow.tracking import MlflowClient
from wandb.proto import wandb_internal_pb2

from genfw_plugins.trackers.mlflow import MLflow
from genfw_plugins.trackers.wandb import WeightsAndBiases
from tiny_recipe import TINY_VAE

RECIPE = {"name": "tiny", "seed": 3, "train": [{"use": "elbo", "steps": 100}, {"use": "contrastive", "steps": 50}]}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def run_twice(make, folder):
    """A run that is interrupted, and its resumption; every kind of value a row may have."""
    (folder / "samples").mkdir()
    imsave(folder / "samples" / "model.png", np.zeros((5, 7, 3), dtype=np.uint8))
    stages = (("elbo", 100), ("contrastive", 50))
    for resumed_at, stage, name, step, loss in (
        (None, 0, "elbo", 100, 2.0),
        ((1, 0), 1, "contrastive", 50, 0.25),
    ):
        if resumed_at:
            time.sleep(1.1)  # W&B names an offline session by the second it began in
        tracker = make()
        tracker.start(RunInfo("tiny", folder, RECIPE, stages, resumed_at))
        row = {"stage": stage, "name": name, "step": step, "time": 0.5, "loss": loss, "bad": math.nan, "odd": None}
        tracker.log(row)
        tracker.event("warning", "the energy gap is large")
        tracker.end("finished" if resumed_at else "interrupted")
        tracker.end("finished")


def test_mlflow(tmp_path, monkeypatch):
    run_twice(MLflow, tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("genfw").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }
    assert history["elbo/loss"] == [(100, 2.0)]
    assert history["contrastive/loss"] == [(150, 0.25)]
    assert set(history) == {f"{stage}/{key}" for stage in ("elbo", "contrastive") for key in ("loss", "time")}
    assert run.data.params["train.1.steps"] == "50"
    assert run.data.tags["genfw.warning"] == "step 150: the energy gap is large"
    assert [one.path for one in client.list_artifacts(run.info.run_id, "samples")] == ["samples/model.png"]


def test_mlflow_leaves_the_environment_alone_and_says_when_it_can_t_be_reached(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    MLflow().start(RunInfo("tiny", tmp_path, RECIPE, (("elbo", 1),)))
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    with pytest.raises(RuntimeError, match="MLflow can't be reached at gopher://x"):
        MLflow(uri="gopher://x").start(RunInfo("tiny", tmp_path, RECIPE, (("elbo", 1),)))


def records(path):
    """Records of a .wandb file: a LevelDB log, in blocks of 32 KiB, after a head of 7 bytes."""
    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def sessions(folder):
    """The files of a run's offline sessions, once each has its last record: W&B writes in a process of its own."""
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    for file in files:
        for _ in range(200):
            if any(record.WhichOneof("record_type") == "exit" for record in records(file)):
                break
            time.sleep(0.1)
    return files


def items_of(record):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def rewound(make, folder):
    """A run that is rolled back, killed after a further row, and resumed."""
    stages = (("elbo", 100), ("contrastive", 50))

    def tell(tracker, rows):
        for step, loss in rows:
            tracker.log({"stage": 0, "name": "elbo", "step": step, "time": 0.5, "loss": loss})

    first = make()
    first.rewind(0, 1)  # before its start: no error
    first.start(RunInfo("tiny", folder, RECIPE, stages))
    tell(first, [(10, 1.0), (20, 2.0), (30, 3.0)])
    first.rewind(0, 10)
    first.event("rollback", "back from step 30 to step 10")
    tell(first, [(20, -2.0), (30, -3.0)])
    first.end("interrupted")
    time.sleep(1.1)
    second = make()
    second.start(RunInfo("tiny", folder, RECIPE, stages, (0, 20)))
    second.rewind(0, 20)
    tell(second, [(30, 30.0), (40, 40.0)])
    second.end("finished")


#: The path that :func:`rewound` ends on.
PATH = [(10, 1.0), (20, -2.0), (30, 30.0), (40, 40.0)]


def test_mlflow_says_which_points_were_given_up(tmp_path, monkeypatch):
    clock = itertools.count(1)
    monkeypatch.setattr("genfw_plugins.trackers.mlflow.time", SimpleNamespace(time=lambda: next(clock)))
    rewound(MLflow, tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("genfw").experiment_id])
    points = client.get_metric_history(run.info.run_id, "elbo/loss")
    assert len(points) == 7  # MLflow takes none back
    rewinds = json.loads(run.data.tags["genfw.rewinds"])
    kept = [
        (point.step, point.value)
        for point in points
        if not any(point.timestamp <= one["time"] and point.step > one["step"] for one in rewinds)
    ]
    assert kept == PATH


def test_wandb_takes_earlier_steps_again(tmp_path):
    rewound(WeightsAndBiases, tmp_path)
    rows, axes = [], {}
    for file in sessions(tmp_path):
        for record in records(file):
            if record.WhichOneof("record_type") == "history":
                rows.append(items_of(record))
            elif record.WhichOneof("record_type") == "metric":
                axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    assert axes["*"] == "genfw/step"
    assert [row["genfw/step"] for row in rows] == [10, 20, 30, 10, 20, 30, 20, 30, 40]
    numbers = [row["_step"] for row in rows]
    assert numbers == sorted(set(numbers))  # W&B drops rows whose number does not rise, over sessions too
    kept = [
        (row["genfw/step"], row["elbo/loss"])
        for number, row in enumerate(rows)
        if "elbo/loss" in row and not any(later["genfw/step"] < row["genfw/step"] for later in rows[number + 1 :])
    ]
    assert kept == PATH


def test_wandb(tmp_path):
    run_twice(WeightsAndBiases, tmp_path)
    files = sessions(tmp_path)
    history, summary, ids, config = {}, {}, set(), {}
    for file in files:
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                items = items_of(record)
                assert items["_step"] == items["genfw/step"]
                step = items["_step"]
                history |= {(key, step): value for key, value in items.items() if not key.startswith("_")}
            elif kind == "run":
                ids.add(record.run.run_id)
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "summary":
                summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
    assert len(ids) == 1
    assert config["train"][1]["steps"] == 50
    assert history[("elbo/loss", 100)] == 2.0
    assert history[("contrastive/loss", 150)] == 0.25
    assert not any("bad" in key or "odd" in key for key, _ in history)
    assert history[("samples/model/width", 151)] == 7
    assert summary["status"] == "finished"
    assert summary["events/warning"] == "step 150: the energy gap is large"


class TestMLflow(TrackerSuite):
    def make(self):
        return MLflow()


class TestWeightsAndBiases(TrackerSuite):
    def make(self):
        return WeightsAndBiases()


def test_a_run_tells_both(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        TINY_VAE
        + """train: [{use: elbo, steps: 4, batch: 8, optimizer: {use: adam, lr: 1e-3}}]
sample: {count: 4}
engine: {log_every: 2}
trackers: [{use: wandb}, {use: mlflow}]
"""
    )
    result = engine.run(recipe, root=tmp_path / "runs", registry=load_plugins(enabled=False))
    assert result.status == "finished"
    assert not [row for row in RunDirectory.open(result.directory).read_events() if row["kind"] == "warning"]
    (file,) = (result.directory / "wandb").glob("offline-run-*/run-*.wandb")
    kinds = [record.WhichOneof("record_type") for record in records(file)]
    assert kinds.count("history") >= 2
    (status,) = (result.directory / "mlruns").rglob("metrics/elbo/loss")
    assert len(status.read_text().splitlines()) == 2
