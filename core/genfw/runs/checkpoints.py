"""The only file that saves and restores state: safetensors and JSON, written whole or not at all.

A checkpoint is a folder ``stage0-step000500`` (``-r2`` after the second rollback) with ``state.safetensors`` and
``state.json`` (``rank1.*`` for the further processes), and ``checkpoint.json``: where the run stood, the SHA-256 of
every other file and of the recipe that the run follows, and a digest of all that. It is written under another name,
flushed to the disk and renamed, so that a folder with a proper name is complete. What was found out about it later
(whether it is healthy) stands in ``index.json`` beside it. Nothing is pickled, so a checkpoint from a stranger runs no
code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
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
from genfw.runs.files import hash_file, read_mapping, sync_folder, write_atomically
from genfw.runs.state_tree import join_tree, split_tree
from genfw.runs.tensors import save_tensors

__all__ = ["Checkpoint", "Checkpoints", "write_atomically"]

_META = "checkpoint.json"
_INDEX = "index.json"
_FORMAT = 2


@attrs.frozen
class Checkpoint:
    """One saved state.

    Arguments:
        name: Its folder, such as ``stage0-step000500``.
        stage: Number of the stage, from 0.
        step: Steps of the stage that were done.
        rollbacks: Rollbacks of the stage up to here.
        sequence: Counts checkpoints in the order they were written.
        scheduled: Written by the schedule; ``False`` for one written because the run was interrupted, which no rollback
            returns to.
        healthy: Whether rows logged after it were fine; ``None`` while none has been logged.
        final: The state its stage ended with.
        info: Whatever else the run noted: seconds trained, sizes of the logs, versions.
        path: The folder.
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


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Arguments:
        folder: Where it lies; made on the first save.
        recipe: The file that the run follows; a checkpoint goes on with no other.
    """

    def __init__(self, folder: Path, recipe: Path | None = None) -> None:
        self.folder, self.recipe = folder, recipe

    # -- reading ------------------------------------------------------------------------------------------------------

    def all(self) -> list[Checkpoint]:
        """Every complete checkpoint, oldest first. Folders that are half-written or not of this kind are passed
        over.
        """
        if not self.folder.is_dir():
            return []
        marks = self._marks()
        found = [self._read(path, marks) for path in self.folder.iterdir() if not path.name.startswith(".")]
        return sorted((one for one in found if one is not None), key=lambda one: one.sequence)

    def _read(self, path: Path, marks: Mapping[str, Mapping[str, Any]]) -> Checkpoint | None:
        try:
            meta = json.loads((path / _META).read_text(encoding="utf-8"))
            mark = marks.get(f"{path.name}@{meta['sequence']}", {})
            return Checkpoint(
                path.name,
                meta["stage"],
                meta["step"],
                meta["rollbacks"],
                meta["sequence"],
                meta["scheduled"],
                mark.get("healthy", meta["healthy"]),
                bool(mark.get("final", False)),
                meta["info"],
                path,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def find(self, which: str = "best") -> Checkpoint:
        """One checkpoint by name.

        Arguments:
            which: ``best`` (the state the last stage ended with; before that, the newest healthy one), ``last``, or a
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
                [one for one in found if one.final and one.stage == latest],
                [one for one in found if one.healthy],
                found,
            ):
                if candidates:
                    return candidates[-1]
        for one in found:
            if one.name == which:
                return one
        names = ", ".join(one.name for one in found)
        raise RunError(f"there is no checkpoint '{which}'; there are best, last, {names}")

    def load(self, checkpoint: Checkpoint, *, rank: int = 0, device: torch.device | str = "cpu") -> StateTree:
        """The state that was saved.

        Arguments:
            checkpoint: Which one.
            rank: Of which process.
            device: Where tensors go that were not on the CPU when they were saved.

        Raises:
            RunError: A file is absent or is not the one that was written.
        """
        stem = _stem(rank)
        try:
            meta = json.loads((checkpoint.path / _META).read_text(encoding="utf-8"))
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
            structure = json.loads((checkpoint.path / f"{stem}.json").read_text(encoding="utf-8"))
            state: StateTree = join_tree(structure, load_file(checkpoint.path / f"{stem}.safetensors"), device)
        except (OSError, ValueError, KeyError) as error:
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

    def save(
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
    ) -> Checkpoint | None:
        """Write a checkpoint; every process calls this with its own state.

        Arguments:
            state: State of this process.
            stage: Number of the stage.
            step: Steps of it that are done.
            rollbacks: Rollbacks of it so far.
            scheduled: See :class:`Checkpoint`.
            healthy: What is already known about it.
            info: What else to note (JSON).
            rank: Number of this process.
            world: Count of processes.
            barrier: Waits until every process has come here.

        Returns:
            The checkpoint, on the first process; ``None`` on the others.

        Raises:
            ContractError: The state holds something that can't be saved.
        """
        name = f"stage{stage}-step{step:06d}" + (f"-r{rollbacks}" if rollbacks else "")
        part, path = self.folder / f".tmp-{name}", self.folder / name
        structure, tensors = split_tree(state)
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
        sequence = before[-1].sequence + 1 if before else 0
        meta: dict[str, Any] = {
            "format": _FORMAT,
            "stage": stage,
            "step": step,
            "rollbacks": rollbacks,
            "sequence": sequence,
            "scheduled": scheduled,
            "healthy": healthy,
            "world": world,
            "info": dict(info or {}),
            "files": {file.name: hash_file(file) for file in sorted(part.iterdir())},
            "recipe": None if self.recipe is None else hash_file(self.recipe),
        }
        meta["digest"] = _digest(meta)
        write_atomically(part / _META, json.dumps(meta, indent=1))
        if path.exists():  # a damaged one, or one that an interrupted run was not resumed from
            self._remove(path)
        os.replace(part, path)
        sync_folder(self.folder)
        barrier()
        return self._read(path, {})

    def mark(self, checkpoint: Checkpoint, *, healthy: bool | None = None, final: bool | None = None) -> None:
        """Note what was found out about a checkpoint after it was written."""
        marks = self._marks()
        known = {f"{one.name}@{one.sequence}" for one in self.all()}
        entry = marks.setdefault(f"{checkpoint.name}@{checkpoint.sequence}", {})
        if healthy is not None:
            entry["healthy"] = healthy
        if final is not None:
            entry["final"] = final
        kept = {name: mark for name, mark in marks.items() if name in known}
        write_atomically(self.folder / _INDEX, json.dumps(kept, indent=1))

    def _marks(self) -> dict[str, dict[str, Any]]:
        return dict(read_mapping(self.folder / _INDEX))

    # -- clearing up --------------------------------------------------------------------------------------------------

    def prune(self, keep: int) -> None:
        """Remove what nobody will go back to.

        There stay the ``keep`` newest healthy ones of the newest stage, those not judged yet, every stage's last state,
        and the newest.

        Arguments:
            keep: Healthy checkpoints to keep.
        """
        found = self.all()
        if not found:
            return
        latest = found[-1].stage
        # By step: the state that a rollback returned to is saved again, and the older copy serves nobody.
        healthy = {one.step: one.name for one in found if one.healthy and one.scheduled and one.stage == latest}
        newest = [healthy[step] for step in sorted(healthy)[-keep:]]
        stay = {*newest, found[-1].name, *(one.name for one in found if one.final)}
        for one in found:
            waiting = one.healthy is None and one.scheduled and one.stage == latest
            if one.name not in stay and not waiting:
                self._remove(one.path)

    def drop_after(self, checkpoint: Checkpoint) -> None:
        """Remove every checkpoint written after this one: a rollback has given their path up."""
        for one in reversed(self.all()):
            if one.sequence > checkpoint.sequence:
                self._remove(one.path)

    def clean(self) -> None:
        """Remove what a killed process left half-written. For the process that holds the run's lock."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        # Renamed first: a folder with a proper name is complete, even while this one is being emptied.
        gone = path.with_name(f".gone-{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _digest(meta: Mapping[str, Any]) -> str:
    """SHA-256 of all that ``checkpoint.json`` says but for the digest itself."""
    said = {key: value for key, value in meta.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _stem(rank: int) -> str:
    return "state" if rank == 0 else f"rank{rank}"
