"""Weights that others have published, made into safetensors and a card; nothing in their file is executed.

A checkpoint is read by :mod:`genfw.weights.torch_files`; a plugin's importer gives its tensors the names of genfw's
modules, ``energy.stem.bias``, ``decoder...``: the role, then the name inside the module of that role.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from safetensors.torch import save_file
from torch import Tensor

from genfw.errors import DataError, PluginError
from genfw.plugins.component import Importer
from genfw.runs.files import hash_file, write_atomically
from genfw.weights.load import ROLES
from genfw.weights.torch_files import open_published

__all__ = ["Conversion", "Imported", "import_checkpoint", "sequential"]


@attrs.frozen(eq=False)
class Conversion:
    """What an importer makes of a checkpoint.

    Arguments:
        tensors: ``role.name`` -> tensor, with the names of the genfw modules of those roles.
        architecture: Role -> the recipe block that builds the module the tensors fit.
    """

    tensors: Mapping[str, Tensor]
    architecture: Mapping[str, Any]


@attrs.frozen
class Imported:
    """What ``genfw import`` has written.

    Arguments:
        weights: The safetensors file.
        card: The JSON file beside it.
        content: What the card says.
    """

    weights: Path
    card: Path
    content: Mapping[str, Any]


def import_checkpoint(importers: Sequence[Importer], file: str | Path, out: str | Path | None = None) -> Imported:
    """Convert a published checkpoint.

    Arguments:
        importers: Who knows its names: those of one name, one for each part
            (:meth:`genfw.plugins.registry.Registry.find_importers`).
        file: The checkpoint.
        out: The safetensors file to write, its card beside it with ``.json`` in place of the ending; by default named
            after importer and file, in the working directory.

    Raises:
        DataError: The file is no checkpoint, is damaged, wants code to run, or is not of this kind.
        PluginError: An importer can't be used.
    """
    file, kind = Path(file), importers[0].name
    target = Path(f"{kind}-{file.stem}.safetensors") if out is None else Path(out)
    if target.suffix != ".safetensors":
        raise DataError(f"weights are written as safetensors, so --out ends in .safetensors; got {target}")
    for path in (target, target.with_suffix(".json")):
        if path.exists():
            raise DataError(f"{path} is there already; name another file with --out")
    converters = [_load(importer, importer.target) for importer in importers]
    openers = {importer.opener: importer for importer in importers if importer.opener}
    if len(openers) > 1:
        raise PluginError(f"importers of '{kind}' disagree about who opens the file: {', '.join(openers)}")
    opened = next((_load(importer, opener) for opener, importer in openers.items()), open_published)
    tensors: dict[str, Tensor] = {}
    architecture: dict[str, Any] = {}
    with opened(file) as published:
        for convert in converters:
            conversion = convert(published.tensors, published.arguments)
            tensors |= conversion.tensors
            architecture |= conversion.architecture
        unused = sorted(set(published.tensors) - published.tensors.used)
    strange = [name for name in tensors if name.partition(".")[0] not in ROLES]
    if strange:
        raise PluginError(f"importer '{kind}' gives tensors of no role ({', '.join(ROLES)}): {', '.join(strange[:3])}")
    if not tensors:
        raise DataError(f"{file} holds nothing that importer '{kind}' knows; its tensors are {', '.join(unused[:5])}")
    content = {
        "format": 1,
        "kind": kind,
        "importers": [f"{one.provider}/{one.name} {one.version} ({one.target})" for one in importers],
        "source": file.name,
        "sha256": hash_file(file),
        "architecture": architecture,
        "arguments": _plain(published.arguments),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "unused": unused,
    }
    _write(target, tensors, {"genfw": json.dumps({name: content[name] for name in ("kind", "sha256", "architecture")})})
    card = target.with_suffix(".json")
    write_atomically(card, json.dumps(content, indent=2) + "\n")
    return Imported(target, card, content)


def _load(importer: Importer, target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"importer '{importer.name}' of {importer.provider} can't be imported: {error}") from error
    return function


def _write(target: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        # Copies: safetensors refuses two names for one memory.
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, part, metadata)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A value of the argument record as JSON has it; what is none is told by its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else f"<{type(value).__name__}>"


def sequential(tensors: Mapping[str, Tensor], name: str, what: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The one network in a checkpoint whose layers are called ``name.0``, ``name.1``, ..., wherever it stands.

    Arguments:
        tensors: Every tensor of the file by its path, keys joined by ``.``.
        name: The network's own name, such as ``gen``.
        what: The word for it in a message.

    Returns:
        Its tensors by their names from ``name`` on, and its layers' weights in order; both empty where there is none.

    Raises:
        DataError: There are several in the file.
    """
    first = f"{name}.0.weight"
    prefixes = [path.removesuffix(first) for path in tensors if f".{path}".endswith(f".{first}")]
    if not prefixes:
        return {}, []
    if len(prefixes) > 1:
        raise DataError(f"one {what} was expected, the file has {', '.join(prefix + name for prefix in prefixes)}")
    start = f"{prefixes[0]}{name}."
    own = {path.removeprefix(prefixes[0]): tensors[path] for path in tensors if path.startswith(start)}
    return own, [own[key] for key in sorted(own, key=lambda key: int(key.split(".")[1])) if key.endswith(".weight")]
