"""Every data set can be named in a recipe; a smoke run has data of its shape where its files are absent."""

import importlib.util

import pytest
import torch

from genfw.errors import PluginError, RecipeError
from genfw.plugins import load_plugins
from genfw.recipes.compose import compose
from genfw.recipes.recipe import parse_recipe
from genfw.training.synthetic import Synthetic

REGISTRY = load_plugins(enabled=False)

REST = """
genfw: 1
name: any-data
seed: 0
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [4]}
encoder: {use: mlp, hidden: [4]}
train: [{use: elbo, steps: 3, batch: 4, optimizer: {use: adam, lr: 1e-3}}]
"""

#: The data block and the shape that follows from it.
BLOCKS = {
    "data: {use: gaussian-grid, train: 20, test: 10}": (2,),
    "data: {use: pinwheel, train: 20, test: 10}": (2,),
    "data: {use: digits, size: 16}": (1, 16, 16),
    "data: {use: idx, root: nowhere, size: 32}": (1, 32, 32),
    "data: {use: mnist, root: nowhere, download: false}": (1, 28, 28),
    "data: {use: fashion-mnist, root: nowhere, download: false}": (1, 28, 28),
    "data: {use: cifar10, root: nowhere, download: false}": (3, 32, 32),
    "data: {use: cifar100, root: nowhere, download: false, size: 16}": (3, 16, 16),
    "data: {use: svhn, root: nowhere, download: false}": (3, 32, 32),
    "data: {use: celeba, root: nowhere, download: false, size: 32}": (3, 32, 32),
    "data: {use: celeba-hq, root: nowhere}": (3, 64, 64),  # the cap of a smoke run
    "data: {use: lsun-church, root: nowhere, download: false}": (3, 64, 64),
    "data: {use: image-folder, root: nowhere, size: 24, channels: 1}": (1, 24, 24),
    "data: {use: stacked, source: {use: mnist, root: nowhere, download: false}}": (3, 28, 28),
    "data: {use: huggingface, path: nobody/nothing, size: 20}": (3, 20, 20),
    "data: {use: random-mlp, size: 4, hidden: [8], law: {use: pinwheel, train: 20, test: 10}}": (4,),
    "data: {use: tensor-file, file: nowhere.safetensors, shape: [5]}": (5,),
}


def named(block):
    return block.split("use: ")[1].split(",")[0].rstrip("}")


def test_no_data_set_is_forgotten():
    assert {named(block) for block in BLOCKS} == {
        c.name for c in REGISTRY.components if c.kind == "dataset" and c.name != "given"
    }  # a recipe has what was given in Python by its name alone


@pytest.mark.parametrize("block", BLOCKS, ids=named)
def test_data_set_composes_and_trains_on_data_of_its_shape(block):
    component = REGISTRY.find("dataset", named(block))
    recipe = parse_recipe(REST + block)
    if any(importlib.util.find_spec(package) is None for package in component.needs):
        with pytest.raises((RecipeError, PluginError), match=r"not installed: pip install"):
            compose(recipe, REGISTRY, smoke=True)
        return
    composition = compose(recipe, REGISTRY, smoke=True)
    assert composition.model.data_shape == BLOCKS[block]
    assert isinstance(composition.data, Synthetic) == ("nowhere" in block or "nothing" in block)
    x, _ = composition.data.split("train").get(torch.arange(4))
    assert x.shape == (4, *BLOCKS[block])
    assert composition.model.likelihood(composition.model.encoder(x).latent).log_prob(x).isfinite().all()


def test_tracker_with_an_extra_can_be_named():
    recipe = parse_recipe(REST + "data: {use: gaussian-grid}\ntrackers: [{use: tensorboard}]")
    (tracker,) = compose(recipe, REGISTRY, smoke=True).trackers
    assert isinstance(tracker, REGISTRY.load_class(REGISTRY.find("tracker", "tensorboard")))
