"""What a recipe says about a run as a whole: how it is driven, watched and sampled from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from genfw.component import Settings
from genfw.errors import ContractError
from genfw.interfaces.sampler import Sampler
from genfw.interfaces.start import Start
from genfw.target import Space

__all__ = ["EngineSettings", "HealthSettings", "SampleSettings"]


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


class HealthSettings(Settings):
    """The recipe's ``health:`` section: what counts as ill, and what is done. On by default.

    The monitor reads the rows that are logged. It knows the scalars ``energy/gap`` (mean energy of negatives minus that
    of data), ``chain/drift`` (mean squared position over its expectation under the base), ``chain/saturation`` (share
    of data values at the ends of their range) and every value for being finite.

    Arguments:
        enabled: Watch at all.
        action: What the first illness leads to: ``rollback`` (to the last healthy checkpoint, learning rate cut),
            ``cut-lr``, ``warn`` or ``stop``.
        energy_gap: Largest absolute ``energy/gap`` in nats.
        gap_window: Logged rows that ``energy_gap`` must be exceeded in a row.
        chain_drift: Largest ``chain/drift``.
        saturation: Largest ``chain/saturation``.
        lr_factor: Factor on learning rates at every cut and rollback.
        rollbacks: Rollbacks in one stage before the run stops with its reason.
        stop_is_success: A stage that is stopped ends with its last healthy weights and the run goes on (VAEBM's own
            stopping rule) instead of failing.
    """

    def __init__(
        self,
        enabled: bool = True,
        action: Literal["rollback", "cut-lr", "warn", "stop"] = "rollback",
        energy_gap: float = 100.0,
        gap_window: int = 3,
        chain_drift: float = 25.0,
        saturation: float = 0.98,
        lr_factor: float = 0.3,
        rollbacks: int = 3,
        stop_is_success: bool = False,
    ) -> None:
        if not 0.0 < lr_factor <= 1.0:
            raise ContractError(f"lr_factor lies in (0, 1], got {lr_factor}")
        self.enabled, self.action = enabled, action
        self.energy_gap, self.gap_window = energy_gap, gap_window
        self.chain_drift, self.saturation = chain_drift, saturation
        self.lr_factor, self.rollbacks, self.stop_is_success = lr_factor, rollbacks, stop_is_success


class SampleSettings(Settings):
    """The recipe's ``sample:`` section: how the finished model is sampled from, for the report and for every metric.

    Arguments:
        count: Samples written to the run directory.
        space: Space the chain runs in; see :mod:`genfw.target`.
        sampler: Kernel; none draws from ``start`` alone.
        start: Where chains begin; several share the samples out evenly. Fresh draws of the target's base where absent.
        batch: Chains run at once.
        mean: Show the decoder's mean instead of a draw from it.
        temperature: Factor on the latent noise of the generator; other than 1 only without a sampler.
        keep_every: Steps between the chain states shown in the report; 0 shows none.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"count": 16, "batch": 16}

    def __init__(
        self,
        count: int = 64,
        space: Space = "noise",
        sampler: Sampler | None = None,
        start: Start | list[Start] | None = None,
        batch: int = 500,
        mean: bool = False,
        temperature: float = 1.0,
        keep_every: int = 0,
    ) -> None:
        if space == "posterior":
            raise ContractError("samples are drawn without data to condition on; space can't be 'posterior'")
        if temperature != 1.0 and sampler is not None:
            raise ContractError("a temperature other than 1 goes with plain generation, without a sampler")
        if count < 1 or batch < 1:
            raise ContractError("count and batch are at least 1")
        self.count, self.space, self.sampler = count, space, sampler
        self.starts: list[Start] = [] if start is None else start if isinstance(start, list) else [start]
        self.batch, self.mean, self.temperature, self.keep_every = batch, mean, temperature, keep_every
