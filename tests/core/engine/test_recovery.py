"""What the engine does when the monitor finds a run ill."""

import json

import pytest
import torch

from genfw.engine import run as engine
from genfw.engine.finished import load_weights
from genfw.errors import DivergenceError
from genfw.runs.directory import RunDirectory
from genfw.training.tracker import Tracker
from run_toys import Explosive, Restless, composition, go


@pytest.fixture(autouse=True)
def training_alone(monkeypatch):
    monkeypatch.setattr(engine, "_conclude", lambda *_: [])


class Kinds(Tracker):
    def __init__(self):
        self.told = []

    def log(self, row):
        pass

    def event(self, kind, message):
        self.told.append(kind)

    def rewind(self, stage, step):
        self.told.append((stage, step))


def test_a_stage_that_blows_up_is_rolled_back_and_finished(tmp_path):
    tracker = Kinds()
    parts = go(tmp_path / "run", composition(1, stage=Explosive), trackers=[tracker])
    assert all(value.isfinite().all() for value in parts.model.state_dict().values())
    run = RunDirectory.open(tmp_path / "run")
    events = [event for event in run.read_events() if event["kind"] == "rollback"]
    assert len(events) == 1
    assert tracker.told.count("rollback") == 1
    assert tracker.told.index((0, 20)) == tracker.told.index("rollback") - 1
    assert "back from step 28 to step 20" in events[0]["message"]
    steps = [row["step"] for row in run.read_metrics()]
    assert steps == [7, 14, 21, 28, 35, 40]  # the path that led to the weights, and no other
    assert [json.loads(line)["step"] for line in run.rejected.read_text().splitlines()] == [21, 28]
    last = run.checkpoints.find("best")
    assert (last.rollbacks, last.final, last.healthy) == (1, True, True)
    assert run.checkpoints.load(last)["lr_scale"] == pytest.approx(0.3)


def test_the_same_path_is_not_walked_again(tmp_path):
    draws = []

    class Diary(Explosive):
        def step(self, batch, step):
            state = self.run.generator.get_state()
            draws.append((step, torch.rand(1, generator=self.run.generator).item(), torch.rand(1).item()))
            self.run.generator.set_state(state)
            return super().step(batch, step)

    go(tmp_path / "run", composition(1, stage=Diary))
    again = {}
    for step, own, general in draws:
        again.setdefault(step, []).append((own, general))
    assert len(again[22]) == 2
    assert again[22][0][0] != again[22][1][0]
    assert again[22][0][1] != again[22][1][1]


def test_an_incurable_stage_stops_with_a_reason_and_its_healthy_weights_can_be_loaded(tmp_path):
    class Incurable(Explosive):
        bears = 0.0

    with pytest.raises(DivergenceError, match="after 3 rollback"):
        go(tmp_path / "run", composition(1, stage=Incurable))
    run = RunDirectory.open(tmp_path / "run")
    assert run.status().state == "failed"
    assert "loss" in run.status().reason
    assert [event["kind"] for event in run.read_events()].count("rollback") == 3
    best = run.checkpoints.find("best")
    assert best.healthy
    other = composition(1, stage=Incurable)
    load_weights(other, run)
    assert all(value.isfinite().all() for value in other.model.state_dict().values())


def test_a_rollback_that_did_not_help_goes_further_back(tmp_path):
    class Incurable(Explosive):
        bears = 0.0

    with pytest.raises(DivergenceError):
        go(tmp_path / "run", composition(1, stage=Incurable))
    backs = [e["message"] for e in RunDirectory.open(tmp_path / "run").read_events() if e["kind"] == "rollback"]
    assert [int(message.split("to step ")[1].split(",")[0]) for message in backs] == [20, 10, 20]


def test_an_energy_trained_ten_times_too_fast_is_brought_back(tmp_path):
    sections = {
        "genfw": 1, "name": "fast", "data": {"use": "pinwheel"},
        "prior": {"use": "standard-normal", "dim": 2}, "decoder": {"use": "mlp", "hidden": [16]},
        "energy": {"use": "mlp", "on": "data", "hidden": [32, 32]},
        "train": [{
            "use": "contrastive", "steps": 60, "batch": 32, "optimizer": {"use": "adam", "lr": 0.3},
            "negatives": {"sampler": {"use": "langevin", "step_size": 1e-2, "steps": 3}, "start": {"use": "noise"}},
        }],
        "engine": {"accelerator": "cpu", "log_every": 4, "checkpoint_every": 8},
        "health": {"rollbacks": 6, "lr_factor": 0.1},
    }  # fmt: skip
    run = RunDirectory(engine.run(sections, directory=tmp_path / "run").directory)
    kinds = [event["kind"] for event in run.read_events()]
    assert kinds.count("rollback") >= 1
    assert run.status().state == "finished"
    rejected = [abs(json.loads(line)["energy/gap"]) for line in run.rejected.read_text().splitlines()]
    assert max(rejected) > 100.0
    assert min(abs(row["energy/gap"]) for row in run.read_metrics()[-3:]) < 100.0


def test_a_checkpoint_saved_while_the_gap_is_wide_is_not_returned_to(tmp_path):
    class Widening(Restless):
        def step(self, batch, step):
            report = dict(super().step(batch, step))
            report["energy/gap"] = torch.tensor(500.0 if step >= 8 and self.run.lr_scale == 1.0 else 1.0)
            return report

    go(tmp_path / "run", composition(1, stage=Widening, engine_settings={"log_every": 5}))
    (event,) = [e for e in RunDirectory.open(tmp_path / "run").read_events() if e["kind"] == "rollback"]
    assert "back from step 20 to step 0" in event["message"]  # not to 10, which was saved with a gap of 300


def test_stopping_can_be_success(tmp_path):
    class Incurable(Explosive):
        bears = 0.0

    health = {"stop_is_success": True, "action": "stop"}
    parts = go(tmp_path / "run", composition(2, stage=Incurable, health=health))
    run = RunDirectory.open(tmp_path / "run")
    assert run.status().state == "finished"
    assert [(one.stage, one.step) for one in run.checkpoints.all() if one.final] == [(0, 20), (1, 20)]
    assert all(value.isfinite().all() for value in parts.model.state_dict().values())


def test_weights_that_break_after_the_last_row_are_not_kept(tmp_path):
    class Late(Restless):
        def step(self, batch, step):
            report = super().step(batch, step)
            if step == self.steps - 1 and self.run.lr_scale == 1.0:
                with torch.no_grad():
                    next(self.model.parameters()).fill_(float("nan"))
            return report

    parts = go(tmp_path / "run", composition(1, stage=Late))
    assert all(value.isfinite().all() for value in parts.model.state_dict().values())
    assert RunDirectory.open(tmp_path / "run").checkpoints.find("best").rollbacks == 1


def test_cutting_the_learning_rate_goes_on_and_ends_healthy(tmp_path):
    class Drifting(Restless):
        def step(self, batch, step):
            report = dict(super().step(batch, step))
            report["chain/drift"] = torch.tensor(99.0 if 14 <= step < 28 else 1.0)
            return report

    go(tmp_path / "run", composition(1, stage=Drifting, health={"action": "cut-lr", "gap_window": 1}))
    run = RunDirectory.open(tmp_path / "run")
    assert run.checkpoints.load(run.checkpoints.find("best"))["lr_scale"] == pytest.approx(0.09)
    assert [event["kind"] for event in run.read_events()].count("warning") == 2


def test_weights_that_are_not_finite_end_a_run_that_nobody_watches(tmp_path):
    parts = composition(1, stage=Explosive, health={"enabled": False})
    with pytest.raises(DivergenceError, match="ends with weights that are not finite"):
        go(tmp_path / "run", parts)
    assert not all(value.isfinite().all() for value in parts.model.state_dict().values())
    run = RunDirectory.open(tmp_path / "run")
    assert run.status().state == "failed"
    assert not [event for event in run.read_events() if event["kind"] == "rollback"]  # nobody watched
