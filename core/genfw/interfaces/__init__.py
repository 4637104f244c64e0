"""The interfaces: what a prior, decoder, energy, sampler, ... is. One per file."""

from genfw.interfaces.amortizer import Amortizer
from genfw.interfaces.dataset import Dataset, Split, TensorSplit
from genfw.interfaces.decoder import Decoder
from genfw.interfaces.encoder import Encoder, Posterior
from genfw.interfaces.energy import Energy
from genfw.interfaces.metric import Figure, Metric, Result
from genfw.interfaces.optimizer import OptimizerFactory
from genfw.interfaces.prior import Prior
from genfw.interfaces.sampler import Info, Sampler, SamplerState
from genfw.interfaces.stage import Stage, StageRun, Stateful
from genfw.interfaces.start import Start, StartRequest
from genfw.interfaces.tracker import RunInfo, Tracker

__all__ = [
    "Amortizer",
    "Dataset",
    "Decoder",
    "Encoder",
    "Energy",
    "Figure",
    "Info",
    "Metric",
    "OptimizerFactory",
    "Posterior",
    "Prior",
    "Result",
    "RunInfo",
    "Sampler",
    "SamplerState",
    "Split",
    "Stage",
    "StageRun",
    "Start",
    "StartRequest",
    "Stateful",
    "TensorSplit",
    "Tracker",
]
