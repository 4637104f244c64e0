"""Import torchvision even where its compiled operators do not fit torch, as with a CPU-only torch."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

import torch

from genfw.errors import PluginError

# torchvision names these two in decorators at import, and fails if they are unknown; data sets call neither.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_lock = threading.Lock()
# The definitions live as long as the library object.
_library: torch.library.Library | None = None


def prepare() -> None:
    """Make ``import torchvision`` possible; call it before torchvision or anything that imports it (torch-fidelity).

    Where torchvision's operators load, or torchvision is absent, nothing is changed. Otherwise the schemas of its
    operators ``nms`` and ``qnms`` are defined without kernels: calling them raises torch's "not implemented" error.
    """
    global _library
    with _lock:
        if "torchvision" in sys.modules or hasattr(torch.ops.torchvision, "nms"):
            return
        spec = importlib.util.find_spec("torchvision")
        if spec is None or spec.origin is None or _load_operators(Path(spec.origin).parent):
            return
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """Import torchvision, or one of its modules.

    Arguments:
        module: Full name, such as ``torchvision.datasets``.

    Raises:
        PluginError: torchvision is not installed.
    """
    prepare()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise PluginError(
            "torchvision is not installed; install the version that fits your torch, "
            "https://pytorch.org/get-started/locally"
        ) from error


def _load_operators(folder: Path) -> bool:
    """Load torchvision's compiled operators, as its own import does; false where they are absent or don't fit."""
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    spec = importlib.machinery.FileFinder(str(folder), loader).find_spec("_C")
    if spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(spec.origin)
    except (ImportError, OSError):
        return False
    return hasattr(torch.ops.torchvision, "nms")
