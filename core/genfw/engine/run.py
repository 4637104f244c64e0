"""Start a run, or resume one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from genfw import randomness
from genfw.engine.cluster import agreed, found_outside, is_first
from genfw.engine.devices import count_processes, make_fabric, own_device, release, tuned
from genfw.engine.finished import (
    accelerator_of,
    compose_again,
    local_plugins,
    open_evaluation,
    renewed,
)
from genfw.engine.interrupts import Interrupts
from genfw.engine.launching import launched
from genfw.engine.loop import Training
from genfw.engine.observers import Observers, hook_trackers
from genfw.engine.result import RunResult, finished
from genfw.errors import ChangedRecipeError, ContractError, DivergenceError, GenfwError, RunError, one_line
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import add_problem, measure, write_samples
from genfw.evaluation.results import Result
from genfw.interfaces.dataset import Dataset
from genfw.plugins import load_plugins
from genfw.plugins.hookspecs import RunInfo
from genfw.plugins.registry import Registry
from genfw.recipes.check import bind
from genfw.recipes.compose import Composition, compose, with_data
from genfw.recipes.recipe import Recipe, open_recipe, parse_recipe
from genfw.recipes.rehearse import rehearse
from genfw.recipes.yaml_nodes import dump
from genfw.runs.checkpoints import Checkpoint
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.environment import describe_environment, differences
from genfw.runs.files import read_mapping, read_records, write_atomically
from genfw.runs.mirror import Mirror, try_push
from genfw.training.given import as_data
from genfw.training.tracker import Tracker

_log = logging.getLogger("genfw")


# -- start and resume -------------------------------------------------------------------------------------------------


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: Any = None,
    root: str | Path = "runs",
    smoke: bool = False,
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
    trackers: Sequence[Tracker] = (),
    registry: Registry | None = None,
    directory: str | Path | None = None,
    go_on: bool = False,
) -> RunResult:
    """Train, sample, evaluate and report, as a recipe says.

    Arguments:
        recipe: A file, the name of a shipped recipe, a :class:`Recipe`, or a plain dict.
        data: Data in place of the recipe's own; see :func:`genfw.training.given.as_data` for what it may be.
        root: Folder of all runs.
        smoke: Make every part tiny, to test within seconds that they fit together.
        sets: Overrides, such as ``train.0.steps=100``.
        unsets: Keys to remove.
        trackers: Observers besides the recipe's.
        registry: Plugins; the installed ones by default.
        directory: The run directory; by default a new one below ``root``.
        go_on: Go on with the run in ``directory`` where there is one, for jobs that are started again by themselves.

    Returns:
        The finished run.

    Raises:
        RecipeError: The recipe is wrong; nothing was written.
        RunError: ``directory`` is not empty; with ``go_on``, it is not given, or has a run of another recipe.
        DivergenceError: The health monitor stopped the run.
        KeyboardInterrupt: SIGINT or SIGTERM; the state is saved, and :func:`resume` continues from it.
    """
    read, registry = _read(recipe, sets, unsets, registry)
    if go_on and directory is None:
        raise RunError("to go on with a run where there is one, say in which directory: --resume needs --dir")
    given = None if data is None else as_data(data)
    resolved, faults = bind(with_data(read, given), registry, smoke=smoke)
    absent = rehearse(resolved, faults, given=given if isinstance(given, Dataset) else None).absent
    if absent is not None and not resolved.smoke and resolved.recipe.get("train") is not None:
        raise absent
    composition = compose(resolved, data=given, device=str(own_device(accelerator_of(read))))

    def begin() -> tuple[Path, str]:
        texts = (composition.name, composition.resolved.dump(), read.text)
        if go_on and directory is not None:
            if composition.engine.mirror:
                Mirror(composition.engine.mirror, Path(directory).absolute()).pull()
            run_dir = RunDirectory.begin(directory, *texts, renew=partial(renewed, registry=registry))
            return run_dir.path, run_dir.status().state if run_dir.begun else "waiting"
        return RunDirectory.create(root, *texts, directory).path, "waiting"

    path, state = agreed(begin, lambda: make_fabric(composition.engine))
    return _go_on(composition, RunDirectory(path), state, trackers)


def resume(
    directory: str | Path, *, data: Any = None, trackers: Sequence[Tracker] = (), registry: Registry | None = None
) -> RunResult:
    """Resume a run that was interrupted or killed, or that failed; bit for bit on the CPU.

    A finished run is not changed: its results are read and returned.

    Arguments:
        directory: The run directory.
        data: The data that the run was given in Python.
        trackers: Observers besides the recipe's.
        registry: Plugins; the installed ones by default.

    Raises:
        RunError: It is no run directory, another process uses it, or its checkpoints are damaged.
    """
    run_dir = RunDirectory.open(directory)
    if found_outside() is None and run_dir.status().state == "finished":  # nothing to compose
        return finished(run_dir)
    composition = compose_again(run_dir, registry, data=data)
    state = agreed(lambda: run_dir.status().state, lambda: make_fabric(composition.engine))
    return _go_on(composition, run_dir, state, trackers)


def _go_on(composition: Composition, run_dir: RunDirectory, state: str, trackers: Sequence[Tracker]) -> RunResult:
    if state == "finished":
        release()
        return finished(run_dir)
    return drive(composition, run_dir, trackers, resumed=state != "waiting")


def drive(
    composition: Composition, run_dir: RunDirectory, trackers: Sequence[Tracker] = (), *, resumed: bool = False
) -> RunResult:
    """Run a composition in a run directory, from its newest checkpoint where it has one.

    Arguments:
        composition: The run's parts.
        run_dir: The run directory; it is locked during the run.
        trackers: Observers besides the composition's and the plugins'.
        resumed: Whether the run was started before.
    """
    observers = Observers(
        [*composition.trackers, *trackers, *hook_trackers(composition.registry)] if is_first() else ()
    )
    interrupts = Interrupts()
    with contextlib.ExitStack() as stack:
        if is_first():
            stack.enter_context(run_dir.lock())
            run_dir.checkpoints.clean()
            if composition.engine.mirror:
                run_dir.mirror = Mirror(composition.engine.mirror, run_dir.path)
        stack.enter_context(interrupts.installed())
        stack.enter_context(tuned(composition.engine, folder=run_dir.path))
        start = None
        if resumed:
            name = agreed(lambda: _newest(run_dir), lambda: make_fabric(composition.engine))
            start = None if name is None else run_dir.checkpoints.find(name)
        try:
            _announce(composition, run_dir, observers, start, resumed)
            results = _work(composition, run_dir, observers, interrupts, start)
            if not run_dir.resolved.is_file():
                raise RunError(f"{run_dir.path} was removed or emptied while the run was at work; its numbers are lost")
            _end(run_dir, observers, Status("finished", step=0))
        except KeyboardInterrupt:
            _end(
                run_dir,
                observers,
                attrs.evolve(run_dir.status(), state="interrupted", reason="a signal asked it to stop"),
            )
            if is_first():
                interrupts.requeue()
            raise
        except BaseException as error:
            reason = str(error) if isinstance(error, GenfwError) else one_line(error)
            with contextlib.suppress(OSError):  # a full disk, or a directory that is gone: the reason comes first
                _end(run_dir, observers, attrs.evolve(run_dir.status(), state="failed", reason=reason))
            raise
    return finished(run_dir, results)


def _end(run_dir: RunDirectory, observers: Observers, status: Status) -> None:
    if is_first():
        run_dir.append_event("end", f"{status.state} {status.reason}".strip())
        run_dir.write_status(attrs.evolve(status, pid=os.getpid(), time=Status("").time))
        observers.end(status.state)
        if failure := try_push(run_dir.mirror):
            run_dir.append_event("warning", failure)
            _log.warning("genfw: %s", failure)


def _newest(run_dir: RunDirectory) -> str | None:
    """Name of the newest intact checkpoint; damaged ones are skipped with a warning.

    Raises:
        ChangedRecipeError: The run's recipe was changed.
        RunError: There are checkpoints, and all are damaged.
    """
    found = run_dir.checkpoints.all()
    for checkpoint in reversed(found):
        try:
            run_dir.checkpoints.load(checkpoint)
            return checkpoint.name
        except ChangedRecipeError:
            raise
        except RunError as error:
            if checkpoint is found[0]:
                raise RunError(f"no checkpoint of {run_dir.path} is whole: {error}; begin a new run") from error
            _log.warning("genfw: %s; going on from an earlier one", error)
    return None


def _announce(
    composition: Composition, run_dir: RunDirectory, observers: Observers, start: Checkpoint | None, resumed: bool
) -> None:
    if not is_first():
        return
    run_dir.write_status(Status("running"))
    now = describe_environment(composition.registry)
    if resumed:
        before = dict(read_mapping(run_dir.environment))
        changed = differences(before, now) if before else []
        now["before"] = [*read_records(before.pop("before", None)), before]
    write_atomically(run_dir.environment, json.dumps(now, indent=1, default=str))
    stages = tuple((name, stage.steps) for name, stage in composition.stages)
    plain = composition.resolved.plain()
    at = (start.stage, start.step) if start is not None else (0, 0)
    observers.start(RunInfo(composition.name, run_dir.path, plain, stages, at if resumed else None))
    if resumed:
        run_dir.append_event("resume", f"goes on from stage {at[0]}, step {at[1]}")
        if start is None:
            run_dir.truncate({})
            observers.rewind(0, 0)
        for change in changed:
            message = f"{change} since this run was begun; it may not go on bit for bit"
            run_dir.append_event("warning", message)
            observers.event("warning", message)
            _log.warning("genfw: %s", message)


def _work(
    composition: Composition,
    run_dir: RunDirectory,
    observers: Observers,
    interrupts: Interrupts,
    start: Checkpoint | None,
) -> list[Result]:
    """Train with all processes; then measure in the first one, while all share the work."""
    engine = composition.engine
    world = count_processes(engine) if found_outside() is None else 1
    plugins = local_plugins(composition.resolved.recipe, composition.registry) if world > 1 else []
    checkpoint = None if start is None else start.name
    with launched(engine, run_dir.path, world, checkpoint=checkpoint, plugins=plugins) as fabric:
        Training(composition, fabric, run_dir, observers, interrupts).train(start)
        with open_evaluation(composition, fabric, run_dir) as evaluation:
            return [] if evaluation is None else _conclude(composition, run_dir, observers, evaluation)


def _conclude(
    composition: Composition, run_dir: RunDirectory, observers: Observers, evaluation: Evaluation
) -> list[Result]:
    """Sample, measure and report with the trained weights."""
    from genfw.runs.pages.report import write_report

    composition.model.eval()
    randomness.seed_all(composition.seed)  # so that an interrupt does not change the results
    run_dir.write_status(Status("running", "evaluate"))
    count = len(composition.metrics)
    observers.event("evaluate", f"{count} metric{'s' * (count != 1)}")
    results = measure(evaluation, composition.metrics)
    _see_samples(evaluation, run_dir, observers)
    _see_rows(run_dir, observers)
    for doubt in evaluation.doubts.values():
        _warn(run_dir, observers, doubt)
    run_dir.write_status(Status("running", "report"))
    try:
        write_report(run_dir.path)
    except Exception as error:  # the run must not fail for its page, which can be written again
        _warn(
            run_dir,
            observers,
            f"the report was not written ({one_line(error)}); `genfw report` writes it again",
        )
    return results


def _see_samples(evaluation: Evaluation, run_dir: RunDirectory, observers: Observers) -> None:
    """Write samples to the run directory, unless a metric has."""
    if any(not path.name.startswith("stage") for path in run_dir.samples.glob("*")):
        return
    try:
        write_samples(evaluation, run_dir.samples, seed=evaluation.seed)
    except ContractError as error:  # some models can be measured but not sampled from
        _warn(run_dir, observers, f"no samples were drawn: {error}")
    except DivergenceError as error:
        message = f"no samples were drawn: {error}"
        _warn(run_dir, observers, message)
        add_problem(run_dir.path, message)


def _see_rows(run_dir: RunDirectory, observers: Observers) -> None:
    """Tell of logged numbers that are none; they remain where the health monitor is off, or only warns."""
    lost = [(row, name) for row in run_dir.read_metrics() for name, value in row.items() if value is None]
    if lost:
        row, name = lost[0]
        message = (
            f"{len(lost):,} logged numbers of the training are not finite, the first of them {name} of stage "
            f"{row.get('stage')}, step {row.get('step')}"
        )
        _warn(run_dir, observers, message)
        add_problem(run_dir.path, message)


def _warn(run_dir: RunDirectory, observers: Observers, message: str) -> None:
    run_dir.append_event("warning", message)
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
        raise RunError("sets and unsets do not apply to a Recipe, which is read already; give them to load_recipe")
    return recipe, registry or load_plugins(local=recipe.plugins)
