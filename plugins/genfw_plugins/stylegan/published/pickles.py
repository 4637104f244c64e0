"""NVIDIA's pickled networks, read as data.

Such a file (``network-snapshot.pkl``) is a plain pickle of a program's objects, and loading it runs code that it
carries. Here :mod:`genfw.weights.pickled` reads it: for the few classes below it keeps the tensors of their objects,
source code among their attributes is a string like any other, and whatever else a file names is refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from genfw.errors import DataError
from genfw.weights.pickled import Answer, Arguments, Inert, Items, NumpyType, StoredTensor, read_pickle
from genfw.weights.torch_files import LEGACY_MAGIC, Published, map_file, open_published, read_legacy

#: Networks in a file, by their place in the tuple that the TensorFlow program pickled.
_PLACES = ("G", "D", "Gs")


class _Array(Inert):
    """A numpy array.

    Attributes:
        tensor: The same as a tensor; None where torch has no such numbers.
    """

    tensor: StoredTensor | None = None

    def build(self, state: Any) -> None:
        """Take over shape and numbers."""
        match state:
            case (_, tuple() as shape, NumpyType(dtype=dtype), columns, bytes() as raw) if dtype is not None:
                count = math.prod(shape)
                order = shape if columns else shape[::-1]
                steps = [math.prod(order[:place]) for place in range(len(order))]
                self.tensor = StoredTensor(
                    dtype, count, lambda: raw, 0, shape, tuple(steps if columns else steps[::-1])
                )


class _Network(Items):
    """A network: its tensors and parts by name.

    Attributes:
        arguments: What the network was made with.
    """

    arguments: Any = None

    def build(self, state: Any) -> None:
        """Take over the state of a network of the TensorFlow program."""
        if not isinstance(state, dict) or not {"variables", "static_kwargs", "components"} <= state.keys():
            raise ValueError("a network without variables, static_kwargs and components")
        for name, array in state["variables"]:
            if not isinstance(array, _Array) or array.tensor is None:
                raise ValueError("a variable of the network is no array of numbers")
            self[name] = array.tensor
        self._take(state["components"])
        self.arguments = state["static_kwargs"]

    @classmethod
    def of_module(cls, meta: Any) -> _Network:
        """A network of the PyTorch program."""
        if not isinstance(meta, dict) or not isinstance(state := meta.get("state"), dict):
            raise ValueError("a network without state")
        network = cls()
        for kind in ("_parameters", "_buffers"):
            network.update((name, each) for name, each in (state.get(kind) or {}).items() if each is not None)
        network._take(state.get("_modules") or {})
        network.arguments = state.get("_init_kwargs")
        return network

    def _take(self, parts: Mapping[Any, Any]) -> None:
        for name, part in parts.items():
            if not isinstance(part, _Network | None):
                raise ValueError(f"the part '{name}' of a network is none that is known here")
            self[name] = part


def _scalar(kind: Any, raw: Any) -> _Array:
    array = _Array("numpy.generic")
    array.build((1, (), kind, False, raw))
    return array


def _array(*given: Any) -> _Array:
    return _Array("numpy.ndarray")


_ANSWERS: Final[Mapping[str, Answer]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _Network.of_module,
    # What torch saved inside the pickle.
    "torch.storage._load_from_bytes": lambda raw: read_legacy(io.BytesIO(raw), memoryview(raw)),
    "numpy.ndarray": _array,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    "dnnlib.util.EasyDict": Items,
    "dnnlib.tflib.network.Network": _Network,
}


@contextlib.contextmanager
def open_network(file: str | Path) -> Iterator[Published]:
    """Open NVIDIA's pickle of a network (PyTorch or TensorFlow), or what ``torch.save`` has written.

    Names are those of the program, after that of the network: ``G_ema.synthesis.b4.const``, ``Gs.mapping.Dense0/bias``.
    The arguments are those that the averaged generator was made with.

    Arguments:
        file: The file.

    Raises:
        DataError: It is none of these, is damaged, or wants code to run.
    """
    file = Path(file)
    mapped = map_file(file)
    if zipfile.is_zipfile(file) or not _begins_as_network(mapped[:64]):
        with open_published(file) as published:
            yield published
        return
    try:
        published = Published.of(_networks(read_pickle(mapped, _ANSWERS)))
        yield published
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _begins_as_network(start: bytes) -> bool:
    """Whether a pickle begins with something else than the number that torch's older format begins with."""
    try:
        return start[:1] == b"\x80" and read_pickle(io.BytesIO(start)) != LEGACY_MAGIC
    except DataError:
        return True  # longer than what was looked at


def _networks(value: Any) -> Items:
    """The networks of a file by name, and the averaged generator's arguments."""
    if isinstance(value, (tuple, list)):
        value = dict(zip(_PLACES, value, strict=False))
    named = value if isinstance(value, dict) and not isinstance(value, _Network) else {"G_ema": value}
    found = Items((name, each) for name, each in named.items() if isinstance(each, _Network))
    if not found:
        raise DataError("the pickle holds no networks that are known here")
    averaged = found.get("G_ema", found.get("Gs"))
    if averaged is not None and isinstance(averaged.arguments, dict):
        found["arguments"] = Arguments(averaged.arguments)
    return found
