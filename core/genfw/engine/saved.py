"""A saved model: the parts that sampling needs, from a folder with safetensors and a resolved recipe.

Nothing in the folder is executed: the recipe's values run no code, a recipe that names Python files is refused, and the
only classes that are built are components of installed plugins.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open

from genfw.engine.devices import own_device
from genfw.errors import RunError
from genfw.interfaces.dataset import Dataset, Split
from genfw.interfaces.values import Size
from genfw.plugins.registry import Registry
from genfw.recipes.check import ROLES
from genfw.recipes.compose import Composition, compose
from genfw.recipes.recipe import Recipe, open_recipe
from genfw.recipes.yaml_nodes import Node
from genfw.runs.directory import RunDirectory
from genfw.runs.files import read_mapping

#: Key of what genfw writes into the head of a safetensors file, and the version of what it writes.
HEAD, FORMAT = "genfw", 1
#: Sections of the recipe that sampling needs.
_NEEDED = ("genfw", "name", "description", "seed", "requires", *ROLES, "sample", "components")


class _Shape(Dataset):
    """The data of a saved model: only their shape is known."""

    def __init__(self, shape: Size) -> None:
        self._shape = shape

    @property
    def data_shape(self) -> Size:
        return self._shape

    def split(self, name: str) -> Split:
        raise RunError("a saved model comes without its data")


def open_saved(run_dir: RunDirectory, registry: Registry | None = None, device: str | None = "cpu") -> Composition:
    """The parts of a saved model, with its weights.

    Arguments:
        run_dir: The model's folder.
        registry: Plugins; the installed ones by default.
        device: Device of the model; ``None`` takes the fastest there is.

    Raises:
        RunError: The files do not belong together, are damaged, or name code to run.
        RecipeError: A component of the model is not installed.
    """
    tensors, shape, without = _read(run_dir)
    for key in ("plugins", "extends"):
        if read_mapping(run_dir.resolved).get(key):
            raise RunError(
                f"{run_dir.resolved} names other files under '{key}:'; a saved model is read as data alone. Install "
                "the plugin that its components come from, and remove the section"
            )
    recipe, known = open_recipe(run_dir.resolved, registry=registry)
    composition = compose(_needed(recipe, without), known, data=_Shape(shape), device=device or str(own_device("auto")))
    model = composition.model
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        model.double()
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"{run_dir.weights} does not fit the model that {run_dir.resolved} describes: {error}"
        ) from error
    model.eval()
    return composition


def _read(run_dir: RunDirectory) -> tuple[dict[str, torch.Tensor], Size, Collection[str]]:
    """The tensors, the shape of one item, and the parts that were left out."""
    try:
        with safe_open(run_dir.weights, "pt") as file:
            head: Any = json.loads((file.metadata() or {})[HEAD])
            shape = tuple(int(size) for size in head["data_shape"])
            if head["format"] != FORMAT:
                raise RunError(f"{run_dir.weights} has format {head['format']}, and this genfw reads {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, shape, frozenset(head.get("without", ()))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run_dir.weights} is no model that genfw has saved: {error}") from error


def _needed(recipe: Recipe, without: Collection[str]) -> Recipe:
    """The recipe without what only training and measuring need, but for the chain that reconstructs."""
    sections = {key: node for key, node in recipe.root.value.items() if key in _NEEDED and key not in without}
    metrics = recipe.root.child("evaluate")
    for block in metrics.value if metrics is not None and metrics.is_list else ():
        name = block.child("use")
        if name is not None and name.value == "reconstruction":
            sections["evaluate"] = Node((block,), block.mark)
    return attrs.evolve(recipe, root=attrs.evolve(recipe.root, value=sections))
