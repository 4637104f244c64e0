"""Beginning with weights that are there already: imported ones, or another run's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
from torch import Tensor

from genfw import Batch, ContractError, DataError, Stage
from genfw.errors import GenfwError
from genfw.runs.files import hash_file
from genfw.weights.load import load_into, load_parts

_log = logging.getLogger("genfw")


@attrs.define(kw_only=True, eq=False, slots=False)
class Load(Stage):
    """Take weights from a file of ``genfw import`` or from a run, instead of training them.

    A stage of no steps: the weights go into the run's own first checkpoint of it, so neither file nor run is needed to
    resume the run, to sample from it or to evaluate it.

    Arguments:
        model: The composed model; its parts must be built as those the weights are of.
        file: What ``genfw import`` has written.
        run: Directory of a run that genfw has trained; its best checkpoint is taken, averages included.
        parts: ``prior``, ``decoder``, ``encoder``, ``energy``, ``amortizer``: those to load. Absent, all that the file
            has, or all that run and model both have.
        sha256: SHA-256 of the file, or its first figures.
        strict: Refuse weights that are absent or do not fit. A smoke run, whose networks are tiny, says so and goes on
            without them.

    Raises:
        ContractError: Not exactly one of file and run is given, or the weights do not fit.
        DataError: There is no such file, or it is another one than the hash says.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"strict": False}

    steps: int = attrs.field(default=0, init=False)
    batch: int = attrs.field(default=1, init=False)
    file: Path | None = None
    source: Path | None = attrs.field(default=None, alias="run")  # the engine sets "run"
    parts: Sequence[str] | None = None
    sha256: str | None = None
    strict: bool = True

    def __attrs_post_init__(self) -> None:
        if (self.file is None) == (self.source is None):
            raise ContractError("stage 'load' takes weights from a file or from a run: give one of 'file' and 'run'")
        if self.sha256 is not None and self.file is None:
            raise ContractError("sha256 is that of a file, and stage 'load' is given a run")
        if self.parts is not None and not self.parts:
            raise ContractError("stage 'load' is told to load no part; leave 'parts' out to load all")

    def setup(self) -> None:
        """No row is read, but a batch must be one that the processes can share."""
        self.batch = self.run.fabric.world_size

    def prepare(self, batch_at: Callable[[int], Batch]) -> None:
        """See :meth:`Stage.prepare`; a resumed stage has the weights in its checkpoint."""
        try:
            self._load()
        except GenfwError as error:
            if self.strict:
                raise
            if self.run.fabric.is_global_zero:
                _log.warning("genfw: stage 'load' goes on without weights: %s", error)

    def _load(self) -> None:
        if self.file is not None:
            self._check(self.file)
            load_into(self.model, self.file, self.parts)
        if self.source is not None:
            from genfw.engine.finished import load_run

            trained = load_run(self.source, device=str(self.run.device))
            load_parts(self.model, trained.model, self.parts, where=str(self.source))

    def _check(self, file: Path) -> None:
        if self.sha256 is None or not file.is_file():  # load_into says what is missing
            return
        found = hash_file(file)
        if not found.startswith(self.sha256.lower()):
            raise DataError(f"{file} has SHA-256 {found}, and the recipe wants {self.sha256.lower()}")

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Never told: the stage has no steps."""
        raise AssertionError("stage 'load' has no steps")
