"""A small run wired by hand: its stage has every kind of state that a resumed run could lose."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from genfw.engine import run as engine
from genfw.interfaces import Dataset, Split
from genfw.models.sampling import SampleSettings
from genfw.runs.checkpoints import Checkpoints, _digest
from genfw.runs.directory import RunDirectory
from genfw.runs.files import hash_file
from genfw.training.health import HealthSettings
from genfw.training.optimizer import OptimizerFactory
from genfw.training.settings import EngineSettings
from genfw.training.stage import Stage
from genfw.training.updater import Clip, Updater, WeightAverage


class Rows(Split):
    def __init__(self, count=40):
        self.x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def get(self, index, *, generator=None):
        return self.x[index], None


class Points(Dataset):
    data_shape = (2,)

    def split(self, name):
        return Rows()


class AdamFactory(OptimizerFactory):
    def build(self, parameters):
        return torch.optim.Adam(parameters, lr=self.lr)


class Replay:
    """A buffer that is made on first use and kept in half precision."""

    def __init__(self):
        self.rows = None

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = None if state["rows"] is None else state["rows"].clone()


class Restless(Stage):
    """Draws from every generator there is, and remembers in every way there is."""

    def __init__(self, model, steps=40, batch=8, lr=1e-2):
        self.model, self.steps, self.batch, self.lr = model, steps, batch, lr
        self.hook = lambda step: None

    def setup(self):
        self.updater = Updater([self.model], AdamFactory(lr=self.lr), self.run, self.steps, Clip(sigmas=3.0))
        self.replay, self.average = Replay(), WeightAverage(self.model, 0.9)
        for name in ("updater", "replay", "average"):
            self._parts.pop(name, None)
            self.register(name, getattr(self, name))

    def step(self, batch, step):
        self.hook(step)
        noise = torch.randn(len(batch), 2, generator=self.run.generator)
        if self.replay.rows is not None:
            noise = noise + self.replay.rows.float()
        negative = 0.5 * noise + float(np.random.normal()) * 0.1 + random.random() * 0.1
        self.replay.rows = negative.to(torch.bfloat16)
        both = self.model(torch.cat([batch.x, negative])).squeeze(1)  # dropout draws from the global generator
        gap = both[len(batch) :].mean() - both[: len(batch)].mean()
        loss = -gap + 0.1 * both.square().mean()
        norm = self.updater.update(loss, step)
        self.average.update()
        report = {"loss": loss, "energy/gap": gap.detach(), "gradient": norm}
        return report if step % 2 else {**report, "even": norm}

    def finish(self):
        self.average.apply()


class Explosive(Restless):
    """Blows up at step 25 while its learning rate is above what it bears."""

    bears = 5e-3

    def step(self, batch, step):
        if step == 25 and self.lr * self.run.lr_scale > self.bears:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.mul_(1e20)
        return super().step(batch, step)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.SiLU(), nn.Linear(16, 1))


def composition(stages=2, *, engine_settings=None, health=None, stage=Restless, **kwargs):
    model = network()
    settings = {"accelerator": "cpu", "log_every": 7, "checkpoint_every": 10, **(engine_settings or {})}
    return SimpleNamespace(
        name="toy", seed=3, data=Points(), model=model, sample=SampleSettings(count=4), metrics=[], trackers=[],
        resolved=SimpleNamespace(plain=lambda: {"name": "toy"}, dump=lambda: "name: toy\n"), registry=None, paper={},
        stages=[(f"restless-{number}", stage(model, **kwargs)) for number in range(stages)], smoke=False,
        engine=EngineSettings(**settings), health=HealthSettings(**(health or {})),
    )  # fmt: skip


def place(path: Path) -> RunDirectory:
    path.parent.mkdir(parents=True, exist_ok=True)
    return RunDirectory.create(path.parent, "toy", "name: toy\n", path=path)


def go(path: Path, parts=None, *, trackers=()):
    """Begin a run in ``path``, or go on with the one there; its final weights."""
    parts = parts or composition()
    resumed = (path / "resolved.yaml").exists()
    where = RunDirectory.open(path) if resumed else place(path)
    if not (resumed and where.status().state == "finished"):
        engine.drive(parts, where, trackers, resumed=resumed)
    return parts


def final_state(path: Path):
    store = Checkpoints(path / "checkpoints")
    return store.load(store.find("best"))


def flat(tree, prefix=""):
    """Every leaf of a state with its path."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        return {prefix: tree}
    return {path: leaf for key, item in items for path, leaf in flat(item, f"{prefix}/{key}").items()}


def assert_same(left, right):
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for path, value in left.items():
        other = right[path]
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype, path
            assert torch.equal(value, other), path
        else:
            assert value == other, path


def edit_recipe(run, old, new):
    """Edit the recipe of a run, and let its checkpoints take the new text for theirs, which they otherwise refuse."""
    recipe = run / "resolved.yaml"
    recipe.write_text(recipe.read_text().replace(old, new))
    for path in run.glob("checkpoints/*/checkpoint.json"):
        meta = json.loads(path.read_text()) | {"recipe": hash_file(recipe)}
        path.write_text(json.dumps(meta | {"digest": _digest(meta)}))
