"""Weights that others have published, made into safetensors and a card; nothing in their file is executed.

A checkpoint written by ``torch.save``, in the zip format or the one before it, is read by :mod:`genfw.pickled`; a
plugin's importer gives its tensors the names of genfw's modules, ``energy.stem.bias``, ``decoder...``: the role, then
the name inside the module of that role.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import math
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genfw.component import Importer
from genfw.errors import ContractError, DataError, PluginError
from genfw.files import write_atomically
from genfw.interfaces import Amortizer, Decoder, Encoder, Energy, Prior
from genfw.model import Model
from genfw.pickled import Arguments, RefusedError, Storage, StoredTensor, read_pickle

__all__ = [
    "Conversion",
    "Imported",
    "Published",
    "import_checkpoint",
    "load_into",
    "open_published",
    "read_legacy",
]

_ROLES: Mapping[str, type[nn.Module]] = {
    "prior": Prior,
    "decoder": Decoder,
    "encoder": Encoder,
    "energy": Energy,
    "amortizer": Amortizer,
}

#: How a file in the format before the zip format begins: a magic number and a version, each pickled.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

#: More values, or deeper ones, than any checkpoint has: a file that goes beyond is meant to exhaust the reader.
_MOST_VALUES, _DEEPEST = 2_000_000, 64
_LARGEST_PICKLE = 512 * 1024 * 1024


@attrs.frozen(eq=False)
class Conversion:
    """What an importer makes of a checkpoint.

    Arguments:
        tensors: ``role.name`` -> tensor, with the names of the genfw modules of those roles.
        architecture: Role -> the recipe block that builds the module the tensors fit.
    """

    tensors: Mapping[str, Tensor]
    architecture: Mapping[str, Any]


@attrs.frozen(eq=False)
class Published:
    """A published checkpoint, open for reading.

    Arguments:
        tensors: Every tensor by its path in the file, keys joined by ``.``; read when it is asked for.
        arguments: Its argument record, empty where it has none.
    """

    tensors: _Tensors
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls, value: Any, numbers: Callable[[str], bytes | memoryview], arguments: Mapping[str, Any] | None = None
    ) -> Published:
        """What was read of a file, made ready for importers.

        Arguments:
            value: Containers, with :class:`~genfw.pickled.StoredTensor` in them, and argument records.
            numbers: Key of a storage -> its bytes.
            arguments: Further arguments, which go before those of records.
        """
        tensors: dict[str, StoredTensor] = {}
        record: dict[str, Any] = {}
        for path, item in _walk(value):
            if isinstance(item, StoredTensor):
                tensors[path] = item
            elif isinstance(item, Arguments):
                record.update(item)
        return cls(_Tensors(tensors, numbers), record | dict(arguments or {}))


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
            (:meth:`genfw.registry.Registry.find_importers`).
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
    strange = [name for name in tensors if name.partition(".")[0] not in _ROLES]
    if strange:
        raise PluginError(f"importer '{kind}' gives tensors of no role ({', '.join(_ROLES)}): {', '.join(strange[:3])}")
    if not tensors:
        raise DataError(f"{file} holds nothing that importer '{kind}' knows; its tensors are {', '.join(unused[:5])}")
    with open(file, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    content = {
        "format": 1,
        "kind": kind,
        "importers": [f"{one.provider}/{one.name} {one.version} ({one.target})" for one in importers],
        "source": file.name,
        "sha256": digest,
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


# -- into modules -----------------------------------------------------------------------------------------------------


def load_into(module: nn.Module, file: str | Path, roles: Sequence[str] | None = None) -> tuple[str, ...]:
    """Load imported weights into a model, or into one of its parts.

    Every parameter must be in the file, with its shape, and everything in the file must be used. Buffers that the file
    lacks (vectors of a power iteration) stay as they are.

    Arguments:
        module: A :class:`~genfw.Model`, or a prior, decoder, encoder, energy or amortizer.
        file: What ``genfw import`` has written.
        roles: Parts of the model to load, of those the file has; all of them where absent.

    Returns:
        Names of the buffers that the file does not have.

    Raises:
        DataError: There is no such file, or it was not written by ``genfw import``.
        ContractError: It does not fit the module.
    """
    tensors = _read(Path(file))
    if isinstance(module, Model):
        parts: dict[str, nn.Module | None] = {
            "prior": module.prior,
            "decoder": module.decoder,
            "encoder": module.encoder,
            "energy": module.energies[0] if len(module.energies) == 1 else None,
            "amortizer": module.amortizer,
        }
        wanted = list(tensors) if roles is None else list(roles)
    else:
        parts = {role: module for role, interface in _ROLES.items() if isinstance(module, interface)}
        wanted = list(parts) if roles is None else list(roles)
    kept: list[str] = []
    for role in wanted:
        part = parts.get(role)
        if part is None or role not in tensors:
            raise ContractError(
                f"there is nothing to load as '{role}': {file} has {', '.join(tensors)}, and "
                f"{type(module).__name__} has {', '.join(name for name, value in parts.items() if value is not None)}"
            )
        kept += [f"{role}.{name}" for name in _fill(part, tensors[role], f"{file}, {role}")]
    return tuple(kept)


def _read(file: Path) -> dict[str, dict[str, Tensor]]:
    """Role -> name -> tensor."""
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    tensors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                role, _, rest = name.partition(".")
                tensors.setdefault(role, {})[rest] = opened.get_tensor(name)
    except Exception as error:  # safetensors has an exception of its own, of no public base
        raise DataError(f"{file} is not a safetensors file ({error}); genfw import writes one") from error
    if not set(tensors) <= set(_ROLES):
        raise DataError(f"{file} was not written by genfw import: it has tensors of {', '.join(sorted(tensors))}")
    return tensors


def _fill(part: nn.Module, tensors: Mapping[str, Tensor], where: str) -> list[str]:
    own = part.state_dict()
    problems = [f"'{name}' is not in the module" for name in tensors if name not in own]
    problems += [f"'{name}' is not in the file" for name, _ in part.named_parameters() if name not in tensors]
    problems += [
        f"'{name}' has shape {tuple(own[name].shape)} in the module and {tuple(tensor.shape)} in the file"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ContractError(f"{where} does not fit {type(part).__name__}: {'; '.join(problems[:3])}{more}")
    part.load_state_dict(dict(tensors), strict=False)
    return [name for name in own if name not in tensors]


# -- out of published files -------------------------------------------------------------------------------------------


class _Tensors(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for, and remembered by name as used."""

    def __init__(self, described: Mapping[str, StoredTensor], numbers: Callable[[str], bytes | memoryview]) -> None:
        self._described, self._numbers = described, numbers
        self.used: set[str] = set()

    def __len__(self) -> int:
        return len(self._described)

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __contains__(self, name: object) -> bool:
        return name in self._described  # Mapping's own would read the tensor, and count it as used

    def __getitem__(self, name: str) -> Tensor:
        described = self._described[name]
        storage = described.storage
        dtype: torch.dtype = getattr(torch, storage.dtype)
        raw = self._numbers(storage.key)
        if len(raw) != storage.count * dtype.itemsize:
            raise DataError(f"tensor '{name}' needs {storage.count} numbers, and {len(raw)} bytes are there")
        last = described.offset + sum((n - 1) * s for n, s in zip(described.size, described.stride, strict=True))
        if 0 not in described.size and (last >= storage.count or math.prod(described.size) > storage.count):
            raise DataError(f"tensor '{name}' of shape {described.size} reaches beyond its {storage.count} numbers")
        self.used.add(name)
        if 0 in described.size:
            return torch.empty(described.size, dtype=dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)
        return flat.as_strided(described.size, described.stride, described.offset).clone()


@contextlib.contextmanager
def open_published(file: str | Path) -> Iterator[Published]:
    """Open a checkpoint that ``torch.save`` has written, in either format; its tensors can be read inside the block.

    Arguments:
        file: The checkpoint.

    Raises:
        DataError: It is no checkpoint, is damaged, or wants code to run.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        with contextlib.ExitStack() as stack:
            numbers: Callable[[str], bytes | memoryview]
            if zipfile.is_zipfile(file):
                value, numbers = _open_zip(stack.enter_context(zipfile.ZipFile(file)))
            else:
                handle = stack.enter_context(open(file, "rb"))
                value, numbers = _open_legacy(handle)
            yield Published.of(value, numbers)
    except (DataError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: {error}") from error


def _open_zip(archive: zipfile.ZipFile) -> tuple[Any, Callable[[str], bytes]]:
    names = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DataError("this archive was not written by torch.save: it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def entry(name: str, most: int | None = None) -> bytes:
        info = names.get(folder + name)
        if info is None:
            raise DataError(f"the archive has no {folder}{name}")
        # torch stores and never compresses; a small file that unpacks to a huge one is no checkpoint.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > (most or info.compress_size):
            raise DataError(f"{folder}{name} is compressed or too large; torch.save writes neither")
        return archive.read(info)

    order = entry("byteorder", 64) if f"{folder}byteorder" in names else b"little"
    if order.decode("ascii", "replace") != sys.byteorder:
        raise DataError(f"its numbers are in {order!r} byte order, which this machine does not have")
    return read_pickle(io.BytesIO(entry("data.pkl", _LARGEST_PICKLE))), lambda key: entry(f"data/{key}")


def _open_legacy(handle: io.BufferedReader) -> tuple[Any, Callable[[str], memoryview]]:
    if handle.seek(0, os.SEEK_END) == 0:
        raise DataError("the file is empty")
    # Mapped, not read: a length that a damaged file states can't make us ask for that much memory.
    mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    return read_legacy(mapped, memoryview(mapped))  # type: ignore[arg-type]


def read_legacy(stream: IO[bytes], whole: memoryview) -> tuple[Any, Callable[[str], memoryview]]:
    """What ``torch.save`` wrote before the zip format: pickles, then the numbers.

    Arguments:
        stream: Opened at the first byte.
        whole: The same bytes.

    Returns:
        The value, and what gives the bytes of a storage by its key.

    Raises:
        DataError: It is no such file, is damaged, or wants code to run.
    """
    try:
        known = read_pickle(stream) == _LEGACY_MAGIC and read_pickle(stream) == _LEGACY_VERSION
    except RefusedError:
        raise
    except DataError:
        known = False
    if not known:
        raise DataError("this is no checkpoint of torch.save, neither a zip archive nor the format before it")
    system, value, keys = (read_pickle(stream) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise DataError("its numbers are in a byte order that this machine does not have")
    items = (item for _, item in _walk(value))
    storages = (item.storage if isinstance(item, StoredTensor) else item for item in items)
    counts = {item.key: item for item in storages if isinstance(item, Storage)}
    places: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys if isinstance(keys, list) else ():
        if key not in counts or position + 8 > len(whole):
            raise DataError(f"the numbers '{key}' can't be found: the file is damaged or cut short")
        (count,) = struct.unpack_from("<q", whole, position)
        size = count * getattr(torch, counts[key].dtype).itemsize
        if not 0 <= size <= len(whole) - position - 8:
            raise DataError(f"the numbers '{key}' are cut short")
        places[key] = (position + 8, size)
        position += 8 + size

    def numbers(key: str) -> memoryview:
        if key not in places:
            raise DataError(f"the file lacks the numbers '{key}'")
        start, size = places[key]
        return whole[start : start + size]

    return value, numbers


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Everything inside a value that is no container, and argument records, by path."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    visited = 0
    while waiting:
        path, item, depth = waiting.pop()
        visited += 1
        if visited > _MOST_VALUES or depth > _DEEPEST:
            raise DataError("it is nested too deep or has too many values to be a checkpoint")
        if isinstance(item, Arguments) or not isinstance(item, (dict, list, tuple)):
            yield path, item
            continue
        inside = item.items() if isinstance(item, dict) else enumerate(item)
        waiting += [(f"{path}.{key}" if path else str(key), part, depth + 1) for key, part in reversed([*inside])]
