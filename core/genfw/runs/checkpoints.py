"""The only file that saves and restores state: safetensors and JSON, written completely or not at all.

A checkpoint is a folder ``stage0-step000500`` (``-r2`` after the second rollback) with ``state.safetensors`` and
``state.json`` (``rank1.*`` for the further processes), and ``checkpoint.json``: the run's position, the SHA-256 of
every other file and of the recipe that the run follows, and a digest of all that. It is written under another name,
flushed to the disk and renamed, so a folder with a proper name is complete. ``index.json`` beside it holds what is
known only later (whether it is healthy). Nothing is pickled, so a checkpoint from a stranger runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load_file

from genfw.errors import ChangedRecipeError, RunError
from genfw.interfaces.values import StateTree
from genfw.runs.files import hash_file, parse_json, read_mapping, sync_folder, write_atomically
from genfw.runs.state_tree import join_tree, split_tree
from genfw.runs.tensors import save_tensors

_META = "checkpoint.json"
_INDEX = "index.json"
_FORMAT = 2

_log = logging.getLogger("genfw")


@attrs.frozen
class Checkpoint:
    """One saved state.

    Arguments:
        name: Its folder, such as ``stage0-step000500``.
        stage: Index of the stage.
        step: Completed steps of the stage.
        rollbacks: Rollbacks of the stage up to here.
        sequence: Counts checkpoints in the order of writing.
        scheduled: Written by the schedule; ``False`` for one written at an interrupt, to which no rollback returns.
        healthy: Whether rows logged after it were healthy; ``None`` before the first.
        final: Whether it is the last state of its stage.
        info: Further facts: seconds trained, sizes of the logs, versions.
        path: The folder.
        world: Count of processes that wrote it.
    """

    name: str
    stage: int
    step: int
    rollbacks: int
    sequence: int
    scheduled: bool
    healthy: bool | None
    final: bool
    info: Mapping[str, Any]
    path: Path
    world: int = 1


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Arguments:
        folder: Its path; created on the first save.
        recipe: The file that the run follows; a checkpoint goes on with no other.
    """

    def __init__(self, folder: Path, recipe: Path | None = None) -> None:
        self.folder, self.recipe = folder, recipe
        self._told: set[Path] = set()

    # -- reading ------------------------------------------------------------------------------------------------------

    def all(self) -> list[Checkpoint]:
        """Every complete checkpoint, oldest first; other folders are skipped."""
        if not self.folder.is_dir():
            return []
        marks = self._marks()
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        found = [self._read(path, marks) for path in folders]
        return sorted((c for c in found if c is not None), key=lambda c: c.sequence)

    def _read(self, path: Path, marks: Mapping[str, Mapping[str, Any]]) -> Checkpoint | None:
        try:
            meta = parse_json((path / _META).read_text(encoding="utf-8"))
            mark = marks.get(f"{path.name}@{meta['sequence']}", {})
            stage, step, rollbacks, sequence = (_whole(meta[key]) for key in ("stage", "step", "rollbacks", "sequence"))
            return Checkpoint(
                path.name,
                stage,
                step,
                rollbacks,
                sequence,
                meta["scheduled"],
                mark.get("healthy", meta["healthy"]),
                bool(mark.get("final", False)),
                {**meta["info"]},
                path,
                meta["world"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            if path not in self._told:
                self._told.add(path)
                _log.warning("genfw: %s is damaged, and is left out", path / _META)
            return None

    def find(self, which: str = "best") -> Checkpoint:
        """One checkpoint by name.

        Arguments:
            which: ``best`` (the last state of the last stage; before that, the newest healthy one), ``last``, or a
                folder's name.

        Raises:
            RunError: There is none, or none of that name.
        """
        found = self.all()
        if not found:
            raise RunError(
                f"there are no checkpoints in {self.folder}; the run stopped before its first one, so start it again"
            )
        if which == "last":
            return found[-1]
        if which == "best":
            latest = found[-1].stage
            for candidates in (
                [c for c in found if c.final and c.stage == latest],
                [c for c in found if c.healthy],
                found,
            ):
                if candidates:
                    return candidates[-1]
        for checkpoint in found:
            if checkpoint.name == which:
                return checkpoint
        names = ", ".join(c.name for c in found)
        raise RunError(f"there is no checkpoint '{which}'; there are best, last, {names}")

    def load(self, checkpoint: Checkpoint, *, rank: int = 0, device: torch.device | str = "cpu") -> StateTree:
        """Read a saved state.

        Arguments:
            checkpoint: The checkpoint.
            rank: Rank of the process whose state it is.
            device: Device for tensors that were not on the CPU when saved.

        Raises:
            RunError: A file is absent or damaged.
        """
        stem = _stem(rank)
        try:
            meta = parse_json((checkpoint.path / _META).read_text(encoding="utf-8"))
            if meta["format"] != _FORMAT:
                which = "a newer" if meta["format"] > _FORMAT else "an older"
                raise RunError(
                    f"{checkpoint.path} was written by {which} genfw (format {meta['format']}, here {_FORMAT}); "
                    "install that one"
                )
            self._verify(checkpoint, meta)
            if f"{stem}.json" not in meta["files"]:
                raise RunError(
                    f"{checkpoint.path} is of {meta['world']} process(es), so there is no state of number {rank}"
                )
            for name in (f"{stem}.json", f"{stem}.safetensors"):
                if hash_file(checkpoint.path / name) != meta["files"][name]:
                    raise RunError(
                        f"{checkpoint.path / name} is damaged: its SHA-256 is not the one recorded when it was written"
                    )
            structure = parse_json((checkpoint.path / f"{stem}.json").read_text(encoding="utf-8"))
            state: StateTree = join_tree(structure, load_file(checkpoint.path / f"{stem}.safetensors"), device)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"the checkpoint {checkpoint.path} can't be read: {error}") from error
        return state

    def _verify(self, checkpoint: Checkpoint, meta: Mapping[str, Any]) -> None:
        """Refuse a ``checkpoint.json``, or a recipe, that is not as it was when the checkpoint was written."""
        if meta["digest"] != _digest(meta):
            raise RunError(f"{checkpoint.path / _META} is damaged: it has changed since it was written")
        if self.recipe is not None and meta["recipe"] not in (None, hash_file(self.recipe)):
            raise ChangedRecipeError(
                f"{self.recipe} has changed since {checkpoint.name} was written, and the run would go on with other "
                "numbers; put the old file back, or begin a new run from the changed recipe"
            )

    # -- writing ------------------------------------------------------------------------------------------------------

    def save(self, state: StateTree, **facts: Any) -> Checkpoint | None:
        """Write a checkpoint at once; see :meth:`prepare`."""
        return self.prepare(state, **facts)()

    def prepare(
        self,
        state: StateTree,
        *,
        stage: int,
        step: int,
        rollbacks: int = 0,
        scheduled: bool = True,
        healthy: bool | None = None,
        info: Mapping[str, Any] | None = None,
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], object] = lambda: None,
    ) -> Callable[[], Checkpoint | None]:
        """Copy the state of a checkpoint to host memory; every process calls this with its own state.

        Arguments:
            state: State of this process.
            stage: Index of the stage.
            step: Completed steps of the stage.
            rollbacks: Rollbacks of the stage so far.
            scheduled: See :class:`Checkpoint`.
            healthy: See :class:`Checkpoint`.
            info: Further facts (JSON).
            rank: Rank of this process.
            world: Count of processes.
            barrier: Waits for all processes.

        Returns:
            What writes it, in this thread or another one, and returns the checkpoint, on the first process; ``None`` on
            the others.

        Raises:
            ContractError: The state holds something that can't be saved.
        """
        name = f"stage{stage}-step{step:06d}" + (f"-r{rollbacks}" if rollbacks else "")
        part, path = self.folder / f".tmp-{name}", self.folder / name
        structure, tensors = split_tree(state)

        def write() -> Checkpoint | None:
            if rank == 0:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            barrier()
            save_tensors(part / f"{_stem(rank)}.safetensors", tensors)
            write_atomically(part / f"{_stem(rank)}.json", json.dumps(structure))
            barrier()
            if rank:
                barrier()
                return None
            before = self.all()
            meta: dict[str, Any] = {
                "format": _FORMAT,
                "stage": stage,
                "step": step,
                "rollbacks": rollbacks,
                "sequence": before[-1].sequence + 1 if before else 0,
                "scheduled": scheduled,
                "healthy": healthy,
                "world": world,
                "info": dict(info or {}),
                "files": {file.name: hash_file(file) for file in sorted(part.iterdir())},
                "recipe": None if self.recipe is None else hash_file(self.recipe),
            }
            meta["digest"] = _digest(meta)
            write_atomically(part / _META, json.dumps(meta, indent=1))
            if path.exists():  # damaged, or written at an interrupt and not resumed from
                self._remove(path)
            os.replace(part, path)
            sync_folder(self.folder)
            barrier()
            return self._read(path, {})

        return write

    def mark(self, checkpoint: Checkpoint, *, healthy: bool | None = None, final: bool | None = None) -> None:
        """Record in ``index.json`` what became known about a checkpoint after it was written."""
        marks = self._marks()
        known = {f"{c.name}@{c.sequence}" for c in self.all()}
        entry = marks.setdefault(f"{checkpoint.name}@{checkpoint.sequence}", {})
        if healthy is not None:
            entry["healthy"] = healthy
        if final is not None:
            entry["final"] = final
        marks = {name: mark for name, mark in marks.items() if name in known}
        write_atomically(self.folder / _INDEX, json.dumps(marks, indent=1))

    def _marks(self) -> dict[str, dict[str, Any]]:
        return dict(read_mapping(self.folder / _INDEX))

    # -- clearing up --------------------------------------------------------------------------------------------------

    def prune(self, keep: int) -> None:
        """Remove checkpoints that nothing will return to.

        The ``keep`` newest healthy ones of the newest stage remain, those not judged yet, every stage's last state, and
        the newest.

        Arguments:
            keep: Healthy checkpoints to keep.
        """
        found = self.all()
        if not found:
            return
        latest = found[-1].stage
        # By step: a rollback saves the state it returned to again, and the older copy is superfluous.
        healthy = {c.step: c.name for c in found if c.healthy and c.scheduled and c.stage == latest}
        newest = [healthy[step] for step in sorted(healthy)[-keep:]]
        stay = {*newest, found[-1].name, *(c.name for c in found if c.final)}
        for checkpoint in found:
            waiting = checkpoint.healthy is None and checkpoint.scheduled and checkpoint.stage == latest
            if checkpoint.name not in stay and not waiting:
                self._remove(checkpoint.path)

    def drop_after(self, checkpoint: Checkpoint) -> None:
        """Remove every checkpoint written after this one: a rollback abandons them."""
        for other in reversed(self.all()):
            if other.sequence > checkpoint.sequence:
                self._remove(other.path)

    def clean(self) -> None:
        """Remove incomplete folders of a killed process. Only the process with the run's lock may call it."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        # Rename first, so that a folder with a proper name stays complete during the removal.
        gone = path.with_name(f".gone-{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _whole(value: Any) -> int:
    """A counter, as a file states it.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("no counter")
    return value


def _digest(meta: Mapping[str, Any]) -> str:
    """SHA-256 of all that ``checkpoint.json`` says but for the digest itself."""
    said = {key: value for key, value in meta.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _stem(rank: int) -> str:
    return "state" if rank == 0 else f"rank{rank}"
