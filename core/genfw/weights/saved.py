"""Saving a model out of its run: weights and resolved recipe, with the card and the small files of the run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from genfw.engine.finished import load_run
from genfw.engine.saved import FORMAT, HEAD, open_saved
from genfw.errors import RecipeError, RunError
from genfw.models.model import Model
from genfw.plugins.registry import Registry
from genfw.plugins.signature import summarise
from genfw.recipes.check import ROLES
from genfw.recipes.compose import Composition
from genfw.recipes.yaml_nodes import dump
from genfw.runs.cards import LICENCE, Card, read_numbers
from genfw.runs.directory import PICTURES, RunDirectory
from genfw.runs.environment import overrides
from genfw.runs.files import read_mapping, read_records, read_text, without_home, write_atomically
from genfw.runs.tensors import save_tensors
from genfw.weights.describe import describe

#: Files and folders of a run that a saved model keeps, for its report.
_KEPT = ("recipe.yaml", "metrics.jsonl", "events.jsonl", "evaluation.json", "STATUS")
_PICTURED = ("figures", "samples")
#: Parts that a model may do without once it is trained.
_SPARED = ("encoder", "amortizer")
#: Facts of a run's environment that say nothing about the machine's folders.
_ENVIRONMENT = ("genfw", "python", "packages", "code", "git", "hardware")


def save(model: Model | Composition, path: str | Path, *, sample: Mapping[str, Any] | None = None) -> Path:
    """Save a model, to load it again with :func:`genfw.load`.

    The folder holds ``model.safetensors`` and ``resolved.yaml``. Whoever loads it executes nothing that is in it.

    Arguments:
        model: A model of registered components, composed from a recipe or by hand; or a composition.
        path: The folder; it must be absent or empty.
        sample: How to sample from it, as in a recipe's ``sample:`` section; of a composition, its recipe's by default.

    Returns:
        The folder.

    Raises:
        ContractError: A part of the model is no registered component, or was built with a value that no recipe holds.
        RunError: The folder is not empty, or can't be written.
    """
    folder = _empty(path)
    if isinstance(model, Composition):
        recipe, model = model.resolved.plain(), model.model
    else:
        recipe = describe(model)
    if sample is not None:
        recipe["sample"] = dict(sample)
    _write(folder, model, recipe)
    return folder.path


def export_run(
    directory: str | Path,
    path: str | Path,
    *,
    name: str | None = None,
    licence: str = LICENCE,
    checkpoint: str = "best",
    half: bool = False,
    without: Collection[str] = (),
    registry: Registry | None = None,
) -> Path:
    """Save the trained model of a run with a card and what its report needs.

    Pictures that show rows of the data stay behind: the data are not the model's to share. Those are the figures whose
    ``shows_data`` is set, and all figures of an evaluation that an earlier genfw wrote, which does not say.

    Arguments:
        directory: The run directory.
        path: The folder to write; it must be absent or empty.
        name: The model's name; the recipe's by default.
        licence: Licence of the weights.
        checkpoint: See :func:`~genfw.engine.finished.load_run`.
        half: Round the weights to float16, in half of the bytes; the model computes in float32 all the same. The card
            says so, and its numbers are of the weights before.
        without: Parts that only training needed, left behind to save bytes: ``"encoder"``, ``"amortizer"``.
        registry: Plugins; the installed ones by default.

    Returns:
        The folder.

    Raises:
        RunError: It is no run; the folder is not empty; or ``without`` names a part that the model does not have, or
            that sampling needs, or is given for a saved model, which is copied as it is.
    """
    run_dir = RunDirectory.open(directory)
    recipe = read_mapping(run_dir.resolved)
    if without and run_dir.weights.is_file():
        raise RunError(f"{run_dir.path} is a saved model already; leave parts out of the run that it comes from")
    for part in without:
        if part not in _SPARED or recipe.get(part) is None:
            raise RunError(f"there is no {part} to leave out; {' and '.join(_SPARED)} can be, where the model has one")
    folder = _empty(path)
    if run_dir.weights.is_file():
        shutil.copytree(run_dir.path, folder.path, dirs_exist_ok=True)
        return folder.path
    composition = load_run(directory, checkpoint=checkpoint, registry=registry)
    _write(folder, composition.model, composition.resolved.plain(), half=half, without=without)
    if without:
        try:
            open_saved(folder, registry)
        except RecipeError as error:
            shutil.rmtree(folder.path)
            raise RunError(f"the model needs what is left out ({', '.join(without)}): {error}") from error
    for file in _KEPT:
        if text := read_text(run_dir.path / file):
            write_atomically(folder.path / file, without_home(text))
    for picture in _shared_pictures(run_dir):
        target = folder.path / picture.relative_to(run_dir.path)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(picture, target)
    environment = read_mapping(run_dir.environment)
    kept = {key: environment[key] for key in _ENVIRONMENT if key in environment}
    write_atomically(folder.environment, without_home(json.dumps(kept, indent=1)))
    card = card_of(run_dir, composition, name=name, licence=licence, without=without)
    shown = next((path for path in PICTURES if (folder.path / path).is_file()), "")
    attrs.evolve(card, picture=shown, weights="float16" if half else "").write(folder.card)
    return folder.path


def _shared_pictures(run_dir: RunDirectory) -> list[Path]:
    """The run's own draws, and the figures of its results that show no rows of the data."""
    records = read_records(read_mapping(run_dir.evaluation).get("results"))
    figures = [figure for record in records for figure in read_records(record.get("figures"))]
    shared = {figure.get("path") for figure in figures if figure.get("shows_data") is False}
    found = [path for folder in _PICTURED for path in sorted((run_dir.path / folder).glob("*.png"))]
    drawn = [*run_dir.samples.glob("samples.png"), *run_dir.samples.glob("stage*-step*.png")]
    return [path for path in found if path in drawn or path.relative_to(run_dir.path).as_posix() in shared]


def card_of(
    run_dir: RunDirectory, composition: Composition, *, name: str | None, licence: str, without: Collection[str] = ()
) -> Card:
    """The card of a run's model, from the files of the run.

    Arguments:
        run_dir: The run directory.
        composition: Its parts.
        name: The model's name; the recipe's by default.
        licence: Licence of the weights.
        without: Parts that are left behind.
    """
    kept = [tensor for part, tensor in composition.model.named_parameters() if part.partition(".")[0] not in without]
    recipe, environment = composition.resolved.plain(), read_mapping(run_dir.environment)
    own = [pair for pair in overrides(environment) if not pair[1].startswith(("seed=", "name=", "engine."))]
    changed = [without_home(word) for pair in own for word in pair]
    rows = run_dir.read_metrics()
    ends = {row.get("stage"): row.get("step", 0) for row in rows}
    hardware = environment.get("hardware") or {}
    where = [str(hardware.get("processor") or ""), *map(str, hardware.get("devices") or ())]
    threads = hardware.get("threads")
    packages = environment.get("packages") or {}
    return Card(
        name=name or composition.name,
        description=" ".join(str(recipe.get("description") or "").split()),
        data=summarise(recipe.get("data") or {}),
        data_shape=tuple(composition.model.data_shape),
        parameters=sum(parameter.numel() for parameter in kept),
        licence=licence,
        command=shlex.join(["genfw", "run", composition.name, "--set", f"seed={composition.seed}", *changed]),
        steps=sum(ends.values()),
        minutes=round(float(rows[-1].get("time", 0.0)) / 60.0, 1) if rows else 0.0,
        hardware=", ".join(filter(None, [*where, f"{threads} thread{'s' * (threads != 1)}" if threads else ""])),
        versions={
            "genfw": str(environment.get("genfw", "")),
            **({"torch": str(packages["torch"])} if "torch" in packages else {}),
        },
        tags=_tags(composition),
        numbers=read_numbers(read_mapping(run_dir.evaluation).get("results")),
    )


def _tags(composition: Composition) -> tuple[str, ...]:
    """Words to find the model by: the paper, and the components that it is made of and trained by."""
    words = [str(composition.paper.get("id") or "").lower()]
    for part, block in composition.resolved.parts.items():
        if part.partition(".")[0] in (*ROLES, "train"):
            words.append(getattr(block, "use", "").rpartition("/")[2])
    return tuple(dict.fromkeys(word for word in words if re.fullmatch(r"[a-z0-9][a-z0-9-]*", word)))


def _empty(path: str | Path) -> RunDirectory:
    folder = RunDirectory(path)
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise RunError(f"{folder.path} is there already; name a folder that is absent or empty")
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def _write(
    folder: RunDirectory, model: Model, recipe: Mapping[str, Any], *, half: bool = False, without: Collection[str] = ()
) -> None:
    # A plugin file of this machine is no part of the model, and whoever loads it would not run it.
    kept = {key: value for key, value in recipe.items() if key != "plugins"}
    with torch.no_grad():
        head = {"format": FORMAT, "data_shape": list(model.data_shape), "without": list(without)}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.partition(".")[0] not in without}
    if half:
        tensors = {name: _halved(tensor) for name, tensor in tensors.items()}
    save_tensors(folder.weights, tensors, {HEAD: json.dumps(head)})
    write_atomically(folder.resolved, without_home(dump(kept)))


def _halved(tensor: Tensor) -> Tensor:
    """A float32 tensor as float16, unless one of its numbers is too large for that."""
    if tensor.dtype != torch.float32:
        return tensor
    rounded = tensor.half()
    return rounded if bool(rounded.isfinite().all()) else tensor
