"""genfw: energy-based models over generators, composed from a recipe.

A recipe composes a prior, a decoder, energies, a sampler and an amortizer (``genfw.interfaces``), which plugins supply.
The rooms of this package have an order; each imports only those before it:

``errors``, ``randomness``, ``plugins``, ``interfaces``, ``nn``, ``runs``, ``models``, ``training``, ``evaluation``,
``recipes``, ``engine``, ``weights``, ``testing``.

Names are imported when they are first used (PEP 562), so that ``import genfw`` costs nothing and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genfw import errors, interfaces
    from genfw.engine.finished import load_run
    from genfw.engine.fit import Fit, fit
    from genfw.engine.result import RunResult
    from genfw.engine.run import resume, run
    from genfw.errors import ContractError, DataError
    from genfw.evaluation.evaluation import Evaluation
    from genfw.evaluation.metric import Metric
    from genfw.evaluation.results import Figure, Result
    from genfw.interfaces.amortizer import Amortizer
    from genfw.interfaces.dataset import Dataset, Split, TensorSplit
    from genfw.interfaces.decoder import Decoder
    from genfw.interfaces.encoder import Encoder, Posterior
    from genfw.interfaces.energy import Energy
    from genfw.interfaces.likelihood import Deterministic, Gaussian, Likelihood
    from genfw.interfaces.prior import Prior
    from genfw.interfaces.sampler import Info, Sampler, SamplerState
    from genfw.interfaces.start import Start, StartRequest
    from genfw.interfaces.target import Target
    from genfw.interfaces.values import Batch, Latent, NoiseLayout, Size, Stateful
    from genfw.models.chains import Chain, ChainResult, run_chain
    from genfw.models.model import Model
    from genfw.models.targets import (
        DataTarget,
        FunctionTarget,
        JointTarget,
        NoiseTarget,
        PosteriorTarget,
        PriorTarget,
        make_target,
    )
    from genfw.models.wrap import as_decoder, as_energy, as_prior
    from genfw.nn.normal_encoder import NormalEncoder
    from genfw.plugins.component import Component, Settings
    from genfw.plugins.hookspecs import RunInfo, hookimpl
    from genfw.plugins.loading import load_plugins
    from genfw.plugins.registry import Registry
    from genfw.recipes.compose import Composition, compose
    from genfw.recipes.recipe import Recipe, load_recipe
    from genfw.training.given import TensorData
    from genfw.training.optimizer import OptimizerFactory
    from genfw.training.stage import Stage, StageRun
    from genfw.training.tracker import Tracker
    from genfw.training.updater import Updater
    from genfw.weights.hub import from_pretrained, pull, push
    from genfw.weights.saved import save
    from genfw.weights.trained import Trained, load

__version__ = "0.1.0"

#: Module -> its public names.
_MODULES = {
    "engine.finished": ("load_run",),
    "engine.fit": ("Fit", "fit"),
    "engine.result": ("RunResult",),
    "engine.run": ("resume", "run"),
    "errors": ("ContractError", "DataError"),
    "evaluation.evaluation": ("Evaluation",),
    "evaluation.metric": ("Metric",),
    "evaluation.results": ("Figure", "Result"),
    "interfaces.amortizer": ("Amortizer",),
    "interfaces.dataset": ("Dataset", "Split", "TensorSplit"),
    "interfaces.decoder": ("Decoder",),
    "interfaces.encoder": ("Encoder", "Posterior"),
    "interfaces.energy": ("Energy",),
    "interfaces.likelihood": ("Deterministic", "Gaussian", "Likelihood"),
    "interfaces.prior": ("Prior",),
    "interfaces.sampler": ("Info", "Sampler", "SamplerState"),
    "interfaces.start": ("Start", "StartRequest"),
    "interfaces.target": ("Target",),
    "interfaces.values": ("Batch", "Latent", "NoiseLayout", "Size", "Stateful"),
    "models.chains": ("Chain", "ChainResult", "run_chain"),
    "models.model": ("Model",),
    "models.targets": (
        "DataTarget",
        "FunctionTarget",
        "JointTarget",
        "NoiseTarget",
        "PosteriorTarget",
        "PriorTarget",
        "make_target",
    ),
    "models.wrap": ("as_decoder", "as_energy", "as_prior"),
    "nn.normal_encoder": ("NormalEncoder",),
    "plugins.component": ("Component", "Settings"),
    "plugins.hookspecs": ("RunInfo", "hookimpl"),
    "plugins.loading": ("load_plugins",),
    "plugins.registry": ("Registry",),
    "recipes.compose": ("Composition", "compose"),
    "recipes.recipe": ("Recipe", "load_recipe"),
    "training.given": ("TensorData",),
    "training.optimizer": ("OptimizerFactory",),
    "training.stage": ("Stage", "StageRun"),
    "training.tracker": ("Tracker",),
    "training.updater": ("Updater",),
    "weights.hub": ("from_pretrained", "pull", "push"),
    "weights.saved": ("save",),
    "weights.trained": ("Trained", "load"),
}
_EXPORTS = {name: f"genfw.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [
    "Amortizer",
    "Batch",
    "Chain",
    "ChainResult",
    "Component",
    "Composition",
    "ContractError",
    "DataError",
    "DataTarget",
    "Dataset",
    "Decoder",
    "Deterministic",
    "Encoder",
    "Energy",
    "Evaluation",
    "Figure",
    "Fit",
    "FunctionTarget",
    "Gaussian",
    "Info",
    "JointTarget",
    "Latent",
    "Likelihood",
    "Metric",
    "Model",
    "NoiseLayout",
    "NoiseTarget",
    "NormalEncoder",
    "OptimizerFactory",
    "Posterior",
    "PosteriorTarget",
    "Prior",
    "PriorTarget",
    "Recipe",
    "Registry",
    "Result",
    "RunInfo",
    "RunResult",
    "Sampler",
    "SamplerState",
    "Settings",
    "Size",
    "Split",
    "Stage",
    "StageRun",
    "Start",
    "StartRequest",
    "Stateful",
    "Target",
    "TensorData",
    "TensorSplit",
    "Tracker",
    "Trained",
    "Updater",
    "__version__",
    "as_decoder",
    "as_energy",
    "as_prior",
    "compose",
    "errors",
    "fit",
    "from_pretrained",
    "hookimpl",
    "interfaces",
    "load",
    "load_plugins",
    "load_recipe",
    "load_run",
    "make_target",
    "pull",
    "push",
    "resume",
    "run",
    "run_chain",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in ("errors", "interfaces"):
        return importlib.import_module(f"genfw.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'genfw' has no attribute '{name}'")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
