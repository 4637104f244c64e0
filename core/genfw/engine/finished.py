"""Use a trained run: load it, sample from it, measure it again."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric

from genfw import randomness
from genfw.engine.cluster import is_first
from genfw.engine.devices import make_fabric, own_device, tuned
from genfw.engine.launching import launched
from genfw.engine.recovery import restore_state, set_up_stage
from genfw.engine.saved import open_saved
from genfw.errors import RunError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure, write_samples
from genfw.evaluation.results import Result
from genfw.evaluation.sharing import SharedEvaluation
from genfw.plugins.registry import Registry
from genfw.recipes.check import bind
from genfw.recipes.compose import Composition, compose
from genfw.recipes.recipe import Recipe, open_recipe
from genfw.runs.directory import RunDirectory

E = TypeVar("E", bound=Evaluation)


def load_run(
    directory: str | Path,
    *,
    checkpoint: str = "best",
    device: str | None = "cpu",
    registry: Registry | None = None,
    sets: Sequence[str] = (),
) -> Composition:
    """The parts of a run with its trained weights, ready to sample from.

    Arguments:
        directory: The run directory, or the folder of a saved model.
        checkpoint: ``best``, ``last``, or a checkpoint's name; see :meth:`~genfw.runs.checkpoints.Checkpoints.find`.
        device: Device of the model; ``None`` takes the recipe's accelerator.
        registry: Plugins; the installed ones by default.
        sets: Overrides ``evaluate...=VALUE`` of the run's recipe; nothing else of a finished run can be changed.

    Raises:
        RunError: There is no such run or checkpoint, or an override is of another section.
    """
    run_dir = RunDirectory.open(directory)
    if run_dir.weights.is_file():
        return open_saved(run_dir, registry, device)
    if other := [each for each in sets if not re.match(r"evaluate(\.|=)", each)]:
        raise RunError(f"a finished run is evaluated as it was trained; '--set' takes 'evaluate...', got {other[0]}")
    composition = compose_again(run_dir, registry, device, sets)
    # compose_again has moved the model to the device.
    parameter = next(composition.model.parameters(), torch.empty(0))
    load_weights(composition, run_dir, checkpoint, device=str(parameter.device))
    return composition


def load_weights(
    composition: Composition, run_dir: RunDirectory, checkpoint: str = "best", *, device: str = "cpu"
) -> None:
    """Load the weights that a stage would leave in the model if it ended at a checkpoint.

    Arguments:
        composition: The run's parts.
        run_dir: The run directory.
        checkpoint: See :func:`load_run`.
        device: Device of the model.
    """
    if composition.engine.precision == "64-true":
        composition.model.double()
    if composition.stages:
        found = run_dir.checkpoints.find(checkpoint)
        engine = copy.copy(composition.engine)
        engine.accelerator, engine.devices = torch.device(device).type, 1  # type: ignore[assignment]
        with tuned(engine):
            fabric = make_fabric(engine, device=torch.device(device))
            composition.model.to(fabric.device)
            # The data set stays closed: you can sample from a trained model without its data.
            stage = set_up_stage(composition, fabric, found.stage, found.info["rows"])
            restore_state(composition, stage, run_dir.checkpoints.load(found, device=fabric.device))
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

    Several processes of this machine can draw together, and several machines can draw a share each. All together they
    draw the same samples as a single process, bit for bit on the same kind of device.

    Arguments:
        directory: The run directory.
        count: Count of samples; the recipe's count by default.
        seed: Source of all randomness; the recipe's seed by default.
        out: Folder of the files; by default ``samples/seed<seed>`` in the run directory, and
            ``samples-<name>/seed<seed>`` in the working directory for a saved model.
        share: Index of the share, and count of shares.
        processes: Count of processes, on CUDA each with its own device; ignored under ``torchrun`` and ``srun``.
        checkpoint: See :func:`load_run`.
        device: Device of the chains; the recipe's accelerator by default.
        registry: Plugins; the installed ones by default.

    Returns:
        The folder: ``samples.png`` (one value range for all; the first 1,024 images) and ``samples.safetensors``
        with ``x``, shape (N, *), ``position``, shape (N, D), and ``potential`` in nats, shape (N,). A share's files are
        named ``samples-2of4`` and have in ``index`` the share's indices among all samples.
    """
    run_dir = RunDirectory.open(directory)
    composition = load_run(directory, checkpoint=checkpoint, device=device, registry=registry)
    used = composition.seed if seed is None else seed
    # A saved model's folder is not written to: it may lie in an installed package.
    usual = Path(f"samples-{composition.name}") if run_dir.weights.is_file() else run_dir.samples
    folder = usual / f"seed{used}" if out is None else Path(out)
    with _opened(composition, run_dir, processes) as evaluation:
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
    sets: Sequence[str] = (),
) -> list[Result]:
    """Measure a trained model again, and write its report again.

    Arguments:
        directory: The run directory.
        only: Names of metrics; all where empty.
        processes: See :func:`sample_run`; any number gives the same results.
        checkpoint: See :func:`load_run`.
        device: Device of the model; the recipe's accelerator by default.
        registry: Plugins; the installed ones by default.
        sets: See :func:`load_run`; the numbers' protocol and settings say what was measured.

    Returns:
        The results; none in processes with a rank above 0.
    """
    from genfw.runs.pages.report import write_report

    run_dir = RunDirectory.open(directory)
    if run_dir.weights.is_file():
        raise RunError(
            f"{run_dir.path} is a saved model, and its numbers are those of the run it came from; "
            f"train it again to measure it: genfw run {run_dir.resolved}"
        )
    composition = load_run(directory, checkpoint=checkpoint, device=device, registry=registry, sets=sets)
    with run_dir.lock() if is_first() else contextlib.nullcontext():
        with _opened(composition, run_dir, processes) as evaluation:
            if evaluation is None:
                return []
            randomness.seed_all(composition.seed)
            results = measure(evaluation, composition.metrics, only=only)
        write_report(run_dir.path)
    return results


# -- processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(composition: Composition, run_dir: RunDirectory, processes: int) -> Iterator[Evaluation | None]:
    """As :func:`open_evaluation`, with processes that are started for it."""
    parameter = next(composition.model.parameters(), torch.empty(0))
    settings = copy.copy(composition.engine)
    settings.accelerator = parameter.device.type  # type: ignore[assignment]
    plugins = local_plugins(composition.resolved.recipe, composition.registry)
    with (
        tuned(settings, folder=run_dir.path, alone=processes == 1),
        launched(settings, run_dir.path, processes, task="evaluate", plugins=plugins) as fabric,
        open_evaluation(composition, fabric, run_dir) as evaluation,
    ):
        yield evaluation


@contextlib.contextmanager
def open_evaluation(composition: Composition, fabric: Fabric, run_dir: RunDirectory) -> Iterator[Evaluation | None]:
    """The evaluation of a run in the first process; ``None`` in the others, after all work is done.

    Arguments:
        composition: The run's parts, with trained weights in the first process.
        fabric: The processes.
        run_dir: The run directory.
    """
    if fabric.world_size == 1:
        yield prepare(composition, run_dir.path)
        return
    if composition.engine.precision == "64-true":
        composition.model.double()
    evaluation = prepare(composition, run_dir.path, SharedEvaluation)
    with evaluation.shared([metric for _, metric in composition.metrics]) as first:
        yield evaluation if first else None


def prepare(composition: Composition, directory: Path | str, kind: type[E] = Evaluation) -> E:  # type: ignore[assignment]
    """The evaluation of a run.

    Arguments:
        composition: The run's parts; its metrics measure the model's current weights.
        directory: The run directory.
        kind: Its class.
    """
    parameter = next(composition.model.parameters(), None)
    return kind(
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


def local_plugins(recipe: Recipe, registry: Registry) -> list[str]:
    """Files of local plugins that the recipe does not name, which other processes of the run must load too."""
    named = {path.resolve() for path in recipe.plugins}
    local = [plugin.file for plugin in registry.plugins if plugin.source == "local"]
    return [file for file in local if Path(file).resolve() not in named]


def compose_again(
    run_dir: RunDirectory,
    registry: Registry | None = None,
    device: str | None = None,
    sets: Sequence[str] = (),
    *,
    data: Any = None,
) -> Composition:
    """The parts of a run, from its resolved recipe.

    Arguments:
        run_dir: The run directory.
        registry: Plugins; the installed ones by default.
        device: Device of the components; the recipe's accelerator by default.
        sets: Overrides ``path=VALUE``.
        data: The data that the run was given in Python.
    """
    recipe, known = open_recipe(run_dir.resolved, registry=registry, sets=sets)
    return compose(recipe, known, data=data, device=device or str(own_device(accelerator_of(recipe))))


def renewed(resolved: Path, registry: Registry | None = None) -> str:
    """A run's resolved recipe with the defaults of settings that are newer than the run."""
    return bind(*open_recipe(resolved, registry=registry))[0].dump()


def accelerator_of(recipe: Recipe) -> str:
    """A recipe's ``engine.accelerator``."""
    node = recipe.get("engine.accelerator")
    return "auto" if node is None else str(node.value)
