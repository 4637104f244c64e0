"""The recipe's settings for a run as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs

from genfw.plugins.component import Settings
from genfw.plugins.validators import at_least, within

#: More threads than any machine's cores end torch with a segmentation fault, and so may processes.
_MOST = 1024


def _processes(instance: object, attribute: attrs.Attribute[Any], value: int | str) -> None:
    if not isinstance(value, str):
        within(1, _MOST)(instance, attribute, value)


@attrs.define(kw_only=True, eq=False, slots=False)
class EngineSettings(Settings):
    """The recipe's ``engine:`` section.

    Arguments:
        accelerator: ``auto``, ``cpu``, ``cuda``, ``mps``.
        devices: Processes on this machine, or ``auto`` for one per device. Where ``torchrun`` or ``srun`` has started
            several processes, these train.
        precision: Precision of networks in training; chains keep their state in float32.
        log_every: Steps between rows of ``metrics.jsonl``.
        checkpoint_every: Steps between checkpoints; the last step of a stage always has one.
        keep: Newest healthy checkpoints to keep, at least 2 (one to resume from, one to roll back to).
        threads: Threads per process for torch on the CPU, at most the cores that the process may use; 0 leaves the
            choice to torch.
        readers: Threads of each process that read and decode batches ahead; rows in memory of a run on the CPU are read
            without any.
        snapshot_every: Steps between sample grids drawn during training; 0 draws none.
        deterministic: Whether torch uses deterministic kernels.
        capture: Whether chains on CUDA are recorded at their second run as one CUDA graph and replayed from then on
            (``auto``), or run step by step (``off``). Elsewhere they always run step by step.
        compile: Whether steps of chains on the CPU are compiled by torch's compiler before their first chain, which
            takes 5 to 30 seconds for each kind of chain and a C++ compiler. It pays for small networks: chains on fully
            connected energies become 1.2 to 1.8 times faster, on closed forms more. Their last digits change. What
            can't be compiled runs as without it, after one note.
        tune: Whether convolutions of chains on the CPU are timed once for each layer and shape, and done in the way
            that was fastest (torch's own, by Winograd's transforms, as products of matrices), in place of fixed rules.
            The run directory keeps the choices in ``choices.json``, so a resumed run goes on with them, bit for bit;
            two runs may choose differently and differ in their last digits. With several processes, and with
            ``deterministic``, nothing is timed.
        tf32: Whether products and convolutions of float32 on CUDA round their factors to TF32's 10 digits, which is
            several times faster. torch alone would do so in convolutions.
        cudnn_benchmark: Whether cuDNN times its algorithms for every new shape and takes the fastest; two runs may then
            differ in the last bits.
        sync_batch_norm: With several processes, batch norms take their statistics over the rows of all of them, as one
            process with the whole batch does. With ``false`` each process uses its own rows, as in some published
            training; a plugin's stage that calls its networks in another order in each process needs it.
        mirror: Folder, such as ``s3://bucket/runs``, to which the run directory is copied under its own name, at every
            checkpoint and at the end; ``genfw run --dir DIR --resume`` brings it back. Empty for none.
    """

    instead: ClassVar[Mapping[str, str]] = {
        "nodes": ": start one process per device on every node, with torchrun --nnodes or srun --nodes, and genfw "
        "counts them (docs/cluster.md)"
    }
    smoke: ClassVar[Mapping[str, Any]] = {"log_every": 1, "checkpoint_every": 2}

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int | Literal["auto"] = attrs.field(default=1, validator=_processes)
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    log_every: int = attrs.field(default=50, validator=at_least(1))
    checkpoint_every: int = attrs.field(default=500, validator=at_least(1))
    keep: int = attrs.field(default=3, validator=at_least(2))
    threads: int = attrs.field(default=0, validator=within(0, _MOST))
    readers: int = attrs.field(default=1, validator=within(1, 64))
    snapshot_every: int = attrs.field(default=0, validator=at_least(0))
    deterministic: bool = False
    capture: Literal["auto", "off"] = "auto"
    compile: bool = False
    tune: bool = False
    tf32: bool = False
    cudnn_benchmark: bool = False
    sync_batch_norm: bool = True
    mirror: str = ""
