"""Nested state of a run <-> named tensors and JSON: the two halves of a checkpoint, neither of which can hold code.

A state tree consists of dicts (with str or int keys), lists, tuples, tensors, ``None``, booleans, integers, floats and
strings. A round trip keeps values and types: tuples stay tuples, integer keys integers, and shared tensors shared. What
is :class:`~genfw.interfaces.values.Volatile` becomes ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genfw.errors import ContractError, RunError
from genfw.interfaces.values import Volatile

#: Key that marks a JSON object that is no plain dict.
_MARK = "$"

_STORED = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)

_COMPLEX = frozenset({torch.complex64, torch.complex128})


def split_tree(tree: Any, *, copies: bool = True) -> tuple[Any, dict[str, Tensor]]:
    """Split a state tree into a part for JSON and a part for safetensors.

    Arguments:
        tree: The state.
        copies: Copy the tensors as below; without it they are those of the tree, to see whether it can be saved.

    Returns:
        A JSON value that names tensors, and the tensors by name: contiguous, on the CPU, without shared memory. A
        tensor's name is its path in the tree, such as ``model/decoder.net.0.weight``.

    Raises:
        ContractError: The tree holds something of another type; the message says where.
    """
    return (writer := _Writer(copies)).encode(tree, ()), writer.tensors


def join_tree(structure: Any, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Any:
    """Inverse of :func:`split_tree`.

    Arguments:
        structure: The JSON value.
        tensors: The tensors by name.
        device: Device for tensors that were not on the CPU when saved; the others stay on the CPU.

    Raises:
        RunError: The two halves do not belong together.
    """
    return _Reader(tensors, torch.device(device)).decode(structure)


class _Writer:
    def __init__(self, copies: bool) -> None:
        self.copies = copies
        self.tensors: dict[str, Tensor] = {}
        # Tensors with the same memory and the same shape are one tensor (tied weights).
        self.names: dict[tuple[Any, ...], str] = {}
        # References to all sources: the address of a freed tensor could be reused.
        self.sources: list[Tensor] = []

    def encode(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        kind = type(value)
        if kind is Volatile:
            return None
        if value is None or kind in (bool, int, str):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {_MARK: "float", "value": repr(float(value))}
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if kind in (list, tuple, torch.Size):
            items = [self.encode(item, (*path, str(index))) for index, item in enumerate(value)]
            return items if kind is list else {_MARK: "tuple", "items": items}
        raise ContractError(
            f"a checkpoint can't hold the {kind.__name__} at '{'/'.join(path)}'; state is made of dicts, lists, "
            f"tuples, tensors, numbers, strings, booleans and None"
        )

    def _mapping(self, value: Mapping[Any, Any], path: tuple[str, ...]) -> Any:
        for key in value:
            if type(key) not in (str, int):
                raise ContractError(f"the dict at '{'/'.join(path)}' has the key {key!r}; keys of state are str or int")
        items = [(key, self.encode(item, (*path, str(key)))) for key, item in value.items()]
        if all(type(key) is str for key in value) and _MARK not in value:
            return dict(items)
        return {_MARK: "dict", "items": [list(item) for item in items]}

    def _tensor(self, value: Tensor, path: tuple[str, ...]) -> Any:
        if value.layout is not torch.strided or value.is_quantized or value.dtype not in _STORED | _COMPLEX:
            raise ContractError(
                f"a checkpoint can't hold the {value.dtype} tensor with layout {value.layout} at '{'/'.join(path)}'"
            )
        entry: dict[str, Any] = {_MARK: "tensor"}
        memory = (value.device, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and memory in self.names:
            entry["name"] = self.names[memory]
        else:
            entry["name"] = self._add(value, path)
            self.names[memory] = entry["name"]
        if value.dtype in _COMPLEX:
            entry["complex"] = True
        if value.device.type != "cpu":
            entry["moved"] = True
        return entry

    def _add(self, value: Tensor, path: tuple[str, ...]) -> str:
        name = base = "/".join(path) or "tensor"
        count = 1
        while name in self.tensors:  # {"a/b": t} and {"a": {"b": t}} have the same path
            name, count = f"{base}~{count}", count + 1
        self.sources.append(value)
        self.tensors[name] = self._copy(value) if self.copies else value
        return name

    @staticmethod
    def _copy(value: Tensor) -> Tensor:
        stored = value.detach().resolve_conj().resolve_neg()
        if stored.dtype in _COMPLEX:
            stored = torch.view_as_real(stored)
        stored = stored.cpu().contiguous()
        if stored.data_ptr() == value.data_ptr():  # the run's own memory, which two names may share
            stored = stored.clone()
        return stored


class _Reader:
    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.made: dict[str, Tensor] = {}

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value.get(_MARK):
            case None:
                return {key: self.decode(item) for key, item in value.items()}
            case "dict":
                return {key: self.decode(item) for key, item in value["items"]}
            case "tuple":
                return tuple(self.decode(item) for item in value["items"])
            case "float":
                return float(value["value"])
            case "tensor":
                return self._tensor(value)
            case other:
                raise RunError(
                    f"this checkpoint holds a '{other}', which this genfw does not know; install a newer genfw"
                )

    def _tensor(self, entry: dict[str, Any]) -> Tensor:
        name = entry["name"]
        if name not in self.made:
            if name not in self.tensors:
                raise RunError(f"the checkpoint's tensor file lacks '{name}', which its state names")
            stored = self.tensors[name]
            stored = torch.view_as_complex(stored) if entry.get("complex") else stored
            self.made[name] = stored.to(self.device) if entry.get("moved") else stored
        return self.made[name]
