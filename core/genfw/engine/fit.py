"""Train a model that a program has composed: the engine's loop with its health monitor, and no run directory."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from genfw.engine.devices import make_fabric, own_device, release, tuned
from genfw.engine.interrupts import Interrupts
from genfw.engine.loop import Training
from genfw.engine.observers import Observers
from genfw.errors import ContractError
from genfw.models.model import Model
from genfw.plugins.registry import Registry
from genfw.recipes.compose import compose
from genfw.runs.directory import RunDirectory
from genfw.runs.pages.notebook import Plot, curves_of, html_table, plot_curves
from genfw.training.stage import Stage
from genfw.training.tracker import Tracker


@attrs.frozen(repr=False)
class Fit:
    """The outcome of :func:`fit`.

    Arguments:
        model: The trained model.
        rows: What was logged, as in ``metrics.jsonl``.
        events: Kind and message of what happened: stages, warnings, rollbacks.
    """

    model: Model
    rows: tuple[Mapping[str, Any], ...]
    events: tuple[tuple[str, str], ...]

    def curves(self) -> dict[str, list[Any]]:
        """The logged rows as columns, for ``pandas.DataFrame``; see :func:`genfw.runs.pages.notebook.curves_of`."""
        return curves_of(self.rows)

    def plot(self, *names: str) -> Plot:
        """Curves over the steps, one panel each.

        Arguments:
            names: Scalars to draw; by default the first six that change.
        """
        return plot_curves(self.curves(), names)

    def _facts(self) -> list[tuple[str, str]]:
        last = self.rows[-1] if self.rows else {}
        numbers = [
            (name, f"{value:.4g}") for name, value in last.items() if isinstance(value, float) and name != "time"
        ]
        troubles = sum(kind in ("warning", "rollback", "stop") for kind, _ in self.events)
        return [("logged rows", str(len(self.rows))), ("warnings", str(troubles)), *numbers]

    def __repr__(self) -> str:
        return f"Fit({', '.join(f'{name}: {value}' for name, value in self._facts())})"

    def _repr_html_(self) -> str:
        return html_table("Fit: the last logged row", self._facts())


def fit(
    model: Model,
    data: Any,
    stages: Sequence[Stage | Mapping[str, Any]],
    *,
    callbacks: Sequence[Tracker | Callable[[Mapping[str, Any]], object]] = (),
    seed: int = 0,
    device: str = "auto",
    engine: Mapping[str, Any] | None = None,
    health: Mapping[str, Any] | None = None,
    progress: bool = True,
    registry: Registry | None = None,
) -> Fit:
    """Train a model in this process, stage by stage; it then has the weights to use.

    It is the loop of ``genfw run``: the same seeds give the same weights, and the health monitor is on. Checkpoints to
    roll back to lie in a temporary folder, which is removed.

    Arguments:
        model: The model; it is trained in place.
        data: See :func:`genfw.training.given.as_data`.
        stages: What to do, in turn: blocks as in a recipe's ``train:`` section, such as ``{"use": "elbo", "steps": 500,
            "batch": 64, "optimizer": {"use": "adam", "lr": 1e-3}}``, or stages made in Python.
        callbacks: Trackers, or functions that are called with each logged row.
        seed: Source of all randomness.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        engine: Settings as in a recipe's ``engine:`` section; a row is logged about 200 times by default.
        health: Settings as in a recipe's ``health:`` section.
        progress: Show a progress bar on stderr.
        registry: Plugins; the installed ones by default.

    Returns:
        The logged curves.

    Raises:
        ContractError: There is no stage, or a stage trains another model.
        RecipeError: A block has faults.
        DivergenceError: The health monitor stopped the training.
    """
    if not stages:
        raise ContractError("there is nothing to do: stages is empty")
    for stage in stages:
        if getattr(stage, "model", model) is not model:
            raise ContractError(f"{type(stage).__name__} trains another model than the one given to fit")
    blocks = [dict(stage) for stage in stages if isinstance(stage, Mapping)]
    recipe = {"genfw": 1, "name": "fit", "seed": seed, "train": blocks, "health": dict(health or {})}
    recipe["engine"] = {"accelerator": device, **(engine or {})}
    composition = compose(recipe, registry, data=data, model=model, device=str(own_device(device)))
    built = iter(composition.stages)
    composition.stages = [
        (type(stage).__name__.lower(), stage) if isinstance(stage, Stage) else next(built) for stage in stages
    ]
    steps = sum(stage.steps for _, stage in composition.stages)
    if "log_every" not in (engine or {}):
        composition.engine = attrs.evolve(composition.engine, log_every=min(50, max(1, steps // 200)))
    record = _Record()
    trackers = [each if isinstance(each, Tracker) else _Callback(each) for each in callbacks]
    bar = [_Bar(steps)] if progress else []
    observers, interrupts = Observers([record, *bar, *trackers]), Interrupts()
    with tempfile.TemporaryDirectory(prefix="genfw-fit-") as folder, tuned(composition.engine), interrupts.installed():
        run_dir = RunDirectory.create("", "fit", composition.resolved.dump(), path=folder)
        try:
            Training(composition, make_fabric(composition.engine), run_dir, observers, interrupts).train()
            observers.end("finished")
        except BaseException:
            observers.end("failed")
            raise
        finally:
            release()
    return Fit(model, tuple(record.rows), tuple(record.events))


class _Record(Tracker):
    """Keeps rows and events."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.events: list[tuple[str, str]] = []

    def log(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def event(self, kind: str, message: str) -> None:
        self.events.append((kind, message))

    def rewind(self, stage: int, step: int) -> None:
        self.rows = [row for row in self.rows if (row["stage"], row["step"]) <= (stage, step)]


class _Callback(Tracker):
    def __init__(self, function: Callable[[Mapping[str, Any]], object]) -> None:
        self.function = function

    def log(self, row: Mapping[str, Any]) -> None:
        self.function(row)


class _Bar(Tracker):
    """One bar for all stages, in a notebook as in a terminal."""

    def __init__(self, steps: int) -> None:
        # The widget needs a kernel and ipywidgets; elsewhere, also in a notebook without them, the bar is text.
        notebook = "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None
        bar = importlib.import_module("tqdm.notebook" if notebook else "tqdm").tqdm
        self.bar = bar(total=steps, unit="step", leave=True, **({} if notebook else {"file": sys.stderr}))
        self.before = self.stage = 0

    def log(self, row: Mapping[str, Any]) -> None:
        if row["stage"] != self.stage:
            self.stage, self.before = row["stage"], self.bar.n
        self.bar.set_description(str(row["name"]), refresh=False)
        names = [name for name in ("energy/gap", "loss") if name in row]
        self.bar.set_postfix({name: f"{row[name]:.4g}" for name in names}, refresh=False)
        self.bar.update(self.before + row["step"] - self.bar.n)

    def end(self, status: str) -> None:
        self.bar.close()
