"""Several runs by one command: the product of some settings, a run directory each."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import yaml

from genfw.engine.executors import Cluster, LocalPool
from genfw.engine.finished import local_plugins, renewed
from genfw.engine.interrupts import Interrupts
from genfw.errors import RunError
from genfw.plugins.registry import Registry
from genfw.recipes.check import bind
from genfw.recipes.recipe import Recipe, open_recipe
from genfw.recipes.rehearse import rehearse
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.lock import hold
from genfw.runs.sweep import Sweep, SweepRun, is_sweep

#: Longest name of a run directory; a longer one ends in a hash.
_LONGEST = 120

# -- planning ---------------------------------------------------------------------------------------------------------


def parse_over(text: str) -> tuple[str, list[str]]:
    """A path in a recipe and the values that it takes.

    Arguments:
        text: ``path=VALUES``: YAML values with commas between them, where ``0..4`` stands for 0, 1, 2, 3, 4.

    Raises:
        RunError: It has no path or no value, or a value twice.
    """
    path, _, listed = text.partition("=")
    source = f"[{listed}]"
    try:
        node = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RunError(f"--over {text}: the values are no YAML: {error}") from error
    values: list[str] = []
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        written = source[item.start_mark.index : item.end_mark.index].strip()
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", written)
        values += [written] if ends is None else [str(one) for one in range(int(ends[1]), int(ends[2]) + 1)]
    if not path.strip() or not values:
        raise RunError(f"--over reads path=VALUES, such as seed=0..4 or train.0.optimizer.lr=1e-3,2e-3; got '{text}'")
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise RunError(f"--over {path} has {', '.join(twice)} twice")
    return path.strip(), values


def expand(names: Sequence[str], registry: Registry) -> list[str]:
    """Recipes by name, with patterns such as ``damc/*`` replaced by the shipped recipes that match.

    Arguments:
        names: Names, files and patterns.
        registry: Says where shipped recipes are.

    Raises:
        RunError: A pattern matches none.
    """
    found: list[str] = []
    for name in names:
        if not re.search(r"[*?\[]", name):
            found.append(name)
            continue
        pattern = f"{name.removesuffix('.yaml')}.yaml"
        paths = [path for folder in registry.recipe_dirs() for path in sorted(folder.rglob("*.yaml"))]
        # A pattern matches from the right, as a name does: the file's stem, or folder and stem.
        matching = [path.as_posix() for path in paths if path.match(pattern)]
        if not matching:
            raise RunError(f"no shipped recipe matches '{name}'; genfw list --recipes")
        found += matching
    return list(dict.fromkeys(found))


@attrs.frozen
class Variant:
    """One combination of a sweep's settings.

    Arguments:
        run: The run.
        recipe: Its recipe.
        registry: Plugins, with the recipe's own.
    """

    run: SweepRun
    recipe: Recipe
    registry: Registry


def variants(
    recipes: Sequence[str],
    over: Sequence[str],
    registry: Registry,
    *,
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
) -> list[Variant]:
    """Every combination of some recipes and settings.

    Arguments:
        recipes: Names or files of recipes, or patterns.
        over: Settings that vary, as in :func:`parse_over`.
        registry: Plugins.
        sets: Overrides of all runs.
        unsets: Keys to remove from all recipes.

    Raises:
        RecipeError: A recipe can't be read.
        RunError: A setting varies twice, or two runs have one name.
    """
    recipes = expand(recipes, registry)
    axes = [parse_over(text) for text in over]
    paths = [path for path, _ in axes]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise RunError(f"--over names {', '.join(twice)} twice")
    made = []
    for source in recipes:
        for values in itertools.product(*(values for _, values in axes)):
            settings = dict(zip(paths, values, strict=True))
            own = [*sets, *(f"{path}={value}" for path, value in settings.items())]
            recipe, known = open_recipe(source, sets=own, unsets=unsets, registry=registry)
            name = _name(recipe.name if len(recipes) > 1 or not settings else "", settings)
            plugins = tuple(str(Path(file).absolute()) for file in local_plugins(recipe, known))
            made.append(Variant(SweepRun(name, recipe.name, settings, plugins), recipe, known))
    names = [variant.run.name for variant in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RunError(f"two recipes of this sweep have the name {', '.join(twice)}; recipes of a sweep differ in name")
    return made


def plan_sweep(
    recipes: Sequence[str],
    over: Sequence[str],
    registry: Registry,
    *,
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
    smoke: bool = False,
    root: str | Path = "runs",
    directory: str | Path | None = None,
) -> Sweep:
    """Make the folder of a sweep, with a directory for each run; or add to one that is there.

    Every run is tried before anything is written, as ``genfw run`` tries its recipe. The same call finds the same
    folder again, and so does one with other values for the same paths: its runs are added.

    Arguments:
        recipes: Names or files of recipes, or patterns.
        over: Settings that vary, as in :func:`parse_over`.
        registry: Plugins.
        sets: Overrides of all runs.
        unsets: Keys to remove from all recipes.
        smoke: Make every part tiny.
        root: Folder of all runs.
        directory: The sweep's folder; by default one below ``root``, named after recipes and settings.

    Raises:
        RecipeError: A run's recipe is wrong; nothing was written.
        RunError: There is nothing to vary, or the folder holds other runs under the same names.
    """
    made = variants(recipes, over, registry, sets=sets, unsets=unsets)
    sources = expand(recipes, registry)
    if not sources or (len(sources) == 1 and not over):
        raise RunError("a sweep has several runs: give --over PATH=VALUES, as in --over seed=0..4, or several recipes")
    resolved = _tried(made, smoke)
    if directory is None:
        paths = sorted(made[0].run.settings)
        said = json.dumps([sources, paths, sorted(sets), sorted(unsets), smoke])
        stem = made[0].run.recipe if len(sources) == 1 else f"{len(sources)}-recipes"
        directory = Path(root) / f"{stem}-sweep-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    return _write(Path(directory), made, resolved)


def _tried(made: Sequence[Variant], smoke: bool) -> list[str]:
    """The resolved recipes. What differs in nothing but the seed is tried once."""
    texts, tried = [], set()
    for variant in made:
        resolved, faults = bind(variant.recipe, variant.registry, smoke=smoke)
        plain = None if faults.faults else json.dumps({**resolved.plain(), "seed": 0}, sort_keys=True, default=str)
        if plain is None or plain not in tried:
            rehearse(resolved, faults)
            tried.add(plain)
        texts.append(resolved.dump())
    return texts


def _name(recipe: str, settings: Mapping[str, str]) -> str:
    """A name for a run's directory: the last part of each path, or as many as tell them apart, and the value."""
    words = [recipe] if recipe else []
    for path, value in settings.items():
        parts = path.split(".")
        count = next(n for n in range(1, len(parts) + 1) if _unique(parts[-n:], settings))
        words.append(f"{'.'.join(parts[-count:])}={value}")
    name = re.sub(r"[^A-Za-z0-9.,=+_-]+", "-", ",".join(words))
    exact = ",".join(words)
    if name == exact and len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _unique(end: Sequence[str], paths: Mapping[str, str]) -> bool:
    return sum(path.split(".")[-len(end) :] == list(end) for path in paths) == 1


def _write(path: Path, made: Sequence[Variant], resolved: Sequence[str]) -> Sweep:
    if path.is_dir() and any(path.iterdir()) and not is_sweep(path):
        raise RunError(f"{path} is not empty and no sweep; give another --dir")
    known = {run.name: run for run in (Sweep.open(path).runs if is_sweep(path) else ())}
    for variant in made:
        run = variant.run
        known[run.name] = attrs.evolve(run, job=known[run.name].job if run.name in known else "")
    sweep = Sweep(path, list(known.values()))
    sweep.path.mkdir(parents=True, exist_ok=True)
    for variant, text in zip(made, resolved, strict=True):
        run_dir = RunDirectory.begin(
            sweep.path / variant.run.name,
            variant.recipe.name,
            text,
            variant.recipe.text,
            renew=partial(renewed, registry=variant.registry),
        )
        if not run_dir.begun:
            run_dir.write_status(Status("waiting"))
    sweep.save()
    return sweep


# -- running ----------------------------------------------------------------------------------------------------------


def run_sweep(
    sweep: Sweep,
    *,
    on: str = "local",
    jobs: int | None = None,
    options: Mapping[str, str] | None = None,
    watch: Callable[[Sweep], None] = lambda sweep: None,
    interval: float = 1.0,
) -> None:
    """Run everything in a sweep that is not finished; the failure of one run does not stop the others.

    You can interrupt this at any moment and call it again: finished runs are kept, and others go on from their newest
    checkpoints.

    Arguments:
        sweep: The sweep.
        on: ``local`` for a pool of processes on this machine, ``slurm`` for jobs that submitit submits, or ``submitit``
            for submitit's processes on this machine.
        jobs: Most runs at a time; by default one per GPU, or one per core where there is none.
        options: Options of the cluster, such as ``partition``; see :func:`slurm_options`.
        watch: Called every ``interval`` seconds, and at the end.
        interval: Seconds between calls of ``watch``.

    Raises:
        RunError: Another process runs this sweep, or submitit is not installed.
        KeyboardInterrupt: A signal; the local runs have saved their state. Jobs of a cluster go on.
    """
    with hold(sweep.path), Interrupts().installed():
        unfinished = [run for run in sweep.runs if sweep.directory(run).status().state != "finished"]
        executor = (
            LocalPool(sweep, unfinished, jobs) if on == "local" else Cluster(sweep, unfinished, on, jobs, options)
        )
        with executor:
            while executor.busy():
                watch(sweep)
                time.sleep(interval)
    watch(sweep)
