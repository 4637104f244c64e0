"""Runs: begin one, and go on with one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from genfw import randomness
from genfw.engine.devices import count_processes, is_first, launched_outside, make_fabric, own_device, tuned
from genfw.engine.finished import (
    accelerator_of,
    compose_again,
    local_plugins,
    open_evaluation,
    serve_evaluation,
)
from genfw.engine.interrupts import Interrupts
from genfw.engine.launching import gathered
from genfw.engine.loop import Training
from genfw.engine.observers import Observers, hook_trackers
from genfw.errors import ChangedRecipeError, ContractError, GenfwError, RunError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure, write_samples
from genfw.evaluation.results import Figure, Result
from genfw.plugins import load_plugins
from genfw.plugins.hookspecs import RunInfo
from genfw.plugins.registry import Registry
from genfw.recipes.compose import Composition, compose
from genfw.recipes.recipe import Recipe, open_recipe, parse_recipe
from genfw.recipes.yaml_nodes import dump
from genfw.runs.checkpoints import Checkpoint
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.environment import describe_environment, differences
from genfw.runs.files import read_mapping, write_atomically
from genfw.training.tracker import Tracker

__all__ = ["RunResult", "drive", "resume", "run"]

_log = logging.getLogger("genfw")


@attrs.frozen
class RunResult:
    """What a run came to.

    Arguments:
        directory: The run directory.
        status: ``finished``; the other endings are exceptions.
        results: The numbers that were taken.
    """

    directory: Path
    status: str
    results: tuple[Result, ...]


# -- begin and go on --------------------------------------------------------------------------------------------------


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    root: str | Path = "runs",
    smoke: bool = False,
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
    trackers: Sequence[Tracker] = (),
    registry: Registry | None = None,
    directory: str | Path | None = None,
) -> RunResult:
    """Train, sample, evaluate and report, as a recipe says.

    Arguments:
        recipe: A file, the name of a shipped recipe, a recipe that was read, or its plain dict.
        root: Folder of all runs.
        smoke: Make every part tiny, to see within seconds that they fit together.
        sets: Overrides, such as ``train.0.steps=100``.
        unsets: Keys to remove.
        trackers: Observers besides those of the recipe.
        registry: Plugins; those that are installed where absent.
        directory: The run directory, instead of a fresh one below ``root``.

    Returns:
        The finished run.

    Raises:
        RecipeError: The recipe is wrong; nothing was written.
        DivergenceError: The health monitor stopped the run.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved, and :func:`resume` goes on from it.
    """
    read, registry = _read(recipe, sets, unsets, registry)
    composition = compose(read, registry, device=str(own_device(accelerator_of(read))), smoke=smoke)
    place = _make_directory(composition, read, root, directory)
    return drive(composition, place, trackers)


def resume(directory: str | Path, *, trackers: Sequence[Tracker] = (), registry: Registry | None = None) -> RunResult:
    """Go on with a run that was interrupted or killed, or that failed; bit for bit on the CPU.

    A finished run is left alone: its results are read and returned.

    Arguments:
        directory: The run directory.
        trackers: Observers besides those of the recipe.
        registry: Plugins; those that are installed where absent.

    Raises:
        RunError: It is no run directory, another process is at it, or its checkpoints are damaged.
    """
    place = RunDirectory.open(directory)
    if place.status().state == "finished":
        return RunResult(place.path, "finished", tuple(_read_results(place)))
    composition = compose_again(place, registry)
    return drive(composition, place, trackers, resumed=True)


def drive(
    composition: Composition, place: RunDirectory, trackers: Sequence[Tracker] = (), *, resumed: bool = False
) -> RunResult:
    """Run a composition in a run directory, from its newest checkpoint where it has one.

    Arguments:
        composition: The run's parts.
        place: The run directory; it is locked meanwhile.
        trackers: Observers besides the composition's own and the plugins'.
        resumed: The run was begun before.
    """
    observers = Observers(
        [*composition.trackers, *trackers, *hook_trackers(composition.registry)] if is_first() else ()
    )
    interrupts = Interrupts()
    with contextlib.ExitStack() as stack:
        if is_first():
            stack.enter_context(place.lock())
            place.checkpoints.clean()
        stack.enter_context(interrupts.installed())
        stack.enter_context(tuned(composition.engine))
        start = _newest(place, composition) if resumed else None
        try:
            _announce(composition, place, observers, start, resumed)
            results = _work(composition, place, observers, interrupts, start)
            _end(place, observers, Status("finished", step=0))
        except KeyboardInterrupt:
            _end(
                place, observers, attrs.evolve(place.status(), state="interrupted", reason="a signal asked it to stop")
            )
            raise
        except BaseException as error:
            reason = str(error) if isinstance(error, GenfwError) else f"{type(error).__name__}: {error}"
            _end(place, observers, attrs.evolve(place.status(), state="failed", reason=reason))
            raise
    return RunResult(place.path, "finished", tuple(results))


def _end(place: RunDirectory, observers: Observers, status: Status) -> None:
    if is_first():
        place.append_event("end", f"{status.state} {status.reason}".strip())
        place.write_status(attrs.evolve(status, pid=os.getpid(), time=Status("").time))
        observers.end(status.state)


def _newest(place: RunDirectory, composition: Composition) -> Checkpoint | None:
    """The newest checkpoint whose files are whole; damaged ones after it are passed over with a warning.

    Raises:
        ChangedRecipeError: The run's recipe was changed.
        RunError: There are checkpoints, and all are damaged.
    """
    found = place.checkpoints.all()
    for checkpoint in reversed(found):
        try:
            place.checkpoints.load(checkpoint)
            return checkpoint
        except ChangedRecipeError:
            raise
        except RunError as error:
            if checkpoint is found[0]:
                raise RunError(f"no checkpoint of {place.path} is whole: {error}; begin a new run") from error
            _log.warning("genfw: %s; going on from an earlier one", error)
    return None


def _announce(
    composition: Composition, place: RunDirectory, observers: Observers, start: Checkpoint | None, resumed: bool
) -> None:
    if not is_first():
        return
    place.write_status(Status("running"))
    now = describe_environment(composition.registry)
    if resumed:
        before = dict(read_mapping(place.environment))
        changed = differences(before, now) if before else []
        now["before"] = [*before.pop("before", []), before]
    write_atomically(place.environment, json.dumps(now, indent=1, default=str))
    stages = tuple((name, stage.steps) for name, stage in composition.stages)
    plain = composition.resolved.plain()
    at = (start.stage, start.step) if start is not None else (0, 0)
    observers.start(RunInfo(composition.name, place.path, plain, stages, at if resumed else None))
    if resumed:
        place.append_event("resume", f"goes on from stage {at[0]}, step {at[1]}")
        if start is None:
            place.truncate({})
            observers.rewind(0, 0)
        for change in changed:
            message = f"{change} since this run was begun; it may not go on bit for bit"
            place.append_event("warning", message)
            observers.event("warning", message)
            _log.warning("genfw: %s", message)


def _work(
    composition: Composition,
    place: RunDirectory,
    observers: Observers,
    interrupts: Interrupts,
    start: Checkpoint | None,
) -> list[Result]:
    """Train, with all processes; then measure, with the first one in the lead."""
    engine = composition.engine
    world = 1 if launched_outside() else count_processes(engine)
    plugins = local_plugins(composition) if world > 1 else []
    checkpoint = None if start is None else start.name
    with gathered(engine, place.path, world, checkpoint=checkpoint, plugins=plugins) as fabric:
        Training(composition, fabric, place, observers, interrupts).train(start)
        if not is_first():
            serve_evaluation(composition, place)
            return []
        with open_evaluation(composition, fabric, place) as evaluation:
            return _conclude(composition, place, observers, evaluation)


def _conclude(
    composition: Composition, place: RunDirectory, observers: Observers, evaluation: Evaluation
) -> list[Result]:
    """Sample, measure and report with the weights that training has left in the model."""
    from genfw.runs.pages.report import write_report

    composition.model.eval()
    randomness.seed_all(composition.seed)  # the same numbers, whether or not the run was interrupted
    place.write_status(Status("running", "evaluate"))
    observers.event("evaluate", f"{len(composition.metrics)} metrics")
    results = measure(evaluation, composition.metrics)
    _see_samples(evaluation, place, observers)
    place.write_status(Status("running", "report"))
    try:
        write_report(place.path)
    except Exception as error:  # the page is made from files that are all there: a fault in it must not cost the run
        message = f"the report was not written ({type(error).__name__}: {error}); `genfw report` writes it again"
        place.append_event("warning", message)
        observers.event("warning", message)
    return results


def _see_samples(evaluation: Evaluation, place: RunDirectory, observers: Observers) -> None:
    """Leave samples in the run directory where no metric has."""
    if any(not path.name.startswith("stage") for path in place.samples.glob("*")):
        return
    try:
        write_samples(evaluation, place.samples, seed=evaluation.seed)
    except ContractError as error:  # a model that can't be sampled from as it stands can still be measured
        message = f"no samples were drawn: {error}"
        place.append_event("warning", message)
        observers.event("warning", message)


# -- reading recipes --------------------------------------------------------------------------------------------------


def _read(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    sets: Sequence[str],
    unsets: Sequence[str],
    registry: Registry | None,
) -> tuple[Recipe, Registry]:
    if isinstance(recipe, str | Path):
        return open_recipe(recipe, sets=sets, unsets=unsets, registry=registry)
    if isinstance(recipe, Mapping):
        recipe = parse_recipe(dump(dict(recipe)), sets=sets, unsets=unsets, strict=False)
    elif sets or unsets:
        raise RunError("sets and unsets go with a recipe that is still to be read; give them to load_recipe")
    return recipe, registry or load_plugins(local=recipe.plugins)


def _make_directory(
    composition: Composition, recipe: Recipe, root: str | Path, directory: str | Path | None
) -> RunDirectory:
    if not launched_outside():
        return RunDirectory.create(root, composition.name, composition.resolved.dump(), recipe.text, directory)
    made: list[str | None] = [None]
    make_fabric(composition.engine)
    if is_first():
        made[0] = str(
            RunDirectory.create(root, composition.name, composition.resolved.dump(), recipe.text, directory).path
        )
    torch.distributed.broadcast_object_list(made, 0)
    return RunDirectory(str(made[0]))


def _read_results(place: RunDirectory) -> Iterator[Result]:
    names = {field.name for field in attrs.fields(Result)}
    for record in read_mapping(place.evaluation).get("results") or ():
        figures = [Figure(**figure) for figure in record.get("figures", ())]
        yield Result(**{**{key: value for key, value in record.items() if key in names}, "figures": figures})
