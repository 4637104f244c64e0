"""The interfaces of a model's parts and of its sampling, one abstract class per file.

Read ``values`` and ``likelihood`` for what the parts exchange, ``network`` for what three of them share, then
``prior``, ``decoder``, ``energy``, ``sampler``, ``amortizer``, and ``encoder``, ``start``, ``dataset``, ``target``.
Implementations are in plugins, never here.
The interfaces of training and evaluation (stages, metrics, ...) are in those rooms; this package re-exports them.
"""

from typing import Any

from genfw.interfaces.amortizer import Amortizer
from genfw.interfaces.dataset import Dataset, Split, TensorSplit
from genfw.interfaces.decoder import Decoder
from genfw.interfaces.encoder import Encoder, Posterior
from genfw.interfaces.energy import Energy
from genfw.interfaces.prior import Prior
from genfw.interfaces.sampler import Info, Sampler, SamplerState
from genfw.interfaces.start import Start, StartRequest
from genfw.interfaces.target import Target
from genfw.interfaces.values import Stateful

#: Interfaces of later rooms, imported through ``genfw`` on first use.
_ELSEWHERE = ("Figure", "Metric", "OptimizerFactory", "Result", "RunInfo", "Stage", "StageRun", "Tracker")

__all__ = [
    "Amortizer",
    "Dataset",
    "Decoder",
    "Encoder",
    "Energy",
    "Info",
    "Posterior",
    "Prior",
    "Sampler",
    "SamplerState",
    "Split",
    "Start",
    "StartRequest",
    "Stateful",
    "Target",
    "TensorSplit",
    *_ELSEWHERE,
]


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        import genfw

        return getattr(genfw, name)
    raise AttributeError(f"module 'genfw.interfaces' has no attribute '{name}'")
