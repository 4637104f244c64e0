"""Use what a run has trained: load it, sample from it, measure it again."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.engine.devices import is_first, make_fabric, own_device, tuned
from genfw.engine.launching import gathered
from genfw.engine.recovery import begin, put_back
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure, write_samples
from genfw.evaluation.pool import pooled, serve
from genfw.evaluation.results import Result
from genfw.plugins.registry import Registry
from genfw.recipes.compose import Composition, compose
from genfw.recipes.recipe import Recipe, open_recipe
from genfw.runs.directory import RunDirectory

__all__ = [
    "accelerator_of",
    "compose_again",
    "evaluate_run",
    "load_run",
    "load_weights",
    "local_plugins",
    "open_evaluation",
    "prepare",
    "sample_run",
    "serve_evaluation",
]


def load_run(
    directory: str | Path, *, checkpoint: str = "best", device: str | None = "cpu", registry: Registry | None = None
) -> Composition:
    """The parts of a run with its trained weights, ready to sample from.

    Arguments:
        directory: The run directory.
        checkpoint: ``best``, ``last``, or a checkpoint's name; see :meth:`~genfw.runs.checkpoints.Checkpoints.find`.
        device: Where the model goes; ``None`` takes the recipe's accelerator.
        registry: Plugins; those that are installed where absent.

    Raises:
        RunError: There is no such run or checkpoint.
    """
    place = RunDirectory.open(directory)
    composition = compose_again(place, registry, device)
    # Composing has put the model where it was told to.
    parameter = next(composition.model.parameters(), torch.empty(0))
    load_weights(composition, place, checkpoint, device=str(parameter.device))
    return composition


def load_weights(
    composition: Composition, place: RunDirectory, checkpoint: str = "best", *, device: str = "cpu"
) -> None:
    """Give a composition the weights that its stage would leave behind if it ended at a checkpoint.

    Arguments:
        composition: The run's parts.
        place: The run directory.
        checkpoint: See :func:`load_run`.
        device: Where the model goes.
    """
    if composition.engine.precision == "64-true":
        composition.model.double()
    if composition.stages:
        found = place.checkpoints.find(checkpoint)
        engine = copy.copy(composition.engine)
        engine.accelerator, engine.devices = torch.device(device).type, 1  # type: ignore[assignment]
        with tuned(engine):
            fabric = make_fabric(engine, alone=torch.device(device))
            composition.model.to(fabric.device)
            # The data set is not opened: a trained model can be sampled from where its data are not.
            stage = begin(composition, fabric, found.stage, found.info["rows"])
            put_back(composition, stage, place.checkpoints.load(found, device=fabric.device))
            stage.finish()
    composition.model.to(device).eval()


def sample_run(
    directory: str | Path,
    *,
    count: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    checkpoint: str = "best",
    device: str | None = None,
    registry: Registry | None = None,
) -> Path:
    """Draw from a trained model, as the recipe's ``sample:`` section says.

    Several processes of this machine may draw together, and several machines a share each: what is drawn in all is, bit
    for bit on the same kind of device, what one process draws.

    Arguments:
        directory: The run directory.
        count: Samples; the recipe's count where absent.
        seed: Source of all randomness; the recipe's seed where absent.
        out: Folder to write to; ``samples/seed<seed>`` in the run directory where absent.
        share: Number of the share, from 0, and count of shares.
        processes: Processes to draw with, on CUDA each with a device of its own; ``torchrun``'s are taken as they are.
        checkpoint: See :func:`load_run`.
        device: Where chains run; the recipe's accelerator where absent.
        registry: Plugins; those that are installed where absent.

    Returns:
        The folder: ``samples.png`` (one value range for all) and ``samples.safetensors`` with ``x``, shape (N, *),
        ``position``, shape (N, D), and ``potential`` in nats, shape (N,). A share's files are named
        ``samples-2of4``, and ``index`` in them says which samples of the whole it has.
    """
    place = RunDirectory.open(directory)
    composition = load_run(directory, checkpoint=checkpoint, device=device, registry=registry)
    used = composition.seed if seed is None else seed
    folder = place.samples / f"seed{used}" if out is None else Path(out)
    with _opened(composition, place, processes) as evaluation:
        if evaluation is not None:
            write_samples(evaluation, folder, count=count, seed=used, share=share)
    return folder


def evaluate_run(
    directory: str | Path,
    *,
    only: Sequence[str] = (),
    processes: int = 1,
    checkpoint: str = "best",
    device: str | None = None,
    registry: Registry | None = None,
) -> list[Result]:
    """Take a trained model's numbers again, and write its report anew.

    Arguments:
        directory: The run directory.
        only: Names of metrics; all where empty.
        processes: See :func:`sample_run`; any number gives the same results.
        checkpoint: See :func:`load_run`.
        device: Where to measure; the recipe's accelerator where absent.
        registry: Plugins; those that are installed where absent.

    Returns:
        The results; none in those processes of ``torchrun`` that only help.
    """
    from genfw.runs.pages.report import write_report

    place = RunDirectory.open(directory)
    composition = load_run(directory, checkpoint=checkpoint, device=device, registry=registry)
    with place.lock() if is_first() else contextlib.nullcontext():
        with _opened(composition, place, processes) as evaluation:
            if evaluation is None:
                return []
            randomness.seed_all(composition.seed)
            results = measure(evaluation, composition.metrics, only=only)
        write_report(place.path)
    return results


# -- processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(composition: Composition, place: RunDirectory, processes: int) -> Iterator[Evaluation | None]:
    """The evaluation of a run with its processes; ``None``, once all is done, in one of ``torchrun``'s that helped."""
    parameter = next(composition.model.parameters(), torch.empty(0))
    settings = copy.copy(composition.engine)
    settings.accelerator = parameter.device.type  # type: ignore[assignment]
    plugins = local_plugins(composition)
    with tuned(settings), gathered(settings, place.path, processes, task="evaluate", plugins=plugins) as fabric:
        if not is_first():
            serve_evaluation(composition, place)
            yield None
            return
        with open_evaluation(composition, fabric, place) as evaluation:
            yield evaluation


@contextlib.contextmanager
def open_evaluation(composition: Composition, fabric: Fabric, place: RunDirectory) -> Iterator[Evaluation]:
    """In the first process: what the metrics of a run are given, its work shared out over all processes.

    Arguments:
        composition: The run's parts, trained.
        fabric: The processes.
        place: The run directory.
    """
    evaluation = prepare(composition, place.path)
    with pooled(fabric, evaluation, [metric for _, metric in composition.metrics]):
        yield evaluation


def serve_evaluation(composition: Composition, place: RunDirectory) -> None:
    """In a further process: work for the first one's evaluation until it is done.

    Arguments:
        composition: The run's parts.
        place: The run directory.
    """
    if composition.engine.precision == "64-true":
        composition.model.double()
    serve(prepare(composition, place.path), [metric for _, metric in composition.metrics])


def prepare(composition: Composition, directory: Path | str) -> Evaluation:
    """What the metrics of a run are given.

    Arguments:
        composition: The run; its model's weights are those to be measured.
        directory: The run directory.
    """
    parameter = next(composition.model.parameters(), None)
    return Evaluation(
        composition.model,
        composition.data,
        composition.sample,
        directory,
        device="cpu" if parameter is None else parameter.device,
        seed=composition.seed,
        smoke=composition.smoke,
        paper=composition.paper,
        recipe=composition.resolved.plain(),
    )


def local_plugins(composition: Composition) -> list[str]:
    """Files of one-file plugins that the recipe itself does not name: further processes have to be told of them."""
    named = {path.resolve() for path in composition.resolved.recipe.plugins}
    local = [one.file for one in composition.registry.plugins if one.source == "local"]
    return [file for file in local if Path(file).resolve() not in named]


def compose_again(place: RunDirectory, registry: Registry | None = None, device: str | None = None) -> Composition:
    """The parts of a run, from its resolved recipe.

    Arguments:
        place: The run directory.
        registry: Plugins; those that are installed where absent.
        device: Where components that ask for a device are told to be; the recipe's accelerator where absent.
    """
    recipe, known = open_recipe(place.resolved, registry=registry)
    return compose(recipe, known, device=device or str(own_device(accelerator_of(recipe))))


def accelerator_of(recipe: Recipe) -> str:
    """What a recipe says under ``engine.accelerator``."""
    node = recipe.get("engine.accelerator")
    return "auto" if node is None else str(node.value)
