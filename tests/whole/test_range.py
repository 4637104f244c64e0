"""Runs on images whose values are not in [-1, 1]: what their numbers say, or why there are none."""

import json

import numpy as np
import pytest

from genfw.engine import run as engine
from genfw.plugins import load_plugins

STAGE = "[{use: elbo, steps: 50, batch: 32, optimizer: {use: adam, lr: 1e-2}}]"
RECIPE = """
genfw: 1
name: range
data: {use: tensor-file, file: data.npz, shape: [1, 8, 8]}
prior: {use: standard-normal, dim: 4}
decoder: {use: mlp, hidden: [16], sigma: 0.3}
encoder: {use: mlp, hidden: [16]}
train: TRAIN
sample: {count: 8, mean: true}
evaluate:
  - {use: fid, samples: 32, features: {extractor: random}}
  - {use: reconstruction}
  - {use: sample-grid, count: 4}
engine: {log_every: 25, threads: 1}
"""


def evaluated(folder, x, *, train=True):
    rows = np.random.default_rng(0).random((96, 1, 8, 8), dtype=np.float32)
    np.savez(folder / "data.npz", train=x(rows[:64]), test=x(rows[64:]))
    (folder / "range.yaml").write_text(RECIPE.replace("TRAIN", STAGE if train else "[]"))
    result = engine.run(folder / "range.yaml", root=folder / "runs", registry=load_plugins(enabled=False))
    assert result.status == "finished"
    found = json.loads((result.directory / "evaluation.json").read_text())["results"]
    return {one["name"]: one for one in found}


def test_images_in_half_of_the_range_are_noted(tmp_path):
    found = evaluated(tmp_path, lambda x: x)
    for name in ("fid", "mse"):
        assert found[name]["value"] is not None
        assert "All data lie in [0, 1]: half of the levels are unused" in found[name]["note"]


def test_bytes_as_floats_are_refused(tmp_path):
    found = evaluated(tmp_path, lambda x: 255 * x, train=False)
    assert found["fid"]["failed"]
    assert "the data (split 'train') have values from 0.0" in found["fid"]["note"]
    assert "to 255, and genfw's images lie in [-1, 1]" in found["fid"]["note"]
    assert found["mse"]["protocol"]["range"] == "the data's own"
    assert "of the values of the data lie beyond [-1, 1]" in found["mse"]["note"]
    (figure,) = (one for one in found["sample-grid"]["figures"] if one["title"] == "Data")
    assert "of these images lie beyond [-1, 1] and were cut; they reach from" in figure["caption"]


@pytest.mark.parametrize("pixels", [lambda x: 2 * x - 1, lambda x: (255 * x).astype(np.uint8)])
def test_images_where_they_belong_have_no_note(tmp_path, pixels):
    found = evaluated(tmp_path, pixels)
    assert found["fid"]["value"] is not None
    assert "[0, 1]" not in found["fid"]["note"] + found["mse"]["note"]
