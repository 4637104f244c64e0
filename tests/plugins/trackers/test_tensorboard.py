"""The TensorBoard tracker, read back through TensorBoard's own reader."""

import numpy as np
import pytest
from matplotlib.image import imsave

from genfw.plugins.hookspecs import RunInfo

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genfw_plugins.trackers.tensorboard import TensorBoard


def info(tmp_path, resumed_at=None):
    return RunInfo("name", tmp_path, {}, (("elbo", 100), ("contrastive", 50)), resumed_at)


def read(tmp_path):
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def row(stage, name, step, **scalars):
    return {"stage": stage, "name": name, "step": step, "time": 0.5, **scalars}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scalars_and_pictures(tmp_path):
    (tmp_path / "samples").mkdir()
    imsave(tmp_path / "samples" / "model.png", np.zeros((5, 7, 3), dtype=np.uint8))
    tracker = TensorBoard()
    tracker.start(info(tmp_path))
    tracker.log(row(0, "elbo", 100, loss=2.0))
    tracker.log(row(1, "contrastive", 50, **{"energy/gap": 0.25, "odd": None, "bad": float("nan")}))
    tracker.event("warning", "the energy gap is large")
    tracker.end("finished")
    tracker.end("finished")
    found = read(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("elbo/loss")] == [(100, 2.0)]
    assert [(event.step, event.value) for event in found.Scalars("contrastive/energy/gap")] == [(150, 0.25)]
    assert "contrastive/odd" not in found.Tags()["scalars"]
    assert "contrastive/bad" not in found.Tags()["scalars"]
    (picture,) = found.Images("samples/model")
    assert (picture.width, picture.height) == (7, 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    for resumed_at, values in ((None, {10: 1.0, 20: 2.0, 30: 3.0}), ((0, 20), {30: 5.0})):
        tracker = TensorBoard(images=False)
        tracker.start(info(tmp_path, resumed_at))
        for step, value in values.items():
            tracker.log(row(0, "elbo", step, loss=value))
        tracker.end("interrupted")
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("elbo/loss")] == [
        (10, 1.0),
        (20, 2.0),
        (30, 5.0),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_rewound_run_forgets_the_path_it_has_given_up(tmp_path):
    tracker = TensorBoard(images=False)
    tracker.rewind(0, 1)  # before its start: no error
    tracker.start(info(tmp_path))
    for step in (10, 20, 30):
        tracker.log(row(1, "contrastive", step, loss=float(step)))
    tracker.rewind(1, 10)
    tracker.event("rollback", "from step 30 to step 10")
    for step in (20, 30, 40):
        tracker.log(row(1, "contrastive", step, loss=-float(step)))
    tracker.rewind(1, 30)
    tracker.end("finished")
    found = [(event.step, event.value) for event in read(tmp_path).Scalars("contrastive/loss")]
    assert found == [(110, 10.0), (120, -20.0), (130, -30.0)]


def test_rows_before_a_start_are_no_error(tmp_path):
    tracker = TensorBoard()
    tracker.log(row(0, "elbo", 1, loss=1.0))
    tracker.event("sample", "x.png")
    tracker.end("failed")
    assert not (tmp_path / "tensorboard").exists()
