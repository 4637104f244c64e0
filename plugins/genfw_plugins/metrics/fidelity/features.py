"""Features of many images, extracted once and shared by the metrics of an evaluation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genfw.evaluation.evaluation import Evaluation
from genfw.nn.torchvision import import_torchvision
from genfw.runs.tensors import save_tensors
from genfw_plugins.metrics.common.content import cache_folder, digest_of_settings
from genfw_plugins.metrics.common.pixels import Pixels
from genfw_plugins.metrics.fidelity.extractors import Extractor

_MEMORY: weakref.WeakKeyDictionary[Evaluation, dict[Any, Any]] = weakref.WeakKeyDictionary()


def remembered(evaluation: Evaluation, key: Any, make: Callable[[], Any]) -> Any:
    """What ``make`` gives, made once for each evaluation and key."""
    memory = _MEMORY.setdefault(evaluation, {})
    if key not in memory:
        memory[key] = make()
    return memory[key]


def extract(
    evaluation: Evaluation, extractor: Extractor, pixels: Pixels, batch: int, *, keep: bool
) -> dict[str, Tensor]:
    """Features of images, layer -> (N, F); the same numbers as torch-fidelity gives when called by itself.

    Arguments:
        evaluation: The evaluation, which remembers them.
        extractor: The extractor.
        pixels: The images.
        batch: Images at once; part of what the last bits depend on.
        keep: Keep them over runs too, by content: for data, which many runs are compared with.
    """
    name = _name(evaluation, extractor, pixels, batch)

    def make() -> dict[str, Tensor]:
        path = _path(evaluation, f"features-{name}") if keep else None
        return _kept(path, lambda: extract_batches(evaluation, extractor, pixels, batch))

    found: dict[str, Tensor] = remembered(evaluation, ("features", name), make)
    return found


def extract_batches(evaluation: Evaluation, extractor: Extractor, pixels: Pixels, batch: int) -> dict[str, Tensor]:
    """Features of images, layer -> (N, F), remembered nowhere; see :func:`extract`."""
    # As torch-fidelity's own loop, but into memory that is laid out beforehand: a tensor kept for each batch, between
    # those that are given back, leaves the heap in pieces, and memory grows by far more than the features.
    found: dict[str, Tensor] = {}
    repeat = extractor.rgb and pixels.shape[0] == 1  # as torch-fidelity does with grey files
    with torch.no_grad():
        for first in range(0, len(pixels), batch):
            index = range(first, min(first + batch, len(pixels)))
            images = pixels.read(index).to(evaluation.device if evaluation.device.type == "cuda" else "cpu")
            layers = extractor.module(images.expand(-1, 3, -1, -1).contiguous() if repeat else images)
            for name, layer in zip(extractor.layers, layers, strict=True):
                whole = found.setdefault(name, torch.empty(len(pixels), *layer.shape[1:], dtype=layer.dtype))
                whole[index.start : index.stop] = layer.cpu()
    return found


def statistics(
    evaluation: Evaluation, extractor: Extractor, pixels: Pixels, layer: str, batch: int, *, keep: bool
) -> dict[str, Any]:
    """Mean and covariance of a layer's features, as torch-fidelity makes them for the Fréchet distance.

    Arguments:
        evaluation: The evaluation.
        extractor: The extractor.
        pixels: The images.
        layer: The layer.
        batch: See :func:`extract`.
        keep: See :func:`extract`.

    Returns:
        ``mu``, with shape (F,), and ``sigma``, with shape (F, F), of NumPy.
    """
    module = import_torchvision("torch_fidelity.metric_fid")
    name = f"statistics-{_name(evaluation, extractor, pixels, batch)}-{layer}"

    def make() -> dict[str, Tensor]:
        features = extract(evaluation, extractor, pixels, batch, keep=keep)[layer]
        made = module.fid_features_to_statistics(features)
        return {key: torch.from_numpy(np.atleast_1d(value)) for key, value in made.items()}

    found = remembered(evaluation, name, lambda: _kept(_path(evaluation, name) if keep else None, make))
    return {key: value.numpy() for key, value in found.items()}


def _name(evaluation: Evaluation, extractor: Extractor, pixels: Pixels, batch: int) -> str:
    facts = {
        "pixels": pixels.digest,
        "count": len(pixels),
        "extractor": extractor.name,
        "weights": extractor.digest,
        "layers": list(extractor.layers),
        "batch": batch,
        "device": evaluation.device.type,
        "torch": str(torch.__version__),
        "torch-fidelity": import_torchvision("torch_fidelity").__version__,
    }
    return digest_of_settings(facts)[:32]


def _path(evaluation: Evaluation, name: str) -> Path | None:
    folder = cache_folder(evaluation, "features")
    return None if folder is None else folder / f"{name}.safetensors"


def _kept(path: Path | None, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    if path is not None and path.is_file():
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError):
            pass  # damaged: made anew
    found = make()
    if path is not None:
        save_tensors(path, found)
    return found
