"""NVIDIA's pickled networks, read as data.

Such a file (``network-snapshot.pkl``) is a plain pickle of a program's objects, and loading it runs code that it
carries. Here :mod:`genfw.weights.pickled` reads it: for the few classes below a record of their attributes is made,
source code among them is a string like any other, and whatever else a file names is refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import DataError
from genfw.weights.pickled import Answer, Made, Storage, StoredTensor, read_pickle
from genfw.weights.torch_files import Published, open_published, read_legacy

__all__ = ["open_network"]

#: numpy's type codes -> torch's names.
_TYPES = {"f2": "float16", "f4": "float32", "f8": "float64", "i4": "int32", "i8": "int64", "u1": "uint8", "b1": "bool"}
_WIDTHS = {"float16": 2, "float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}

#: Networks in a file, by their place in the tuple that the TensorFlow program pickled.
_PLACES = ("G", "D", "Gs")


class _Type(Made):
    """A numpy dtype."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        code = str(given[0]).lstrip("<|=") if given else ""
        if code not in _TYPES:
            raise ValueError(f"numbers of numpy's type {given[:1]} are not known here")
        self.name = _TYPES[code]

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise ValueError("numbers in a byte order that is not this machine's")


class _Array(Made):
    """A numpy array: where its numbers lie, once they are there."""

    def __init__(self, numbers: dict[str, bytes]) -> None:
        self._numbers = numbers
        self.tensor: StoredTensor | None = None

    def build(self, state: Any) -> None:
        match state:
            case (_, tuple() as shape, _Type() as kind, columns, bytes() as raw):
                count = math.prod(shape)
                if len(raw) != count * _WIDTHS[kind.name]:
                    raise ValueError(f"an array of shape {shape} with {len(raw)} bytes")
                order = shape if columns else shape[::-1]
                steps = [math.prod(order[:place]) for place in range(len(order))]
                key = f"array{len(self._numbers)}"
                self._numbers[key] = raw
                stride = tuple(steps if columns else steps[::-1])
                self.tensor = StoredTensor(Storage(key, kind.name, count), 0, tuple(shape), stride)
            case _:
                raise ValueError("an array that numpy would not have written")


class _Network(Made):
    """A network of the TensorFlow program."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        if not isinstance(state, dict) or not {"variables", "static_kwargs", "components"} <= state.keys():
            raise ValueError("a network without variables, static_kwargs and components")
        self.state = state


@attrs.frozen
class _Module:
    """A network of the PyTorch program: its attributes."""

    state: Mapping[str, Any]


def _answers(numbers: dict[str, bytes]) -> dict[str, Answer]:
    """What stands for each class that such a file names; what lies in the numbers goes into ``numbers``."""

    def storage(given: tuple[Any, ...]) -> Storage:
        """A storage that was saved by torch inside the pickle."""
        if len(given) != 1 or not isinstance(given[0], bytes):
            raise ValueError("a storage that is no bytes")
        value, read = read_legacy(io.BytesIO(given[0]), memoryview(given[0]))
        if not isinstance(value, Storage):
            raise ValueError("something that is no storage where one was expected")
        key = f"storage{len(numbers)}"
        numbers[key] = bytes(read(value.key))
        return Storage(key, value.dtype, value.count)

    def module(given: tuple[Any, ...]) -> _Module:
        if len(given) != 1 or not isinstance(given[0], dict) or not isinstance(given[0].get("state"), dict):
            raise ValueError("a network without state")
        return _Module(given[0]["state"])

    def encoded(given: tuple[Any, ...]) -> bytes:
        if len(given) != 2 or given[1] != "latin1":
            raise ValueError("bytes in an encoding other than latin1")
        return str(given[0]).encode("latin1")

    def scalar(given: tuple[Any, ...]) -> _Array:
        array = _Array(numbers)
        array.build((1, (), *given[:1], False, *given[1:]))
        return array

    answers: dict[str, Answer] = {
        "torch_utils.persistence._reconstruct_persistent_obj": module,
        "torch.storage._load_from_bytes": storage,
        "_codecs.encode": encoded,
        "numpy.dtype": _Type,
        "numpy.ndarray": lambda given: _Array(numbers),
        "dnnlib.util.EasyDict": lambda given: {},
        "dnnlib.tflib.network.Network": lambda given: _Network(),
    }
    for core in ("numpy.core", "numpy._core"):
        answers[f"{core}.multiarray._reconstruct"] = lambda given: _Array(numbers)
        answers[f"{core}.multiarray.scalar"] = scalar
    return answers


@contextlib.contextmanager
def open_network(file: str | Path) -> Iterator[Published]:
    """Open NVIDIA's pickle of a network (PyTorch or TensorFlow), or what ``torch.save`` has written.

    Names are those of the program, after that of the network: ``G_ema.synthesis.b4.const``, ``Gs.mapping/Dense0/bias``.
    The arguments are those that the averaged generator was made with.

    Arguments:
        file: The file.

    Raises:
        DataError: It is none of these, is damaged, or wants code to run.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    with open(file, "rb") as handle:
        first = handle.read(64)
    if zipfile.is_zipfile(file) or not _begins_as_network(first):
        with open_published(file) as published:
            yield published
        return
    numbers: dict[str, bytes] = {}
    try:
        with open(file, "rb") as handle:
            value = read_pickle(handle, _answers(numbers))
        tensors, arguments = _networks(value)
        published = Published.of(tensors, numbers.__getitem__, arguments)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    yield published


def _begins_as_network(first: bytes) -> bool:
    """Whether a pickle begins with something else than the number that torch's older format begins with."""
    try:
        return not isinstance(read_pickle(io.BytesIO(first)), int)
    except DataError:
        return first[:1] == b"\x80"  # longer than what was looked at


def _networks(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Network -> name -> tensor, and the averaged generator's arguments."""
    if isinstance(value, (tuple, list)):
        value = dict(zip(_PLACES, value, strict=False))
    if isinstance(value, (_Network, _Module)):
        value = {"G_ema": value}
    if not isinstance(value, dict):
        raise DataError("the pickle holds no networks")
    tensors: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, _Network):
            tensors[str(name)] = dict(_variables(item))
            own = item.state["static_kwargs"]
        elif isinstance(item, _Module):
            tensors[str(name)] = dict(_parameters(item.state))
            own = item.state.get("_init_kwargs")
        else:
            continue
        if name in ("Gs", "G_ema") and isinstance(own, dict):
            arguments = dict(own)
    if not tensors:
        raise DataError("the pickle holds no networks that are known here")
    return tensors, arguments


def _variables(network: _Network, depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    for variable in network.state["variables"]:
        match variable:
            case (str() as name, _Array() as array) if array.tensor is not None:
                yield name, array.tensor
            case _:
                raise DataError("a variable of the network is no array")
    for name, part in dict(network.state["components"]).items():
        if not isinstance(part, _Network) or depth > 8:
            raise DataError("a component of the network is none")
        for inner, tensor in _variables(part, depth + 1):
            yield f"{name}/{inner}", tensor


def _parameters(state: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    for kind in ("_parameters", "_buffers"):
        for name, item in dict(state.get(kind) or {}).items():
            if isinstance(item, StoredTensor):
                yield str(name), item
    for name, part in dict(state.get("_modules") or {}).items():
        if part is None:
            continue
        if not isinstance(part, _Module) or depth > 32:
            raise DataError(f"the part '{name}' of a network is none that is known here")
        for inner, tensor in _parameters(part.state, depth + 1):
            yield f"{name}.{inner}", tensor
