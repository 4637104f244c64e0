"""Metrics with their protocol; failures apart; figures on one fixed value range."""

import errno
import json
import math
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from genfw.errors import ContractError, DataError, DivergenceError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure
from genfw.evaluation.metric import Metric
from genfw.evaluation.pictures import image_grid, save_samples, to_bytes
from genfw.evaluation.results import Result
from genfw.interfaces import Dataset, Decoder, Energy, Split
from genfw.interfaces.likelihood import Gaussian
from genfw.models import sampling
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.plugins.signature import summarise
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from run_toys import assert_same


class Noisy(Decoder):
    noise_shape = (2,)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(2))

    def forward(self, latent):
        return Gaussian(latent.flat() @ self.weight, 0.1)


class Rows(Dataset, Split):
    data_shape = (2,)

    def __init__(self, augment=0.0):
        self.augment = augment

    def split(self, name):
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'")
        return self

    def __len__(self):
        return 50

    def get(self, index, *, generator=None):
        assert generator is None, "evaluation reads rows as they are"
        return index[:, None].expand(-1, 2).float(), index % 3


class Fixed(Metric):
    def __init__(self, *results):
        self.results = results

    def compute(self, evaluation):
        return self.results


class Failing(Metric):
    def __init__(self, error):
        self.error = error

    def compute(self, evaluation):
        raise self.error


class Quartic(Energy):
    def forward(self, v):
        return v.pow(4).sum(1)


class Careless(Metric):
    """Looks at what it was promised, and spills randomness."""

    def compute(self, evaluation):
        assert not evaluation.model.training
        assert not evaluation.model.decoder.weight.requires_grad
        torch.randn(3)
        np.random.rand()
        return [Result("careless", 1.0)]


@pytest.fixture
def evaluation(tmp_path):
    model = Model(StandardNormal(2), Noisy())
    paper = {"id": "DAMC", "expect": {"mse": 0.015, "fid": "unknown", "odd": True}}
    return Evaluation(model, Rows(), SampleSettings(count=20), tmp_path, seed=4, paper=paper)


def saved(evaluation):
    return json.loads((evaluation.directory / "evaluation.json").read_text())


def test_a_label_tells_entries_of_one_metric_apart(evaluation):
    class Drawing(Metric):
        def compute(self, evaluation):
            return [Result("size", 1.0, figures=[evaluation.figure("size", "", "", lambda canvas: None)])]

    measure(evaluation, [("drawing", Drawing()), ("drawing@again", Drawing(label="again"))])
    first, second = saved(evaluation)["results"]
    assert (first["name"], second["name"]) == ("size", "size@again")
    assert [each["figures"][0]["path"] for each in (first, second)] == ["figures/size.png", "figures/size-again.png"]
    measure(evaluation, [("drawing", Drawing()), ("drawing@again", Drawing(label="again"))], only=["drawing@again"])
    assert [each["name"] for each in saved(evaluation)["results"]] == ["size", "size@again"]
    with pytest.raises(ContractError, match="made of letters, digits, '-' and '_', got 'a/b'"):
        Drawing(label="a/b")


def test_every_number_stands_beside_the_papers(evaluation):
    result = Result("mse", 0.02, "", evaluation.protocol(count=50), 0.001, "lower", "a note")
    measure(evaluation, [("reconstruction", Fixed(result, Result("other", 1.5)))])
    first, second = saved(evaluation)["results"]
    assert first["value"] == 0.02
    assert first["paper"] == 0.015
    assert first["difference"] == pytest.approx(0.005)
    assert (first["metric"], first["error"], first["better"]) == ("reconstruction", 0.001, "lower")
    assert first["protocol"]["count"] == 50
    assert {"seed", "genfw", "torch", "device"} <= first["protocol"].keys()
    assert (second["paper"], second["difference"]) == (None, None)


def test_a_failure_is_recorded_and_the_others_go_on(evaluation):
    metrics = [
        ("first", Failing(ContractError("this model has no encoder"))),
        ("second", Failing(ZeroDivisionError("division by zero"))),
        ("third", Fixed(Result("number", 3.0))),
    ]
    results = measure(evaluation, metrics)
    assert [result.value for result in results] == [None, None, 3.0]
    first, second, third = saved(evaluation)["results"]
    assert (first["failed"], second["failed"], third["failed"]) == (True, True, False)
    assert first["note"] == "this model has no encoder"
    assert second["note"].startswith("ZeroDivisionError: division by zero (test_measure.py:")


def test_an_interrupt_is_no_failure_of_a_metric(evaluation):
    with pytest.raises(KeyboardInterrupt):
        measure(evaluation, [("metric", Failing(KeyboardInterrupt()))])


def test_numbers_that_are_not_finite_become_null_with_a_note(evaluation):
    measure(evaluation, [("metric", Fixed(Result("a", math.nan, note="Mean."), Result("b", 1.0, error=math.inf)))])
    first, second = saved(evaluation)["results"]
    assert first["value"] is None
    assert first["note"] == "Mean. The value is nan."
    assert (second["value"], second["error"]) == (1.0, None)


def test_only_replaces_what_was_taken_again(evaluation):
    metrics = [("a", Fixed(Result("a", 1.0))), ("b", Fixed(Result("b", 2.0)))]
    measure(evaluation, metrics)
    taken = measure(evaluation, [("a", Fixed(Result("a", 9.0))), metrics[1]], only=["a"])
    assert [result.name for result in taken] == ["a"]
    assert {record["name"]: record["value"] for record in saved(evaluation)["results"]} == {"a": 9.0, "b": 2.0}


def test_a_failed_attempt_leaves_the_number_there_was(evaluation):
    metrics = [("a", Fixed(Result("a", 1.0, note="Mean."))), ("b", Fixed(Result("b", 2.0)))]
    measure(evaluation, metrics)
    for reason in ("no weights", "still no weights"):
        taken = measure(evaluation, [("a", Failing(ContractError(reason))), metrics[1]], only=["a"])
        assert [result.value for result in taken] == [None]
    first, second = saved(evaluation)["results"]
    assert (first["value"], first["failed"], second["value"]) == (1.0, False, 2.0)
    assert first["note"] == "Mean. A later attempt failed: still no weights"
    measure(evaluation, [("a", Fixed(Result("a", 9.0, note="Mean."))), metrics[1]], only=["a"])
    again = next(record for record in saved(evaluation)["results"] if record["name"] == "a")
    assert (again["value"], again["note"]) == (9.0, "Mean.")


def test_a_failure_after_a_failure_replaces_it(evaluation):
    measure(evaluation, [("a", Failing(ContractError("first")))])
    measure(evaluation, [("a", Failing(ContractError("second")))], only=["a"])
    (record,) = saved(evaluation)["results"]
    assert (record["value"], record["failed"], record["note"]) == (None, True, "second")


def test_only_refuses_a_name_the_recipe_does_not_have(evaluation):
    with pytest.raises(ContractError, match="does not evaluate fid; it has a, b"):
        measure(evaluation, [("a", Careless()), ("b", Careless())], only=["fid"])


def test_the_model_and_all_randomness_are_left_as_found(evaluation):
    evaluation.model.train()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    (result,) = measure(evaluation, [("careless", Careless())])
    assert result.value == 1.0
    assert evaluation.model.training
    assert evaluation.model.decoder.weight.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_samples_are_drawn_once_per_count(evaluation):
    assert evaluation.samples() is evaluation.samples(20)
    alone = Evaluation(evaluation.model, settings=SampleSettings(), seed=4)
    evaluation.samples(33)
    assert torch.equal(evaluation.samples(7).x, alone.samples(7).x)


def test_large_samples_lie_in_a_file_and_batches_are_not_kept(tmp_path, monkeypatch):
    model, settings = Model(StandardNormal(dim=2), Noisy()), SampleSettings(batch=8)
    expected = Evaluation(model, settings=settings, seed=4).samples(50)
    evaluation = Evaluation(model, settings=settings, directory=tmp_path, seed=4)
    batches = []

    def drawn(*args, **kwargs):
        batch = draw_batch(*args, **kwargs)
        batches.append(weakref.ref(batch))
        assert sum(each() is not None for each in batches) <= 2  # the one being joined, and this one
        return batch

    draw_batch = sampling.draw_batch
    monkeypatch.setattr("genfw.evaluation.evaluation.draw_batch", drawn)
    monkeypatch.setattr(sampling, "_LARGE", 300)  # bytes: 50 positions take 800, 50 potentials 200
    found = evaluation.samples(50)
    assert len(batches) == 7
    for name in ("x", "position", "potential", "acceptance"):
        assert_same(getattr(found, name), getattr(expected, name))
    mapped = Path("/proc/self/maps")
    if mapped.is_file():
        files = [line for line in mapped.read_text().splitlines() if str(tmp_path) in line]
        assert len(files) == 2  # x and positions
        assert all("(deleted)" in line for line in files)
    assert not list((tmp_path / "cache").iterdir())


def test_large_samples_that_the_disk_has_no_room_for_are_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sampling, "_LARGE", 1)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    model = Model(StandardNormal(dim=2), Noisy())
    with pytest.raises(OSError, match="No space left"):
        Evaluation(model, directory=tmp_path).samples(50)
    assert not list((tmp_path / "cache").iterdir())


def test_rows_are_the_same_for_every_seed(evaluation):
    other = Evaluation(evaluation.model, Rows(), seed=99)
    rows = evaluation.rows("test", 10)
    assert torch.equal(rows.index, other.rows("test", 10).index)
    assert torch.equal(rows.x[:, 0].long(), rows.index)
    assert rows.index.tolist() != list(range(10))
    assert len(evaluation.rows("test")) == len(evaluation.rows("test", 1000)) == 50


def test_data_are_asked_for_in_a_sentence(evaluation):
    evaluation.data = None
    with pytest.raises(ContractError, match="no 'data:' section"):
        evaluation.rows()


def test_generators_by_name(evaluation):
    draws = [torch.rand(1, generator=evaluation.generator(name)).item() for name in ("a", "a", "b")]
    assert draws[0] == draws[1] != draws[2]


def test_only_numbers_are_expected(evaluation):
    assert [evaluation.expected(name) for name in ("mse", "fid", "odd", "none")] == [0.015, None, None, None]


def test_protocol_says_how_samples_were_drawn(evaluation):
    facts = evaluation.protocol(samples=20, importance=None)
    assert facts["samples"] == 20
    assert (facts["sampler"], facts["start"], facts["decoder"]) == ("none", "fresh draws of the base", "sample")
    assert "importance" not in facts
    assert "smoke" not in facts
    assert all(isinstance(value, bool | int | float | str) for value in facts.values())


def test_describe_reads_the_constructor():
    class Kernel:
        def __init__(self, step_size: float, steps: int = 3, local: object = None) -> None:
            self.step_size, self.steps, self.local = step_size, steps, local

    assert summarise(Kernel(0.005)) == "Kernel(step_size=0.005, steps=3)"
    assert summarise(StandardNormal(2)) == "StandardNormal(dim=2)"


def test_describe_reads_a_block_in_full():
    block = {
        "use": "ex2",
        "local": {"use": "mala", "step_size": 1e-2, "adapt": True},
        "betas": [0.9, 0.5],
        "chunk": None,
    }
    assert summarise(block) == "ex2(local=mala(step_size=0.01, adapt=True), betas=[0.9, 0.5])"


def test_the_recipe_says_more_than_the_objects(tmp_path):
    class Kernel:
        steps = 7

    settings = SampleSettings(sampler=Kernel())
    recipe = {
        "data": {"use": "digits"},
        "sample": {"sampler": {"use": "mala", "step_size": 0.5}, "start": {"use": "noise"}},
        "evaluate": [{"use": "number", "split": "test"}],
    }
    evaluation = Evaluation(Model(StandardNormal(2), Noisy()), Rows(), settings, tmp_path, recipe=recipe)
    facts = evaluation.protocol(samples=3)
    assert (facts["sampler"], facts["chain_steps"], facts["start"]) == ("mala(step_size=0.5)", 7, "noise")
    assert facts["data"] == "digits"
    measure(evaluation, [("number", Fixed(Result("number", 1.0)))])
    assert saved(evaluation)["results"][0]["settings"] == {"use": "number", "split": "test"}


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a b"])
def test_figures_stay_in_the_run_directory(evaluation, name):
    with pytest.raises(ContractError, match="figure's name"):
        evaluation.figure(name, "title", "", lambda canvas: None)


def test_a_figure_is_the_same_file_every_time(evaluation):
    def draw(canvas):
        canvas.subplots().plot([0, 1], [2, 3])

    path = evaluation.directory / evaluation.figure("line", "Line", "", draw).path
    first = path.read_bytes()
    evaluation.figure("line", "Line", "", draw)
    assert path.read_bytes() == first


def test_value_range_is_fixed():
    dull = torch.full((1, 1, 2, 2), 0.1)
    dull[0, 0, 0, 0] = 0.2
    assert to_bytes(dull)[0, ..., 0].tolist() == [[153, 140], [140, 140]]
    ends = torch.tensor([-1.0, 0.0, 1.0, 7.0, -7.0, float("nan")]).reshape(6, 1, 1, 1).expand(6, 3, 1, 1)
    assert to_bytes(ends)[:, 0, 0, 0].tolist() == [0, 128, 255, 255, 0, 0]


def test_an_image_does_not_change_its_neighbours(tmp_path):
    one = torch.rand(1, 1, 8, 8) * 0.1
    alone = imread(save_samples(tmp_path / "alone.png", one))
    together = imread(save_samples(tmp_path / "both.png", torch.cat([one, torch.ones(1, 1, 8, 8)])))
    assert np.array_equal(alone[2:50, 2:50], together[2:50, 2:50])


def test_grid_places_images_row_by_row():
    x = torch.stack([torch.full((3, 48, 48), value) for value in (-1.0, 0.0, 1.0)])
    grid = image_grid(x, columns=2, gap=1)
    assert grid.shape == (99, 99, 3)
    assert [grid[20, 20, 0], grid[20, 70, 0], grid[70, 20, 0], grid[70, 70, 0]] == [0, 128, 255, 255]


@pytest.mark.parametrize("shape", [(5, 2), (5, 1), (5, 7), (5, 3, 9, 9)])
def test_samples_of_any_shape_make_a_picture(tmp_path, shape):
    picture = imread(save_samples(tmp_path / "deep" / "picture.png", torch.randn(shape)))
    assert picture.ndim == 3


def test_a_full_disk_is_not_the_metrics_failure(evaluation):
    with pytest.raises(OSError, match="full"):
        measure(evaluation, [("first", Failing(OSError(errno.ENOSPC, "full")))])
    assert not (evaluation.directory / "evaluation.json").exists()


def test_nan_is_a_failure_and_infinity_a_doubt(evaluation):
    results = [Result("a", math.nan), Result("b", math.inf), Result("c", 1.0, doubt="too few")]
    measure(evaluation, [("each", Fixed(*results))])
    told = [(record["value"], record["failed"], record["doubt"]) for record in saved(evaluation)["results"]]
    assert told == [(None, True, "The value is nan."), (None, False, "The value is inf."), (1.0, False, "too few")]


def test_samples_that_diverge_are_refused_and_standing_chains_told_of(tmp_path):
    model = Model(StandardNormal(2), Noisy(), energy=Quartic())
    for sampler, said in ((Langevin(step_size=1e4, steps=20), ""), (MALA(step_size=1e9, steps=5, adapt=False), "re")):
        evaluation = Evaluation(model, Rows(), SampleSettings(count=20, sampler=sampler), tmp_path)
        if said:
            evaluation.samples()
            assert "rejected every move" in evaluation.doubts["rejected"]
        else:
            with pytest.raises(DivergenceError, match=r"'sample:' gives potentials that are not finite"):
                evaluation.samples()
            assert evaluation.doubts == {}
