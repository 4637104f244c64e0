"""Training a model made by hand: the same weights as a run, curves, callbacks, and no files left."""

import re
import tempfile

import pytest
import torch
from torch import nn

import genfw
from genfw.errors import ContractError, DivergenceError, RecipeError
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.encoder import EncoderStart
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.training.contrastive import Contrastive
from genfw_plugins.training.elbo import ELBO
from genfw_plugins.training.optimizers import Adam
from places import ROOT

RECIPE = {
    "genfw": 1,
    "name": "same",
    "prior": {"use": "standard-normal", "dim": 2},
    "decoder": {"use": "mlp", "hidden": [4], "sigma": 0.3},
    "encoder": {"use": "mlp", "hidden": [4]},
    "train": [{"use": "elbo", "steps": 6, "batch": 4, "optimizer": {"use": "adam", "lr": 1e-2}}],
    "engine": {"log_every": 2},
}
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def vae():
    prior = StandardNormal(2)
    decoder = MLPDecoder((2,), genfw.Model(prior).latent_layout, hidden=(4,), sigma=0.3)
    return genfw.Model(prior, decoder, MLPEncoder(prior, (2,), hidden=(4,)))


def elbo(model, steps=6):
    return ELBO(model=model, steps=steps, batch=4, optimizer=Adam(lr=1e-2))


def test_it_trains_as_a_run_does(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    run = genfw.run(RECIPE, data=X, root=tmp_path / "runs")
    model = genfw.compose(RECIPE, data=X).model
    seen = []
    done = genfw.fit(model, X, [elbo(model)], callbacks=[seen.append], engine={"log_every": 2}, progress=False)
    trained = genfw.load_run(run.directory).model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))
    ours, theirs = done.curves(), run.curves()
    assert ours["step"] == [2, 4, 6]
    assert {name: ours[name] for name in ours if name not in ("time", "name")} == {
        name: theirs[name] for name in theirs if name not in ("time", "name")
    }
    assert [row["step"] for row in seen] == [2, 4, 6]
    assert done.events[0][0] == "stage"
    assert list((tmp_path / "temporary").glob("genfw*")) == []


def test_blocks_of_a_recipe_are_stages_too():
    """A block finds the model and its parts, here the encoder, as in a recipe."""
    sampler = {"use": "langevin", "step_size": 1e-2, "steps": 2}
    negatives = {"sampler": sampler, "start": {"use": "encoder"}}
    blocks = [RECIPE["train"][0], RECIPE["train"][0] | {"use": "contrastive", "negatives": negatives}]
    recipe = RECIPE | {"energy": {"use": "mlp", "on": "data", "hidden": [4]}, "train": []}
    first, second, untrained = (genfw.compose(recipe, data=X).model for _ in range(3))
    genfw.fit(first, X, blocks, progress=False)
    chain = genfw.Chain(sampler=Langevin(step_size=1e-2, steps=2), start=EncoderStart(encoder=second.encoder))
    made = Contrastive(model=second, steps=6, batch=4, optimizer=Adam(lr=1e-2), negatives=chain)
    genfw.fit(second, X, [blocks[0], made], progress=False)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    for role in ("decoder", "encoder", "energy.0"):
        before, after = next(untrained.roles[role].parameters()), next(first.roles[role].parameters())
        assert (before != after).any(), role


def test_stages_follow_each_other_on_a_plain_module(capsys):
    model = vae()
    net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))
    tilted = genfw.Model(model.prior, model.decoder, model.encoder, genfw.as_energy(net, on="data"))
    before = [parameter.clone() for parameter in net.parameters()]
    chain = genfw.Chain(sampler=Langevin(step_size=1e-2, steps=2), start=NoiseStart())
    second = Contrastive(model=tilted, steps=3, batch=4, optimizer=Adam(lr=1e-2), negatives=chain)
    done = genfw.fit(tilted, genfw.TensorData(X), [elbo(tilted), second], engine={"log_every": 3})
    assert done.curves()["stage"] == [0, 0, 1]
    assert any((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    assert "100%" in capsys.readouterr().err
    assert "Fit(" in repr(done)
    assert done.plot()._repr_png_().startswith(b"\x89PNG")
    pandas = pytest.importorskip("pandas")
    assert len(pandas.DataFrame(done.curves())) == 3


def test_what_can_not_be_fitted_is_refused():
    model = vae()
    with pytest.raises(ContractError, match="stages is empty"):
        genfw.fit(model, X, [])
    with pytest.raises(ContractError, match="trains another model"):
        genfw.fit(model, X, [elbo(vae())])
    with pytest.raises(RecipeError, match=r"GF203.*ELBO has no parameter 'betta' - did you mean 'beta'\?"):
        genfw.fit(model, X, [RECIPE["train"][0] | {"betta": 2.0}])
    with pytest.raises(ContractError, match="parts of another: prior, decoder, encoder"):
        genfw.compose(RECIPE, data=X, model=model)


def test_the_monitor_watches():
    model = vae()
    with pytest.raises(DivergenceError, match="stopped at step"):
        genfw.fit(
            model,
            X,
            [ELBO(model=model, steps=4, batch=4, optimizer=Adam(lr=1e15))],
            engine={"log_every": 1},
            health={"action": "stop"},
            progress=False,
        )


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)
    assert len(blocks) == 3
    names = {}
    exec("\n".join(blocks), names)
    assert names["fit"].curves()["stage"][-1] == 1
    assert names["picture"]._repr_png_()
    assert set(names["inference"].posterior.data_vars) == {"z.0", "x"}
