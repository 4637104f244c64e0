"""A sweep on disk: one folder with a run directory for each setting, and ``sweep.json``, which says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from genfw.errors import RunError
from genfw.runs.directory import RunDirectory
from genfw.runs.files import read_mapping, write_atomically

_FORMAT = 1
#: The file that makes a folder a sweep.
FILE = "sweep.json"


@attrs.frozen
class SweepRun:
    """One run of a sweep.

    Arguments:
        name: Name of its directory, made of its settings.
        recipe: Name of its recipe.
        settings: The values in which the runs differ: path in the recipe -> value, as written.
        plugins: Files of local plugins that its recipe does not name.
        job: Number of its job on a cluster, where it has been submitted to one.
    """

    name: str
    recipe: str
    settings: Mapping[str, str]
    plugins: tuple[str, ...] = ()
    job: str = ""

    @property
    def group(self) -> str:
        """What runs that differ in their seed alone share: the recipe's name and the other settings."""
        return " ".join([self.recipe, *(f"{path}={value}" for path, value in self.settings.items() if path != "seed")])


@attrs.frozen
class SweepRow:
    """How far a run of a sweep is.

    Arguments:
        run: The run.
        path: Its directory.
        state: As in :class:`~genfw.runs.directory.Status`.
        stage: Name of the stage, or ``evaluate``, ``report``.
        step: Completed steps of all stages.
        steps: Steps of all stages.
        reason: Why it failed or stopped.
    """

    run: SweepRun
    path: Path
    state: str
    stage: str
    step: int
    steps: int
    reason: str


class Sweep:
    """A folder of runs that differ in some settings.

    Arguments:
        path: The folder.
        runs: Its runs.
    """

    def __init__(self, path: str | Path, runs: Sequence[SweepRun]) -> None:
        self.path, self.runs = Path(path).absolute(), list(runs)
        self._steps: dict[str, list[int]] = {}

    @classmethod
    def open(cls, path: str | Path) -> Sweep:
        """Read a sweep.

        Raises:
            RunError: ``path`` is no sweep, or its ``sweep.json`` is damaged.
        """
        content = read_mapping(Path(path) / FILE)
        try:
            if content["format"] != _FORMAT:
                raise RunError(f"{Path(path) / FILE} has format {content['format']}; this genfw reads {_FORMAT}")
            runs = [SweepRun(**{**run, "plugins": tuple(run["plugins"])}) for run in content["runs"]]
        except (KeyError, TypeError) as error:
            raise RunError(f"{path} is not a sweep: it has no {FILE} that can be read") from error
        return cls(path, runs)

    def save(self) -> None:
        """Write ``sweep.json``."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "runs": [attrs.asdict(run) for run in self.runs]}
        write_atomically(self.path / FILE, json.dumps(content, indent=1) + "\n")

    def directory(self, run: SweepRun) -> RunDirectory:
        """The directory of a run."""
        return RunDirectory(self.path / run.name)

    def rows(self) -> list[SweepRow]:
        """How far each run is, in the order of the sweep."""
        return [self._row(run) for run in self.runs]

    def _row(self, run: SweepRun) -> SweepRow:
        run_dir = self.directory(run)
        if run.name not in self._steps:  # parsed once: a table that is alive asks every second
            blocks = read_mapping(run_dir.resolved).get("train") or ()
            self._steps[run.name] = [int(block.get("steps", 0)) for block in blocks]
        status, steps = run_dir.status(), self._steps[run.name]
        over = status.state == "finished" or status.stage in ("evaluate", "report")
        done = sum(steps) if over else sum(steps[: status.index]) + status.step
        return SweepRow(run, run_dir.path, status.state, status.stage, done, sum(steps), status.reason)


def is_sweep(path: str | Path) -> bool:
    """Whether a folder is a sweep."""
    return (Path(path) / FILE).is_file()


def find_sweep(name: str | Path, root: str | Path = "runs") -> Path | None:
    """The folder of a sweep, as a path or below ``root``; ``None`` where it is none."""
    return next((path for path in (Path(name), Path(root) / name) if is_sweep(path)), None)
