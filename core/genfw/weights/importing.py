"""Weights that others have published, made into safetensors and a card; nothing in their file is executed.

A checkpoint is read by :mod:`genfw.weights.torch_files`; a plugin's importer gives its tensors the names of genfw's
modules, ``energy.stem.bias``, ``decoder...``: the role, then the name inside the module of that role.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from genfw.errors import DataError, PluginError, quoted, shown
from genfw.plugins.component import Importer
from genfw.runs.files import hash_file, write_atomically
from genfw.runs.tensors import save_tensors
from genfw.weights.load import ROLES
from genfw.weights.pickled import Inert
from genfw.weights.torch_files import Tensors, open_published


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


def import_checkpoint(
    importers: Sequence[Importer], file: str | Path, out: str | Path | None = None, pick: Sequence[str] = ()
) -> Imported:
    """Convert a published checkpoint.

    Arguments:
        importers: Who knows its names: those of one name, one for each part
            (:meth:`genfw.plugins.registry.Registry.find_importers`).
        file: The checkpoint.
        out: The safetensors file to write, its card beside it with ``.json`` in place of the ending; by default named
            after importer and file, in the working directory.
        pick: Which networks to take where the file holds several of one kind, by their place in it: ``ema``.

    Raises:
        DataError: The file is no checkpoint, is damaged, wants code to run, or is not of this kind; its weights are
            not finite; it holds several networks, and ``pick`` does not choose among them.
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
        published.tensors.picks = pick
        for convert in converters:
            conversion = convert(published.tensors, published.arguments)
            tensors |= conversion.tensors
            architecture |= conversion.architecture
        unused = sorted(set(published.tensors) - published.tensors.used)
        networks = published.tensors.networks
    for one in pick:
        if not any(_is_at(place, one) for place in networks):
            raise DataError(
                f"there is no network '{one}' in {file} that importer '{kind}' reads; it found {quoted(networks)}"
            )
    strange = [name for name in tensors if name.partition(".")[0] not in ROLES]
    if strange:
        raise PluginError(f"importer '{kind}' gives tensors of no role ({', '.join(ROLES)}): {', '.join(strange[:3])}")
    if not tensors:
        raise DataError(f"{file} holds nothing that importer '{kind}' knows; its tensors are {', '.join(unused[:5])}")
    _refuse_not_finite(tensors, file)
    content = {
        "format": 1,
        "kind": kind,
        "importers": [f"{one.provider}/{one.name} {one.version} ({one.target})" for one in importers],
        "source": file.name,
        "sha256": hash_file(file),
        "picked": list(pick),
        "architecture": _plain(architecture),
        "arguments": _plain(published.arguments),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "unused": unused,
    }
    head = json.dumps({name: content[name] for name in ("kind", "sha256", "architecture")})
    save_tensors(target, tensors, {"genfw": head})
    card = target.with_suffix(".json")
    write_atomically(card, json.dumps(content, indent=2) + "\n")
    return Imported(target, card, content)


def _refuse_not_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Weights of a training that diverged would give NaN wherever they are used, and nobody would know why."""
    bad = {name: int((~tensor.isfinite()).sum()) for name, tensor in tensors.items()}
    names = [name for name, count in bad.items() if count]
    if names:
        first = names[0]
        raise DataError(
            f"{file} holds weights that are not finite: {bad[first]:,} of {tensors[first].numel():,} numbers of "
            f"'{shown(first)}', and {len(names) - 1} more tensors; was it saved after its training diverged?"
        )


def _load(importer: Importer, target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"importer '{importer.name}' of {importer.provider} can't be imported: {error}") from error
    return function


def _plain(value: Any) -> Any:
    """A value of the argument record as JSON has it; what is none is told by its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Inert):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else shown(value)


def choose(tensors: Mapping[str, Tensor], places: Sequence[str], what: str, default: str | None = None) -> str | None:
    """The one network that an importer should read, of those of its kind in a file.

    Arguments:
        tensors: What the importer was given; these know what the user has picked.
        places: What stands before the names of each network's own tensors, such as ``ema.``; empty for the top.
        what: The word for such a network in a message.
        default: The place to take where there are several and none is picked.

    Returns:
        One of the places; None where there is none.

    Raises:
        DataError: There are several, and neither a pick nor the default is one of them. The message names them.
    """
    names = {place.removesuffix(".") or ".": place for place in places}
    picks = tensors.picks if isinstance(tensors, Tensors) else ()
    if isinstance(tensors, Tensors):
        tensors.networks.extend(names)
    picked = [name for name in names if any(_is_at(name, pick) for pick in picks)]
    left = picked or list(names)
    if not left:
        return None
    if len(left) == 1:
        return names[left[0]]
    if default in places and not picked:
        return default
    raise DataError(f"one {what} was expected, the file has {len(left)}; choose one by --pick: {quoted(left)}")


def _is_at(name: str, pick: str) -> bool:
    return name == pick or name.startswith(f"{pick}.")


def sequential(tensors: Mapping[str, Tensor], name: str, what: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The one network in a checkpoint whose layers are called ``name.0``, ``name.1``, ..., wherever it stands.

    Arguments:
        tensors: Every tensor of the file by its path, keys joined by ``.``.
        name: The network's own name, such as ``gen``.
        what: The word for it in a message.

    Returns:
        Its tensors by their names from ``name`` on, and its layers' weights in order; both empty where there is none.

    Raises:
        DataError: There are several in the file, and none is picked.
    """
    first = f"{name}.0.weight"
    place = choose(tensors, [path.removesuffix(first) for path in tensors if f".{path}".endswith(f".{first}")], what)
    if place is None:
        return {}, []
    own = {path.removeprefix(place): tensors[path] for path in tensors if path.startswith(f"{place}{name}.")}
    return own, [own[key] for key in sorted(own, key=lambda key: int(key.split(".")[1])) if key.endswith(".weight")]
