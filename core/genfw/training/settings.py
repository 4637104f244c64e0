"""What a recipe says about a run as a whole: how it is driven, watched and sampled from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from genfw.errors import ContractError
from genfw.plugins.component import Settings

__all__ = ["EngineSettings"]


class EngineSettings(Settings):
    """The recipe's ``engine:`` section.

    Arguments:
        accelerator: ``auto``, ``cpu``, ``cuda``, ``mps``.
        devices: Processes on this machine, or ``auto`` for all devices there are.
        precision: Of networks in training; chains keep their state in float32.
        log_every: Steps between rows of ``metrics.jsonl``.
        checkpoint_every: Steps between checkpoints; the last step of a stage always has one.
        keep: Newest healthy checkpoints to keep, at least 2 (one to resume from, one to roll back to).
        threads: Threads per process for torch on the CPU; 0 leaves torch's own choice.
        snapshot_every: Steps between sample grids drawn during training; 0 draws none.
        deterministic: Ask torch for deterministic kernels.
        sync_batch_norm: With several processes, batch norms take their statistics over the rows of all of them, as one
            process with the whole batch does; ``false`` leaves each to its own rows, as some published training did,
            and is for a stage of a plugin that calls its networks in another order in each process.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"log_every": 1, "checkpoint_every": 2}

    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        devices: int | Literal["auto"] = 1,
        precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true",
        log_every: int = 50,
        checkpoint_every: int = 500,
        keep: int = 3,
        threads: int = 0,
        snapshot_every: int = 0,
        deterministic: bool = False,
        sync_batch_norm: bool = True,
    ) -> None:
        if log_every < 1 or checkpoint_every < 1:
            raise ContractError("log_every and checkpoint_every are at least 1")
        if keep < 2:
            raise ContractError(f"keep at least 2 checkpoints, got {keep}")
        self.accelerator, self.devices, self.precision = accelerator, devices, precision
        self.log_every, self.checkpoint_every, self.keep = log_every, checkpoint_every, keep
        self.threads, self.snapshot_every, self.deterministic = threads, snapshot_every, deterministic
        self.sync_batch_norm = sync_batch_norm
