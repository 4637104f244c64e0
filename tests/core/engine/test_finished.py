"""From a recipe to samples: what a finished run can be used for."""

import pytest
import torch
from safetensors.torch import load_file

from genfw.engine import finished as trained
from genfw.engine import run as engine
from genfw.errors import RecipeError, RunError
from genfw.runs.directory import RunDirectory, list_runs
from run_toys import assert_same

RECIPE = """
genfw: 1
name: small
seed: 2
data: {use: gaussian-grid}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [8]}
encoder: {use: mlp, hidden: [8]}
energy: {use: mlp, on: data, hidden: [8]}
train:
  - {use: elbo, steps: 6, batch: 16, optimizer: {use: adam, lr: 1e-2}, average: 0.5}
  - use: contrastive
    steps: 6
    batch: 16
    optimizer: {use: adam, lr: 1e-2}
    average: 0.5
    negatives: {sampler: {use: langevin, step_size: 1e-2, steps: 3}, start: {use: replay, size: 64, probability: 0.5}}
sample: {count: 12, sampler: {use: mala, step_size: 1e-2, steps: 3}, batch: 8}
evaluate: [{use: reconstruction}]
engine: {accelerator: cpu, log_every: 2, checkpoint_every: 3, snapshot_every: 5}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(recipe):
    return engine.run(recipe, root=recipe.parent / "runs")


def test_a_run_from_recipe_to_report(finished, recipe):
    run = RunDirectory.open(finished.directory)
    assert finished.status == run.status().state == "finished"
    assert [result.name for result in finished.results] == ["mse", "mse-item"]
    assert run.report.exists()
    assert run.recipe.read_text() == RECIPE
    assert sorted(path.name for path in run.samples.iterdir()) == [
        "samples.png", "samples.safetensors", "stage0-step000005.png", "stage1-step000005.png",
    ]  # fmt: skip
    (listed,) = list_runs(recipe.parent / "runs")
    assert (listed.name, listed.status) == ("small", "finished")
    assert listed.numbers == {result.name: result.value for result in finished.results}


def test_going_on_with_a_finished_run_returns_its_results(finished):
    again = engine.resume(finished.directory)
    assert [(one.name, one.value, dict(one.protocol)) for one in again.results] == [
        (one.name, one.value, dict(one.protocol)) for one in finished.results
    ]


def test_measuring_again_gives_the_same_numbers(finished):
    torch.manual_seed(99)
    again = trained.evaluate_run(finished.directory, device="cpu")
    assert [one.value for one in again] == [one.value for one in finished.results]
    with pytest.raises(RunError, match="no checkpoint"):
        trained.evaluate_run(finished.directory, checkpoint="stage9-step000000")


def test_a_trained_model_is_measured_by_other_settings(recipe):
    run = engine.run(recipe, root=recipe.parent / "others")
    before = {one.name: one.value for one in run.results}
    few = trained.evaluate_run(run.directory, device="cpu", sets=["evaluate.0.count=7"])
    assert few[0].protocol["count"] == 7
    assert few[0].value != before["mse"]
    more = trained.evaluate_run(run.directory, sets=["evaluate=[{use: sample-grid}]"], only=["sample-grid"])
    assert more[0].name == "sample-grid"
    # The run itself is as it was: measured without the override it gives the first numbers.
    assert {one.name: one.value for one in trained.evaluate_run(run.directory, device="cpu")} == before
    with pytest.raises(RunError, match=r"takes 'evaluate\.\.\.', got train.0.steps=9"):
        trained.evaluate_run(run.directory, sets=["train.0.steps=9"])


def test_a_trained_model_is_loaded_without_its_data(finished, monkeypatch):
    from genfw_plugins.datasets.toy import GaussianGrid

    def gone(*_):
        raise AssertionError("the data set was opened")

    monkeypatch.setattr(GaussianGrid, "split", gone)
    best = trained.load_run(finished.directory)
    last = trained.load_run(finished.directory, checkpoint="last")
    assert_same(dict(best.model.state_dict()), dict(last.model.state_dict()))
    first = trained.load_run(finished.directory, checkpoint="stage0-step000006")
    assert_same(dict(first.model.decoder.state_dict()), dict(best.model.decoder.state_dict()))
    assert not torch.equal(next(first.model.energies.parameters()), next(best.model.energies.parameters()))
    assert not best.model.training


def test_samples_depend_on_the_seed_alone(finished, tmp_path):
    def draw(name, **options):
        folder = trained.sample_run(finished.directory, out=tmp_path / name, **options)
        assert (folder / "samples.png").exists()
        return load_file(folder / "samples.safetensors")

    one, two, other = draw("a", seed=1, count=10), draw("b", seed=1, count=10), draw("c", seed=2, count=10)
    assert_same(one, two)
    assert one["x"].shape == (10, 2)
    assert one["potential"].shape == (10,)
    assert not torch.equal(one["x"], other["x"])
    kept = load_file(finished.directory / "samples" / "samples.safetensors")
    assert_same(draw("d"), kept)


def test_shares_of_the_samples_are_together_what_one_process_draws(finished, tmp_path):
    # Four batches for three shares.
    directory, options = finished.directory, {"count": 30, "seed": 1}
    whole = load_file(trained.sample_run(directory, out=tmp_path / "whole", **options) / "samples.safetensors")
    found = {name: torch.full_like(value, torch.nan) for name, value in whole.items()}
    for number in range(3):
        folder = trained.sample_run(directory, out=tmp_path / "shares", share=(number, 3), **options)
        part = load_file(folder / f"samples-{number + 1}of3.safetensors")
        for name, value in found.items():
            value[part["index"]] = part[name]
    assert_same(found, whole)


def test_a_wrong_recipe_leaves_nothing_behind(recipe, tmp_path):
    with pytest.raises(RecipeError):
        engine.run(recipe, root=tmp_path / "runs", sets=["train.0.steps=many"])
    assert not (tmp_path / "runs").exists()


def test_a_plain_mapping_runs_smoke(tmp_path):
    sections = {"genfw": 1, "name": "plain", "data": {"use": "pinwheel"}, "energy": {"use": "mlp", "on": "data"}}
    result = engine.run(sections, directory=tmp_path / "here", smoke=True)
    assert result.directory == tmp_path / "here"
    assert result.status == "finished"
    events = RunDirectory(result.directory).read_events()
    assert "no samples were drawn" in events[0]["message"]  # an energy on data alone, sampled in its (absent) noise
    sections["sample"] = {"count": 4}
    with pytest.raises(RecipeError, match="no prior, so no latent noise; its chains run in space 'data'"):
        engine.run(sections, directory=tmp_path / "there", smoke=True)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_precision_of_weights_and_chains(recipe, tmp_path, precision, dtype):
    sets = [f"engine.precision={precision}", "engine.snapshot_every=0"]
    result = engine.run(recipe, directory=tmp_path / "run", sets=sets)
    store = RunDirectory(result.directory).checkpoints
    state = store.load(store.find("best"))
    assert {value.dtype for value in state["model"].values() if value.is_floating_point()} == {dtype}
    assert load_file(result.directory / "samples" / "samples.safetensors")["position"].dtype == dtype
