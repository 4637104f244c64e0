"""Models saved, exported, shipped and loaded: the same weights and draws, and nothing of a folder is executed."""

import json
import os
import runpy
import shutil
import stat
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import genfw
from genfw.errors import ContractError, RunError
from genfw.plugins import load_plugins
from genfw.runs.cards import read_card, shipped_models
from genfw.runs.directory import RunDirectory
from genfw.runs.files import read_mapping, without_home
from genfw.weights.saved import export_run
from genfw_cli.main import main
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mlp_energy.energy import MLPEnergy
from places import ROOT
from tiny_recipe import TINY_RUN

RECIPE = TINY_RUN | {
    "energy": {"use": "mlp", "on": "data", "hidden": [4]},
    "sample": {"count": 6, "sampler": {"use": "langevin", "step_size": 0.01, "steps": 2}},
    "evaluate": [{"use": "reconstruction", "count": 10}, {"use": "sample-grid", "count": 4}],
}
SHIPPED = shipped_models(load_plugins().model_dirs())


def by_hand():
    torch.manual_seed(0)
    prior = StandardNormal(3)
    decoder = MLPDecoder((2,), layout(prior), hidden=[5], sigma=0.2)
    encoder = MLPEncoder(prior, (2,), hidden=[5])
    energies = [MLPEnergy(on="data", data_shape=(2,), hidden=[4]), MLPEnergy(on="data", data_shape=(2,), hidden=[3])]
    return genfw.Model(prior, decoder, encoder, energies)


def layout(prior):
    return genfw.NoiseLayout.of_latents(prior.noise_shapes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return genfw.run(RECIPE, root=tmp_path_factory.mktemp("runs")).directory


def test_an_exported_run_draws_what_the_run_draws(trained, tmp_path):
    folder = export_run(trained, tmp_path / "tiny")
    run, model = genfw.load(trained), genfw.load(folder)
    x = run.sample(5, seed=3)
    assert torch.equal(model.sample(5, seed=3), x)
    assert torch.equal(model.reconstruct(x), run.reconstruct(x))
    assert torch.equal(model.score(x), run.score(x))
    card = read_card(folder / "card.yaml")
    assert model.card == card
    assert (card.name, card.data_shape, card.steps, card.licence) == ("tiny", (2,), 2, "Apache-2.0")
    assert card.parameters == sum(p.numel() for p in run.model.parameters())
    assert {"elbo", "mlp", "gaussian-grid"} <= set(card.tags)
    value = json.loads((folder / "evaluation.json").read_text())["results"][0]
    assert (card.numbers[0].name, card.numbers[0].value) == (value["name"], value["value"])
    # An exported model is exported again as it is.
    again = export_run(folder, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_card_says_which_settings_the_run_was_given(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE | {"evaluate": []}))
    words = ["run", str(tmp_path / "tiny.yaml"), "--dir", str(tmp_path / "run"), "--set", "train.0.steps=3"]
    given = ["--set", "seed=7", "--set", "energy.hidden=[4, 5]", "--set", "engine.threads=1", "--unset", "evaluate"]
    monkeypatch.setattr(sys, "argv", ["genfw", *words, *given])
    assert main([*words, *given]) == 0
    card = read_card(export_run(tmp_path / "run", tmp_path / "tiny") / "card.yaml")
    expected = "genfw run tiny --set seed=7 --set train.0.steps=3 --set 'energy.hidden=[4, 5]' --unset evaluate"
    assert card.command == expected


def test_half_of_the_bytes_is_nearly_the_same_model(trained, tmp_path):
    whole, half = export_run(trained, tmp_path / "whole"), export_run(trained, tmp_path / "half", half=True)
    kept, rounded = load_file(whole / "model.safetensors"), load_file(half / "model.safetensors")
    for name, tensor in kept.items():
        assert torch.equal(rounded[name].to(tensor.dtype), tensor.half().to(tensor.dtype)), name
    assert {tensor.dtype for tensor in rounded.values()} == {torch.float16}
    model = genfw.load(half)
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.sample(5, seed=3), genfw.load(whole).sample(5, seed=3), atol=1e-2, rtol=1e-2)
    assert "float16" in model.card.rounding
    assert not genfw.load(whole).card.rounding


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_whoever_may_read_the_folder_may_read_the_weights(trained, tmp_path):
    folder = export_run(trained, tmp_path / "shared")
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) & 0o666


def test_a_part_that_only_training_needed_is_left_out(trained, tmp_path):
    folder = export_run(trained, tmp_path / "smaller", without=["encoder"])
    kept, model = load_file(folder / "model.safetensors"), genfw.load(folder)
    assert {name.partition(".")[0] for name in kept} == {"decoder", "energies"}
    assert model.model.encoder is None
    assert model.card.parameters == sum(p.numel() for p in model.model.parameters())
    x = model.sample(5, seed=3)
    assert torch.equal(x, genfw.load(trained).sample(5, seed=3))
    with pytest.raises(ContractError, match="has no encoder, amortizer or posterior chain"):
        model.reconstruct(x)
    assert "encoder" in read_mapping(folder / "resolved.yaml"), "the recipe trains the whole model again"


def test_a_part_that_is_needed_stays(tmp_path):
    chain = {"sampler": {"use": "langevin", "step_size": 0.01, "steps": 2}, "start": {"use": "encoder"}}
    metric = {"use": "reconstruction", "count": 10, "chain": chain}
    run = genfw.run(RECIPE | {"evaluate": [metric]}, root=tmp_path / "runs").directory
    with pytest.raises(RunError, match=r"needs what is left out \(encoder\)"):
        export_run(run, tmp_path / "a", without=["encoder"])
    assert not (tmp_path / "a").exists()
    for part in ("decoder", "amortizer"):
        with pytest.raises(RunError, match=f"there is no {part} to leave out; encoder and amortizer can be"):
            export_run(run, tmp_path / part, without=[part])
        assert not (tmp_path / part).exists()
    saved = export_run(run, tmp_path / "saved")
    with pytest.raises(RunError, match="is a saved model already; leave parts out of the run"):
        export_run(saved, tmp_path / "again", without=["encoder"])


def test_a_number_that_is_too_large_for_half_stays(trained, tmp_path):
    from genfw.weights.saved import _halved

    large = torch.tensor([1.0, 1e6])
    assert torch.equal(_halved(large), large)
    assert _halved(torch.tensor([3])).dtype == torch.int64


def test_an_exported_run_names_no_folder_of_its_machine(trained, tmp_path):
    folder = export_run(trained, tmp_path / "tiny")
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".safetensors")]
    assert len(texts) >= 6
    assert [path.name for path in texts if str(trained.parent).encode() in path.read_bytes()] == []


def test_a_text_for_others_names_the_usual_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("GENFW_DATA", "/mnt/sets/")
    text = "root=/mnt/sets/celeba, /mnt/sets2, /home/someone/x, /home/someone.else"
    assert without_home(text) == "root=~/.cache/genfw/celeba, /mnt/sets2, ~/x, /home/someone.else"


def test_an_exported_run_shows_no_rows_of_the_data(trained, tmp_path):
    run_dir = RunDirectory(trained)
    # Of no result; by genfw sample; during training.
    for name in ("figures/lost.png", "samples/samples.png", "samples/stage0-step2.png"):
        shutil.copy(run_dir.samples / "model.png", trained / name)
    folder = export_run(trained, tmp_path / "tiny")
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert pictures == ["samples/model.png", "samples/samples.png", "samples/stage0-step2.png"]
    assert read_card(folder / "card.yaml").picture == "samples/model.png"
    # An evaluation that does not say what its figures show may show anything.
    old = shutil.copytree(trained, tmp_path / "old")
    records = json.loads((old / "evaluation.json").read_text())
    for record in records["results"]:
        for figure in record["figures"]:
            del figure["shows_data"]
    (old / "evaluation.json").write_text(json.dumps(records))
    folder = export_run(old, tmp_path / "exported")
    assert not (folder / "samples" / "model.png").exists()
    assert read_card(folder / "card.yaml").picture == "samples/samples.png"


def test_a_model_made_by_hand_comes_back(tmp_path):
    model = by_hand()
    sample = {"count": 3, "sampler": {"use": "mala", "step_size": 0.01, "steps": 1}}
    folder = genfw.save(model, tmp_path / "model", sample=sample)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "resolved.yaml"]
    loaded = genfw.load(folder)
    assert loaded.composition.sample.sampler.step_size == 0.01
    for (name, one), (other, two) in zip(model.state_dict().items(), loaded.model.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(one, two)
    assert len(loaded.sample()) == 3
    # And a copy of a loaded model again.
    assert genfw.load(genfw.save(loaded.model, tmp_path / "second")).model.energies[1].on == "data"


def test_score_is_the_bound_of_the_tilted_density(tmp_path):
    loaded = genfw.load(genfw.save(by_hand(), tmp_path / "model"))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    model, generator = loaded.model, torch.Generator().manual_seed(genfw.randomness.derive_seed(0, "score", 0))
    posterior = model.encoder(x, generator=generator)
    bound = model.likelihood(posterior.latent).log_prob(x) - posterior.kl.sum(1)
    torch.testing.assert_close(loaded.score(x), bound - model.data_energy(x))
    centre = model.encoder(x, generator=torch.Generator(), temperature=0.0)
    torch.testing.assert_close(loaded.reconstruct(x), model.likelihood(centre.latent).mean)
    with pytest.raises(ContractError, match=r"knows items of shape \(2,\)"):
        loaded.score(torch.zeros(3, 5))


def test_energy_alone_scores_by_its_energy(tmp_path):
    model = genfw.Model(energy=MLPEnergy(on="data", data_shape=(2,), hidden=[4]), data_shape=(2,))
    loaded = genfw.load(genfw.save(model, tmp_path / "model", sample={"space": "data"}))
    x = torch.randn(4, 2)
    torch.testing.assert_close(loaded.score(x), -model.data_energy(x).detach())
    with pytest.raises(ContractError, match="no encoder, amortizer or posterior chain"):
        loaded.reconstruct(x)


def test_a_part_that_is_no_component_is_refused(tmp_path):
    class Own(genfw.Energy):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, v):
            return self.net(v)[:, 0]

    with pytest.raises(ContractError, match="Own is no registered component"):
        genfw.save(genfw.Model(energy=Own(nn.Linear(2, 1)), data_shape=(2,)), tmp_path / "model")


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="absent or empty"):
        genfw.save(by_hand(), tmp_path)


@pytest.mark.parametrize("section", ["plugins: [./evil.py]", "extends: quickstart"])
def test_a_recipe_that_names_files_is_refused(tmp_path, section):
    folder = genfw.save(by_hand(), tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    with open(folder / "resolved.yaml", "a") as file:
        file.write(f"{section}\n")
    with pytest.raises(RunError, match="names other files under"):
        genfw.load(folder)
    assert not (tmp_path / "executed").exists()


def test_damaged_weights_are_refused(tmp_path):
    folder = genfw.save(by_hand(), tmp_path / "model")
    weights = RunDirectory(folder).weights
    tensors = load_file(weights)
    save_file(tensors, weights)  # without genfw's head
    with pytest.raises(RunError, match="is no model that genfw has saved"):
        genfw.load(folder)
    head = {"genfw": json.dumps({"format": 1, "data_shape": [2]})}
    save_file({name: tensor for name, tensor in tensors.items() if "encoder" not in name}, weights, head)
    with pytest.raises(RunError, match="does not fit the model"):
        genfw.load(folder)
    weights.write_bytes(b"no tensors")
    with pytest.raises(RunError, match="is no model that genfw has saved"):
        genfw.load(folder)


def test_a_wrong_name_is_told_what_there_is(tmp_path):
    with pytest.raises(RunError, match="Nor is there a shipped model of that name"):
        genfw.load("damc-fashon", root=tmp_path)


def test_a_run_is_compared_with_a_shipped_model(trained, capsys):
    assert main(["compare", str(trained), "damc-fashion"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {cell for line in lines for cell in line} >= {"tiny", "damc-fashion", "mse", "fid"}


# -- what is shipped --------------------------------------------------------------------------------------------------


def test_shipped_models_are_few_megabytes():
    assert SHIPPED
    assert sum(model.bytes for model in SHIPPED) < 15e6


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda model: model.name)
def test_a_shipped_model_is_what_its_card_says(shipped, tmp_path):
    model = genfw.load(shipped.path)
    card = shipped.card
    assert card.name == shipped.name
    assert card.parameters == sum(parameter.numel() for parameter in model.model.parameters())
    assert card.data_shape == model.model.data_shape
    assert card.minutes > 0
    assert card.numbers
    assert (shipped.path / card.picture).is_file()
    assert not model.composition.resolved.smoke
    x = model.sample(4, seed=1)
    assert x.shape == (4, *card.data_shape)
    assert x.isfinite().all()
    assert model.score(x).shape == (4,)
    from genfw.runs.pages.report import write_report

    page = write_report(shipped.path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name.name in page for name in card.numbers)


def test_the_zoo_is_written_from_the_cards():
    script = runpy.run_path(str(ROOT / "docs" / "write_zoo.py"))
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert page == script["text"](), "run: python docs/write_zoo.py"
    for place, content in script["pictures"]().items():
        assert (ROOT / "docs" / place).read_bytes() == content, "run: python docs/write_zoo.py"
        assert place.as_posix() in page
