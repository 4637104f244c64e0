"""genfw: energy-based models over generators, composed from a recipe.

Names are imported when they are first used (PEP 562), so that ``import genfw`` costs nothing and imports no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genfw import errors, interfaces
    from genfw.chains import Chain, ChainResult, run_chain
    from genfw.component import Component, Settings
    from genfw.compose import Composition, compose
    from genfw.engine import RunResult, load_run, resume, run
    from genfw.hookspecs import hookimpl
    from genfw.interfaces import (
        Amortizer,
        Dataset,
        Decoder,
        Encoder,
        Energy,
        Metric,
        OptimizerFactory,
        Prior,
        Sampler,
        Stage,
        Start,
        Tracker,
    )
    from genfw.likelihood import Deterministic, Gaussian, Likelihood
    from genfw.model import Model
    from genfw.plugins import Registry, load_plugins
    from genfw.recipe import Recipe, load_recipe
    from genfw.target import (
        DataTarget,
        FunctionTarget,
        JointTarget,
        NoiseTarget,
        PosteriorTarget,
        PriorTarget,
        Target,
        make_target,
    )
    from genfw.types import Batch, Latent, NoiseLayout

__version__ = "0.1.0"

#: Name -> the module it is taken from.
_EXPORTS = {
    **dict.fromkeys(("Chain", "ChainResult", "run_chain"), "genfw.chains"),
    **dict.fromkeys(("Component", "Settings"), "genfw.component"),
    **dict.fromkeys(("Composition", "compose"), "genfw.compose"),
    **dict.fromkeys(("RunResult", "load_run", "resume", "run"), "genfw.engine"),
    "hookimpl": "genfw.hookspecs",
    **dict.fromkeys(("Amortizer", "Dataset", "Decoder", "Encoder", "Energy", "Metric"), "genfw.interfaces"),
    **dict.fromkeys(("OptimizerFactory", "Prior", "Sampler", "Stage", "Start", "Tracker"), "genfw.interfaces"),
    **dict.fromkeys(("Deterministic", "Gaussian", "Likelihood"), "genfw.likelihood"),
    "Model": "genfw.model",
    **dict.fromkeys(("Registry", "load_plugins"), "genfw.plugins"),
    **dict.fromkeys(("Recipe", "load_recipe"), "genfw.recipe"),
    **dict.fromkeys(("DataTarget", "FunctionTarget", "JointTarget", "NoiseTarget"), "genfw.target"),
    **dict.fromkeys(("PosteriorTarget", "PriorTarget", "Target", "make_target"), "genfw.target"),
    **dict.fromkeys(("Batch", "Latent", "NoiseLayout"), "genfw.types"),
    "errors": "genfw.errors",
    "interfaces": "genfw.interfaces",
}

__all__ = [
    "Amortizer",
    "Batch",
    "Chain",
    "ChainResult",
    "Component",
    "Composition",
    "DataTarget",
    "Dataset",
    "Decoder",
    "Deterministic",
    "Encoder",
    "Energy",
    "FunctionTarget",
    "Gaussian",
    "JointTarget",
    "Latent",
    "Likelihood",
    "Metric",
    "Model",
    "NoiseLayout",
    "NoiseTarget",
    "OptimizerFactory",
    "PosteriorTarget",
    "Prior",
    "PriorTarget",
    "Recipe",
    "Registry",
    "RunResult",
    "Sampler",
    "Settings",
    "Stage",
    "Start",
    "Target",
    "Tracker",
    "__version__",
    "compose",
    "errors",
    "hookimpl",
    "interfaces",
    "load_plugins",
    "load_recipe",
    "load_run",
    "make_target",
    "resume",
    "run",
    "run_chain",
]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the submodule genfw/compose.py sets this attribute to it; the name belongs to the function.
        if name == "compose" and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'genfw' has no attribute '{name}'")
    module = importlib.import_module(_EXPORTS[name])
    value = module if name in ("errors", "interfaces") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
