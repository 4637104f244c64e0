"""A recipe is tried before it costs anything: every fault in one pass, at its place, and nothing is written."""

import pytest

from genfw.engine import run as engine
from genfw.errors import AbsentDataError, RecipeError
from genfw.recipes.check import bind, check
from genfw.recipes.recipe import open_recipe
from genfw.recipes.rehearse import rehearse
from tiny_recipe import TINY_VAE

BASE = (
    TINY_VAE
    + """train:
  - {use: elbo, steps: 4, batch: 7, optimizer: {use: adam, lr: 1e-3}}
evaluate:
  - {use: ood, others: {digits: {use: digits}}, count: 10}
  - {use: fid, samples: 10, features: {extractor: classifier}}
  - {use: nearest-neighbours, crop: 8}
engine: {devices: 2}
"""
)

WIDE = """
import torch
from genfw import Component, Decoder, hookimpl
from genfw.interfaces.likelihood import Gaussian

class Wide(Decoder):
    noise_shape = (3,)

    def forward(self, latent):
        return Gaussian(torch.zeros(len(latent), 3), 1.0)

@hookimpl
def genfw_components():
    return [Component("decoder", "wide", "wide:Wide", "three numbers")]
"""


def faults(path, *sets):
    recipe, registry = open_recipe(path, sets=sets)
    with pytest.raises(RecipeError) as caught:
        rehearse(*bind(recipe, registry))
    return {(fault.line, fault.code): fault.message for fault in caught.value.faults}


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "tried.yaml"
    path.write_text(BASE)
    return path


def test_batch_and_metrics_that_do_not_fit_are_found_at_once(base):
    found = faults(base)
    assert found.keys() == {(9, "GF217"), (11, "GF217"), (12, "GF217"), (13, "GF217")}
    assert "batches of 7 rows, which 2 processes can't share" in found[9, "GF217"]
    assert "items of 'digits' have shape (1, 8, 8)" in found[11, "GF217"]
    assert "images of one or three channels" in found[12, "GF217"]
    assert "a square of 8 can't be cut" in found[13, "GF217"]


def test_faults_of_binding_building_and_fitting_come_together(base):
    found = faults(base, "encoder.hiden=3", "decoder.sigma=-0.3")
    assert {(1, "GF203"), (6, "GF212"), (9, "GF217"), (11, "GF217")} <= found.keys()


def test_a_run_is_refused_before_it_has_a_directory(base, tmp_path):
    with pytest.raises(RecipeError, match="GF217"):
        engine.run(base, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def pictures(folder):
    return (f"data={{use: image-folder, root: {folder}, size: 8}}", "evaluate=[]", "engine.devices=1")


def test_files_that_are_not_what_the_recipe_says_are_found(base, tmp_path):
    (tmp_path / "empty").mkdir()
    found = faults(base, *pictures(tmp_path / "empty"))
    assert "has no images for the split 'train'" in found[1, "GF218"]


def test_absent_data_are_a_note_of_check_and_the_end_of_a_run(base, tmp_path):
    recipe, registry = open_recipe(base, sets=pictures(tmp_path / "nowhere"))
    found = rehearse(check(recipe, registry))
    assert "nowhere" in found.notes[0]
    with pytest.raises(AbsentDataError):
        engine.run(base, root=tmp_path / "runs", sets=pictures(tmp_path / "nowhere"))
    assert not (tmp_path / "runs").exists()


def test_a_part_that_makes_another_shape_is_named(base, tmp_path):
    (tmp_path / "wide.py").write_text(WIDE)
    found = faults(base, f"plugins=[{tmp_path}/wide.py]", "decoder={use: wide}", "evaluate=[]", "engine.devices=1")
    assert found == {(1, "GF217"): "the decoder: it makes data of shape (3,), where (2,) is needed"}


@pytest.mark.parametrize("name", ["quickstart", "damc-pinwheel", "ebm-on-x-digits", "inversion-ffhq256-damc"])
def test_shipped_recipes_pass(name):
    recipe, registry = open_recipe(name)
    rehearse(check(recipe, registry))
