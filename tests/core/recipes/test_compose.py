"""From a recipe to objects: shared parts, injection, seeds, smoke runs, and the way through resolved.yaml."""

from pathlib import Path

import pytest
import torch

from genfw.errors import DataError, RecipeError
from genfw.recipes.check import check
from genfw.recipes.compose import compose
from genfw.recipes.recipe import load_recipe, open_recipe, parse_recipe
from genfw.training.synthetic import Synthetic
from recipe_parts import RECIPE, ToyData, ToyEnergy, ToyStage, component, toys


def build(text, registry=None, **options):
    return compose(parse_recipe(text, strict=False), registry or toys(), **options)


def test_everything_is_built_and_shared():
    made = build(RECIPE)
    model = made.model
    assert (made.name, made.seed, made.smoke, made.paper["id"]) == ("toy", 3, False, "TOY")
    assert isinstance(made.data, ToyData)
    assert [name for name, _ in made.stages] == ["fit", "fit"]
    assert [name for name, _ in made.metrics] == ["count"]
    assert len(made.trackers) == 1
    first, second = (stage for _, stage in made.stages)
    assert isinstance(first, ToyStage)
    assert first.model is second.model is model
    assert second.energy is model.energies[0]
    assert first.energy is model.energies[0]  # left out: the one role of its kind
    assert model.encoder.seen[0] is model.prior
    assert model.amortizer.encoder is model.encoder
    assert first.steps == 1000
    assert first.chain.sampler.step_size == 5e-3
    assert second.weights == {"kl": 1.0, "gap": 0.5}
    assert made.sample.count == 50
    assert [start.probability for start in made.sample.starts] == [1.0, (0.0, 0.5)]


def test_shapes_and_layouts_are_injected():
    made = build(RECIPE)
    data_shape, latent, noise = made.model.energies[0].layouts
    assert data_shape == (2,)
    assert (latent.names, latent.size) == (("z.0",), 4)
    assert noise == made.model.noise_layout
    assert made.model.amortizer.size == 6
    alone = build("data: {use: toy, size: 3}\nenergy: {use: mlp}")
    assert alone.model.energies[0].layouts == ((3,), None, None)
    assert alone.model.data_shape == (3,)
    assert alone.engine.log_every == 50  # sections left out have their defaults


def test_weights_depend_on_the_seed_and_the_role_alone():
    def weights(text):
        return build(text).model.energies[0].net.weight

    base = "data: {use: toy}\nenergy: {use: mlp}\n"
    ambient = torch.random.get_rng_state()
    assert torch.equal(weights(base), weights(base + "prior: {use: toy, dim: 3}\ndecoder: {use: toy}\n"))
    assert not torch.equal(weights(base), weights(base + "seed: 1\n"))
    assert torch.equal(ambient, torch.random.get_rng_state())  # nobody's randomness is consumed
    two = build("data: {use: toy}\nenergy: [{use: mlp}, {use: mlp}]").model.energies
    assert not torch.equal(two[0].net.weight, two[1].net.weight)


def test_generators_are_each_their_own():
    stages = [stage for _, stage in build(RECIPE).stages]
    again = [stage for _, stage in build(RECIPE).stages]
    assert stages[0].generator.initial_seed() == again[0].generator.initial_seed()
    assert stages[0].generator.initial_seed() != stages[1].generator.initial_seed()


def test_energies_may_wrap_one_another():
    made = build("data: {use: toy}\nenergy: [{use: mlp}, {use: wrapped}]")
    assert made.model.energies[1].inner is made.model.energies[0]
    nested = build("data: {use: toy}\nenergy: {use: wrapped, inner: {use: mlp, width: 3}}")
    assert nested.model.energies[0].inner.width == 3


def test_a_constructors_refusal_is_shown_at_its_block_with_the_others():
    with pytest.raises(RecipeError) as caught:
        build(
            "data: {use: toy}\nprior: {use: toy, dim: 0}\ndecoder: {use: toy}\nengine: {keep: 1}\n"
            "health:\n  lr_factor: 2\n"
        )
    assert [(fault.code, fault.line, fault.column) for fault in caught.value.faults] == [
        ("GF212", 2, 8),
        ("GF212", 4, 9),
        ("GF212", 6, 3),
    ]
    assert "ToyPrior (prior 'toy'): dim must be positive, got 0" in str(caught.value)


# -- resolved.yaml ----------------------------------------------------------------------------------------------------


def same_weights(one, other):
    left, right = one.model.state_dict(), other.model.state_dict()
    assert list(left) == list(right)
    return all(torch.equal(left[key], right[key]) for key in left)


def test_the_resolved_recipe_composes_to_the_same_objects(tmp_path):
    made = build(RECIPE)
    path = tmp_path / "resolved.yaml"
    path.write_text(made.resolved.dump())
    again = compose(path, toys())
    assert again.resolved.plain() == made.resolved.plain()
    assert again.resolved.dump() == made.resolved.dump()
    assert again.name == "toy"
    assert same_weights(made, again)
    plain = made.resolved.plain()
    assert plain["energy"] == {
        "use": "mlp",
        "on": "latent",
        "width": 64,
        "hidden": [5, 5],
        "scale": 1.0,
        "label": "",
        "exact": False,
    }
    assert plain["components"]["energy/mlp"] == {"provider": "toys", "version": "1.0"}
    assert plain["health"]["rollbacks"] == 3
    assert "vars" not in plain


def test_a_relative_default_path_means_the_same_from_the_run_directory(tmp_path):
    made = build("data: {use: toy}")
    (tmp_path / "resolved.yaml").write_text(made.resolved.dump())
    assert compose(tmp_path / "resolved.yaml", toys()).data.root == made.data.root == Path("data")


def test_the_provider_that_was_recorded_is_used_again_and_a_new_version_is_noted():
    text = build("data: {use: toy}\nenergy: {use: mlp}").resolved.dump()
    newer = component("energy", "mlp", ToyEnergy, provider="quad", version="2.0")
    assert build(text, toys(newer)).resolved.notes == ()  # the bare name has become ambiguous since
    old = text.replace("energy/mlp: {provider: toys, version: '1.0'}", "energy/mlp: {provider: toys, version: '0.9'}")
    assert old != text
    (note,) = build(old).resolved.notes
    assert note == "energy/mlp was recorded with toys 0.9, and 1.0 is installed"


def test_every_leaf_knows_where_it_came_from(tmp_path):
    (tmp_path / "base.yaml").write_text("vars: {w: 5}\ndata: {use: toy}\nenergy:\n  use: mlp\n  width: '${vars.w}'\n")
    (tmp_path / "a.yaml").write_text("extends: base\nencoder: {use: toy}\nprior: {use: toy, dim: 2}")
    recipe = load_recipe(tmp_path / "a.yaml", sets=["energy.scale=2"])
    found = {path: (value, origin) for path, value, origin in check(recipe, toys(), smoke=True).origins()}
    base = tmp_path / "base.yaml"
    assert found["data.use"] == ("toy", f"{base}:2")
    assert found["energy.width"] == (4, "smoke cap of ToyEnergy")
    assert found["energy.scale"] == (2.0, "--set energy.scale=2")
    assert found["energy.on"] == ("data", "default of ToyEnergy")
    assert found["encoder.prior"] == ({"ref": "prior"}, "the recipe's prior")
    full = {path: origin for path, _, origin in check(recipe, toys()).origins()}
    assert full["energy.width"] == f"{base}:5, copied from {base}:1"


# -- smoke runs -------------------------------------------------------------------------------------------------------


def test_a_smoke_run_caps_numbers_and_replaces_the_rest():
    made = build(RECIPE, smoke=True)
    stage = made.stages[0][1]
    assert (stage.steps, stage.batch, stage.chain.sampler.steps) == (3, 8, 2)
    assert made.stages[1][1].steps == 3
    assert made.model.energies[0].width == 4
    assert made.model.energies[0].hidden == (3,)
    assert made.sample.count == 16
    assert made.smoke
    small = build("data: {use: toy}\nenergy: {use: mlp, width: 2}", smoke=True)
    assert small.model.energies[0].width == 2  # a cap never makes anything larger
    again = build(made.resolved.dump())
    assert again.smoke
    assert again.resolved.plain() == made.resolved.plain()


def test_settings_that_are_left_out_are_an_empty_mapping():
    recipe = "data: {use: toy}\nenergy: {use: mlp}\nevaluate: [{use: count}, {use: count, bins: {closed: false}}]"
    first, second = (metric.bins for _, metric in build(recipe).metrics)
    assert (first.edges, first.closed, second.edges, second.closed) == (10, True, 10, False)
    made = build(recipe, smoke=True)
    assert [metric.bins.edges for _, metric in made.metrics] == [2, 2]
    assert made.resolved.plain()["evaluate"][0]["bins"] == {"edges": 2, "closed": True}
    assert build(made.resolved.dump()).resolved.plain() == made.resolved.plain()


def test_absent_data_is_stood_in_for_in_smoke_runs_only(caplog):
    text = "data: {use: toy, size: 5, present: false}"
    assert isinstance(build(text).data, ToyData)
    assert isinstance(build("data: {use: toy}", smoke=True).data, ToyData)
    stand_in = build(text, smoke=True).data
    assert isinstance(stand_in, Synthetic)
    assert stand_in.data_shape == (5,)
    assert "synthetic rows stand in for data in this smoke run: nothing at" in caplog.text


def test_wrong_data_is_not_stood_in_for(monkeypatch):
    def wrong(self, name):
        raise DataError(f"the file has no array '{name}'")

    monkeypatch.setattr(ToyData, "split", wrong)
    with pytest.raises(DataError, match="the file has no array 'train'"):
        build("data: {use: toy}", smoke=True)


# -- ways in ----------------------------------------------------------------------------------------------------------


def test_recipes_come_as_files_text_mappings_and_resolved(tmp_path):
    (tmp_path / "a.yaml").write_text(RECIPE)
    registry = toys()
    by_file = compose(tmp_path / "a.yaml", registry)
    for other in (
        str(tmp_path / "a.yaml"),
        RECIPE,
        parse_recipe(RECIPE).plain(),
        by_file.resolved,
        load_recipe(tmp_path / "a.yaml"),
    ):
        assert same_weights(by_file, compose(other, registry))
    assert compose(by_file.resolved, smoke=True).stages[0][1].steps == 3


PLUGIN = '''
"""An energy in one file."""
from torch import Tensor
from genfw.plugins.component import Component
from genfw.plugins.hookspecs import hookimpl
from genfw.interfaces import Energy

class Quad(Energy):
    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, v: Tensor) -> Tensor:
        return self.strength * v.flatten(1).square().sum(1)

@hookimpl
def genfw_components():
    return [Component("energy", "quad", "quad:Quad", "a parabola")]
'''


def test_a_recipe_brings_its_local_plugins(tmp_path):
    (tmp_path / "quad.py").write_text(PLUGIN)
    path = tmp_path / "a.yaml"
    path.write_text("plugins: [quad.py]\nenergy: {use: quad, strength: 2}\n")
    made = compose(path)
    assert made.model.energies[0].strength == 2.0
    assert made.resolved.plain()["plugins"] == [str((tmp_path / "quad.py").resolve())]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resolved.yaml").write_text(made.resolved.dump())
    assert compose(tmp_path / "run/resolved.yaml").resolved.plain() == made.resolved.plain()
    _, registry = open_recipe(path, registry=toys())  # one that lacks the recipe's own is loaded anew
    assert registry.find("energy", "quad").source == "local"


def test_opening_a_recipe_leaves_its_faults_to_the_check(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("sed: 1\ndata: {use: toi}\nplugins: [none.py]\n")
    recipe, registry = open_recipe(path, registry=toys())
    with pytest.raises(RecipeError) as caught:
        check(recipe, registry)
    assert [fault.code for fault in caught.value.faults] == ["GF108", "GF201", "GF115"]


# -- stand-in data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8), (1, 28, 28), (3, 2, 5)])
def test_synthetic_data_is_in_range_labelled_and_the_same_every_time(shape):
    split = Synthetic(shape).split("train")
    index = torch.tensor([5, 0, 255])
    x, label = split.get(index)
    assert x.shape == (3, *shape)
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1.0
    assert label.tolist() == [5, 0, 5]
    assert torch.equal(Synthetic(shape).split("train").get(index)[0], x)
    assert not torch.equal(Synthetic(shape).split("test").get(index[:2])[0], x[:2])
    assert not torch.equal(x[0], x[2])


def test_synthetic_data_has_the_splits_that_recipes_ask_for():
    index = torch.arange(4)
    splits = [Synthetic((2,)).split(name).get(index)[0] for name in ("train", "test", "validation", "held-out")]
    assert len(torch.stack(splits).unique(dim=0)) == 4
    with pytest.raises(DataError, match="no split 'absent'; there are train, test, validation, held-out"):
        Synthetic((2,)).split("absent")


def test_synthetic_images_are_smooth():
    x, _ = Synthetic((3, 32, 32)).split("test").get(torch.arange(8))
    step = (x[..., 1:] - x[..., :-1]).square().mean()
    assert step < 0.05 * x.var()
