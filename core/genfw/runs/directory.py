"""The only file that knows the layout of a run directory, ``runs/<name>/<time>-<hash8>/``."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import yaml

from genfw.errors import RunError, closest
from genfw.runs.files import (
    first_difference,
    is_like,
    naming,
    read_mapping,
    read_records,
    read_text,
    real,
    write_atomically,
)
from genfw.runs.lock import hold, is_held
from genfw.runs.rows import append_row, cut_rows, read_rows, tail_of

if TYPE_CHECKING:
    from genfw.runs.checkpoints import Checkpoints
    from genfw.runs.mirror import Mirror


@attrs.frozen
class Status:
    """The ``STATUS`` file.

    Arguments:
        state: ``waiting`` (a run of a sweep that has not begun), ``running``, ``finished``, ``interrupted``,
            ``failed``; or ``killed``, which is never written: the file says ``running``, but its process no longer
            exists.
        stage: Name of the stage, or ``evaluate``, ``report``.
        step: Completed steps of the stage.
        reason: Why it failed or stopped.
        pid: Process that wrote it.
        time: Time of writing, in seconds since 1970.
        index: Index of the stage.
    """

    state: str
    stage: str = ""
    step: int = 0
    reason: str = ""
    pid: int = attrs.field(factory=os.getpid)
    time: float = attrs.field(factory=time.time)
    index: int = 0


@attrs.frozen
class RunRecord:
    """One line of ``genfw runs``.

    Arguments:
        name: The recipe's name.
        path: The run directory.
        status: State, as in :class:`Status`.
        stage: The current stage.
        step: Completed steps of that stage.
        time: Start of the run, from its directory's name.
        updated: Last write of its status, in seconds since 1970.
        reason: Why it failed or stopped.
        numbers: The results of ``evaluation.json``: name -> value, ``None`` for a picture or a failure.
        headline: Name of the number to show first: one that the paper has too, else the FID, else the first.
        failed: Names of results that could not be measured.
        doubtful: Names of results that a reader should not rely on.
        problems: What else the evaluation lacks.
        smoke: Whether it is a smoke run, whose numbers mean nothing.
    """

    name: str
    path: Path
    status: str
    stage: str
    step: int
    time: str
    updated: float
    reason: str
    numbers: Mapping[str, float | None]
    headline: str = ""
    failed: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    smoke: bool = False


#: Pictures of a run's samples, below its directory; the first that exists is shown.
PICTURES = ("samples/model.png", "samples/samples.png")


class RunDirectory:
    """The files of one run.

    Arguments:
        path: The run directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.recipe = self.path / "recipe.yaml"
        self.resolved = self.path / "resolved.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.rejected = self.path / "rejected.jsonl"
        self.events = self.path / "events.jsonl"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.html"
        self.samples = self.path / "samples"
        #: Weights and card of a saved model, which has no checkpoints.
        self.weights = self.path / "model.safetensors"
        self.card = self.path / "card.yaml"
        self._status = self.path / "STATUS"
        #: Where it is copied to; set by the engine.
        self.mirror: Mirror | None = None

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        # Imported here because it imports torch, which `genfw runs` and completion do without.
        from genfw.runs.checkpoints import Checkpoints

        return Checkpoints(self.path / "checkpoints", self.resolved)

    @classmethod
    def create(
        cls, root: str | Path, name: str, resolved: str, recipe: str = "", path: str | Path | None = None
    ) -> RunDirectory:
        """Create a run directory and write both recipes into it.

        Arguments:
            root: Folder that holds all runs.
            name: The recipe's name.
            resolved: The recipe with all defaults; its hash is part of the directory's name.
            recipe: The recipe as the user wrote it; ``resolved`` by default.
            path: The directory itself, where the caller chooses it; it must be absent or empty.

        Raises:
            RunError: ``path`` is not empty.
        """
        if path is not None:
            target = Path(path)
            # A process that was killed while it wrote the first file may leave a hidden one.
            if target.is_dir() and any(entry.name[0] != "." for entry in target.iterdir()):
                raise RunError(
                    f"{target} is not empty; give another directory, or go on with what is there: genfw resume {target}"
                )
            target.mkdir(parents=True, exist_ok=True)
        else:
            stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}"
            target = _fresh(Path(root) / name, stem)
        run_dir = cls(target)
        # A directory with resolved.yaml can be resumed, one without is empty: nothing is in between.
        write_atomically(run_dir.resolved, resolved)
        try:
            write_atomically(run_dir.recipe, recipe or resolved)
        except OSError:
            run_dir.resolved.unlink()
            raise
        return run_dir

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open an existing run directory.

        Raises:
            RunError: ``path`` is no run directory.
        """
        run_dir = cls(path)
        if not run_dir.resolved.is_file():
            raise RunError(
                f"{path} is not a run directory: it has no resolved.yaml; `genfw runs` lists the runs there are"
            )
        return run_dir

    @classmethod
    def begin(
        cls, path: str | Path, name: str, resolved: str, recipe: str = "", *, renew: Callable[[Path], str] | None = None
    ) -> RunDirectory:
        """Open the run in a directory, or create it where there is none.

        Arguments:
            path: The run directory.
            name: The recipe's name.
            resolved: The recipe with all defaults.
            recipe: See :meth:`create`.
            renew: Reads a resolved recipe and adds the defaults of settings that it is too old to know.

        Raises:
            RunError: The directory has a run of another recipe, or other files.
        """
        run_dir = cls(path)
        if not run_dir.resolved.is_file():
            return cls.create(run_dir.path.parent, name, resolved, recipe, path)
        # Suppliers and versions may change: `environment.json` keeps them, and resuming says so.
        old, new = (dict(tree) for tree in (read_mapping(run_dir.resolved), yaml.safe_load(resolved)))
        new.pop("components", None)
        change = first_difference(old | {"components": None}, new)
        if change is not None and renew is not None:
            old = yaml.safe_load(renew(run_dir.resolved))
            change = first_difference(old | {"components": None}, new)
        if change is not None:
            where, before, now = change
            raise RunError(
                f"{path} has a run of another recipe: {where} is {before} there, and {now} here; "
                "give another directory, or go on with the run as it is: genfw resume"
            )
        return run_dir

    @property
    def begun(self) -> bool:
        """Whether a process has written the run's status."""
        return self._status.is_file()

    # -- status and lock ----------------------------------------------------------------------------------------------

    def write_status(self, status: Status, *, durable: bool = True) -> None:
        """Replace the ``STATUS`` file."""
        write_atomically(self._status, json.dumps(attrs.asdict(status)) + "\n", durable=durable)

    def status(self) -> Status:
        """The ``STATUS`` file; ``killed`` where it says running and the process no longer exists."""
        saved = dict(read_mapping(self._status))
        if not isinstance(saved.get("state"), str):  # absent, damaged, or without its state
            return Status("killed", reason="it stopped before it wrote its status", pid=0, time=0.0)
        blank = {"stage": "", "step": 0, "reason": "", "pid": 0, "time": 0.0}
        # Anybody may have written the file: a value of another kind says nothing.
        good = {key: saved[key] for key, value in blank.items() if key in saved and is_like(value, saved[key])}
        status = Status(**{"state": saved["state"], **blank, **good})
        if status.state == "running" and not is_held(self.path):
            return attrs.evolve(status, state="killed", reason="the process is gone without a last word")
        return status

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock the run against other processes; see :func:`genfw.runs.lock.hold`."""
        return hold(self.path)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to ``metrics.jsonl``, with null for numbers that are not finite."""
        append_row(self.metrics, row)

    def append_event(self, kind: str, message: str, **extra: Any) -> None:
        """Add a row to ``events.jsonl``."""
        append_row(self.events, {"time": time.time(), "kind": kind, "message": message, **extra})

    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``, without an incomplete last line."""
        return read_rows(self.metrics)

    def read_events(self) -> list[dict[str, Any]]:
        """Rows of ``events.jsonl``, without an incomplete last line."""
        return read_rows(self.events)

    def log_sizes(self) -> dict[str, int]:
        """Flush the two logs to the disk; their sizes in bytes, which a checkpoint keeps for :meth:`truncate`."""
        sizes = {}
        for path in (self.metrics, self.events):
            if path.exists():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
            sizes[path.name] = path.stat().st_size if path.exists() else 0
        return sizes

    def truncate(self, sizes: Mapping[str, int], *, reject: bool = False) -> None:
        """Remove what was logged after a checkpoint.

        Arguments:
            sizes: Return value of :meth:`log_sizes` at the checkpoint.
            reject: For a rollback, whose steps are abandoned: move the rows to ``rejected.jsonl`` and keep the events.
                A resumed run repeats its steps instead.
        """
        if reject:
            tail = tail_of(self.metrics, sizes.get(self.metrics.name, 0))
            with naming(self.rejected), open(self.rejected, "ab") as file:
                file.write(tail)
        cut_rows(self.metrics, sizes.get(self.metrics.name, 0), lambda row: False)
        if not reject:
            # Repeated steps raise their health events again; an event without step, such as an interrupt, is kept.
            cut_rows(self.events, sizes.get(self.events.name, 0), lambda row: "step" not in row)


def _fresh(folder: Path, stem: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        target = folder / (stem if count == 1 else f"{stem}-{count}")
        try:
            target.mkdir()
            return target
        except FileExistsError:
            count += 1


# -- all runs ---------------------------------------------------------------------------------------------------------


def list_runs(root: str | Path = "runs") -> list[RunRecord]:
    """Every run below ``root``, oldest first within a name; other folders are skipped."""
    folder = Path(root)
    if not folder.is_dir():
        return []
    found = []
    for resolved in sorted(folder.glob("*/*/resolved.yaml")) + sorted(folder.glob("*/resolved.yaml")):
        run_dir = RunDirectory(resolved.parent)
        status = run_dir.status()
        found.append(
            RunRecord(
                _name(run_dir),
                run_dir.path,
                status.state,
                status.stage,
                status.step,
                run_dir.path.name[:15],
                status.time,
                status.reason,
                **_evaluated(run_dir.evaluation),
            )
        )
    return found


def _name(run_dir: RunDirectory) -> str:
    for line in read_text(run_dir.resolved).splitlines():
        if line.startswith("name:"):
            return line.partition(":")[2].strip().strip("'\"")
    return run_dir.path.parent.name


def _evaluated(path: Path) -> dict[str, Any]:
    """What ``evaluation.json`` says, for :class:`RunRecord`; nothing where it is absent or damaged."""
    evaluation = read_mapping(path)
    named = [record for record in read_records(evaluation.get("results")) if isinstance(record.get("name"), str)]
    problems = evaluation.get("problems")
    numbers = {record["name"]: real(record.get("value")) for record in named}
    taken = [name for name, value in numbers.items() if value is not None]
    compared = [record["name"] for record in named if real(record.get("paper")) is not None]
    first = [name for name in taken if name in compared] + [name for name in taken if name.partition("@")[0] == "fid"]
    return {
        "numbers": numbers,
        "headline": next(iter([*first, *taken]), ""),
        "failed": tuple(record["name"] for record in named if record.get("failed")),
        "doubtful": tuple(record["name"] for record in named if record.get("doubt")),
        "problems": tuple(str(problem) for problem in problems) if isinstance(problems, list) else (),
        "smoke": bool(evaluation.get("smoke")),
    }


def find_run(name: str | Path, root: Path | str = "runs") -> Path:
    """The directory of a run.

    Arguments:
        name: A run directory, as a path or below ``root``; its last part; ``latest``; or a recipe's name, for its
            latest run.
        root: Folder of all runs.

    Raises:
        RunError: No run has that name.
    """
    for path in (Path(name), Path(root) / name):
        if (path / "resolved.yaml").is_file():
            return path
    found = sorted(list_runs(root), key=lambda run: (run.time, run.updated))
    chosen = [run for run in found if str(name) in ("latest", run.name, run.path.name)]
    if chosen:
        return chosen[-1].path
    if not found:
        raise RunError(f"'{name}' is no run directory, and there are no runs in {root}; 'genfw run' makes one")
    names = sorted({run.name for run in found} | {run.path.name for run in found})
    near = closest(str(name), names)
    what = f" - did you mean '{near}'?" if near else "; 'genfw runs' lists the runs there are"
    raise RunError(f"there is no run '{name}' in {root}{what}")
