"""The stage that begins with weights that are there already."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from genfw.engine import run as engine
from genfw.engine.finished import load_run, sample_run
from genfw.errors import ContractError, DataError, RecipeError
from genfw.recipes.compose import compose
from genfw.runs.directory import RunDirectory
from genfw.weights.load import load_parts

MODEL = {
    "genfw": 1,
    "name": "loaded",
    "seed": 3,
    "data": {"use": "gaussian-grid"},
    "prior": {"use": "standard-normal", "dim": 2},
    "decoder": {"use": "mlp", "hidden": [8]},
    "encoder": {"use": "mlp", "hidden": [8]},
    "engine": {"accelerator": "cpu"},
    "sample": {"count": 16},
}
TRAINED = {"use": "elbo", "steps": 4, "batch": 16, "optimizer": {"use": "adam", "lr": 1e-2}, "average": 0.5}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    return engine.run({**MODEL, "train": [TRAINED]}, directory=folder / "run").directory


def weights(model, part="decoder"):
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(f"{part}.")}


def assert_equal(first, second):
    assert first
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_a_run_begins_with_the_best_weights_of_another_and_then_needs_it_no_more(source, tmp_path):
    elsewhere = tmp_path / "source"
    shutil.copytree(source, elsewhere)
    recipe = {**MODEL, "seed": 4, "train": [{"use": "load", "run": str(elsewhere)}]}
    done = engine.run(recipe, directory=tmp_path / "run")
    shutil.rmtree(elsewhere)
    expected = load_run(source).model
    for part in ("decoder", "encoder"):
        assert_equal(weights(load_run(done.directory).model, part), weights(expected, part))
    sample_run(done.directory, out=tmp_path / "samples")
    # As if the run had been killed after its first checkpoint.
    place = RunDirectory(done.directory)
    place.write_status(type(place.status())("running"))
    assert engine.resume(done.directory).status == "finished"
    assert_equal(weights(load_run(done.directory).model), weights(expected))


def test_training_goes_on_from_what_was_loaded(source, tmp_path):
    still = {**TRAINED, "steps": 1, "average": 0.0, "optimizer": {"use": "adam", "lr": 1e-12}}
    done = engine.run({**MODEL, "train": [{"use": "load", "run": str(source)}, still]}, directory=tmp_path / "run")
    for name, value in weights(load_run(source).model).items():
        torch.testing.assert_close(weights(load_run(done.directory).model)[name], value, rtol=0, atol=1e-6)


def test_what_was_loaded_stays_among_the_ends_of_stages(source, tmp_path):
    recipe = {**MODEL, "engine": {"accelerator": "cpu", "checkpoint_every": 1, "keep": 2}}
    done = engine.run({**recipe, "train": [{"use": "load", "run": str(source)}, TRAINED]}, directory=tmp_path / "run")
    ends = [one.name for one in RunDirectory(done.directory).checkpoints.all() if one.final]
    assert ends == ["stage0-step000000", "stage1-step000004"]
    begun = load_run(done.directory, checkpoint=ends[0]).model
    assert_equal(weights(begun), weights(load_run(source).model))


@pytest.mark.slow
def test_several_processes_begin_with_the_same_weights(source, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = {**MODEL, "engine": {"accelerator": "cpu", "devices": 2}, "train": [{"use": "load", "run": str(source)}]}
    done = engine.run(recipe, directory=tmp_path / "run")
    store = RunDirectory(done.directory).checkpoints
    for rank in range(2):
        loaded = store.load(store.find(), rank=rank)["model"]
        assert_equal(loaded, dict(load_run(source).model.state_dict()))


def test_a_relative_path_starts_at_the_recipe_s_folder(source, tmp_path, monkeypatch):
    shutil.copytree(source, tmp_path / "folder" / "source")
    (tmp_path / "folder" / "recipe.yaml").write_text(json.dumps({**MODEL, "train": [{"use": "load", "run": "source"}]}))
    monkeypatch.chdir(tmp_path)
    done = engine.run(tmp_path / "folder" / "recipe.yaml", directory=tmp_path / "run")
    expected = weights(load_run(source).model)
    assert_equal(weights(load_run(done.directory).model), expected)
    again = engine.run(done.directory / "resolved.yaml", directory=tmp_path / "again")
    assert_equal(weights(load_run(again.directory).model), expected)


def test_all_energies_are_loaded_or_the_load_is_refused(tmp_path):
    energies = [{"use": "mlp", "on": on, "hidden": [8]} for on in ("data", "latent")]
    model = {name: value for name, value in MODEL.items() if name != "encoder"} | {"sample": {"count": 4}}
    both = compose({**model, "seed": 4, "energy": energies}).model
    other = compose({**model, "seed": 5, "energy": energies}).model
    load_parts(other, both)
    assert_equal(weights(other, "energies"), weights(both, "energies"))
    with pytest.raises(ContractError, match="does not fit ModuleList"):
        load_parts(other, compose({**model, "energy": energies[:1]}).model)


def test_parts_that_are_not_named_stay_as_they_were_made(source, tmp_path):
    recipe = {**MODEL, "seed": 4, "train": [{"use": "load", "run": str(source), "parts": ["decoder"]}]}
    done = load_run(engine.run(recipe, directory=tmp_path / "run").directory).model
    fresh = compose({**MODEL, "seed": 4}).model
    assert_equal(weights(done), weights(load_run(source).model))
    assert_equal(weights(done, "encoder"), weights(fresh, "encoder"))


def test_an_imported_file_is_loaded_and_its_hash_is_compared(source, tmp_path):
    file = tmp_path / "decoder.safetensors"
    save_file({name: value + 1.0 for name, value in weights(load_run(source).model).items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    stage = {"use": "load", "file": str(file), "sha256": digest.upper()[:16]}
    done = engine.run({**MODEL, "train": [stage]}, directory=tmp_path / "run")
    found = weights(load_run(done.directory).model)
    for name, value in weights(load_run(source).model).items():
        torch.testing.assert_close(found[name], value + 1.0, rtol=0, atol=0)
    with pytest.raises(DataError, match=f"has SHA-256 {digest}, and the recipe wants 00"):
        engine.run({**MODEL, "train": [{**stage, "sha256": "00"}]}, directory=tmp_path / "other")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({}, "give one of 'file' and 'run'"),
        ({"file": "a.safetensors", "run": "b"}, "give one of 'file' and 'run'"),
        ({"run": "b", "sha256": "00"}, "stage 'load' is given a run"),
        ({"run": "b", "parts": []}, "told to load no part"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused_before_anything_runs(stage, message):
    with pytest.raises((ContractError, RecipeError), match=message):
        compose({**MODEL, "train": [{"use": "load", **stage}]})


def test_what_does_not_fit_is_told(source, tmp_path):
    def run(**stage):
        engine.run(
            {**MODEL, "decoder": {"use": "mlp", "hidden": [9]}, "train": [{"use": "load", **stage}]},
            directory=tmp_path / f"run{len(list(tmp_path.iterdir()))}",
        )

    with pytest.raises(ContractError, match=r"has shape \(9, 2\) in the module and \(8, 2\) in the file"):
        run(run=str(source))
    with pytest.raises(ContractError, match="nothing to load as 'amortizer'"):
        run(run=str(source), parts=["amortizer"])
    with pytest.raises(DataError, match="there is no file"):
        run(file=str(tmp_path / "none.safetensors"), sha256="00")


@pytest.mark.parametrize("stage", [{"file": "none.safetensors"}, {"run": "none"}, {"run": "source"}])
def test_a_smoke_run_goes_on_without_weights_that_are_absent_or_of_another_size(source, tmp_path, caplog, stage):
    stage = {key: str(source) if name == "source" else str(tmp_path / name) for key, name in stage.items()}
    recipe = {**MODEL, "decoder": {"use": "mlp", "hidden": [9]}, "train": [{"use": "load", **stage}, TRAINED]}
    assert engine.run(recipe, directory=tmp_path / "run", smoke=True).status == "finished"
    assert "stage 'load' goes on without weights: " in caplog.text
