"""Read the pickles inside published checkpoints as data: an interpreter that can build values and call nothing.

Python's own unpickler imports and calls what the file names. This one knows the opcodes that make plain values, and
answers the few globals of a torch checkpoint (:data:`KNOWN`) with records of its own; any other opcode or global is
refused by name before anything else is read.
"""

from __future__ import annotations

import abc
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, Final, TypeVar

import attrs

from genfw.errors import DataError

__all__ = ["KNOWN", "Answer", "Arguments", "Made", "RefusedError", "Storage", "StoredTensor", "read_pickle"]

_Container = TypeVar("_Container", dict[Any, Any], list[Any], set[Any])

#: Storage classes of torch -> the dtype they stand for.
_STORAGES: Final[Mapping[str, str]] = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

#: Everything a file may name; each is answered with a plain value, never imported.
KNOWN: Final = frozenset(
    {
        "collections.OrderedDict",
        "argparse.Namespace",
        "builtins.set",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        *(f"torch.{name}" for name in _STORAGES),
        *(f"torch.cuda.{name}" for name in _STORAGES),
    }
)


#: Makes, of the arguments that a global was called with, the plain value that stands for its object.
Answer = Callable[[tuple[Any, ...]], Any]


class RefusedError(DataError):
    """A file asks for something that a checkpoint has no need of: code to run, most of all."""


@attrs.frozen
class Storage:
    """Numbers that lie elsewhere in the file.

    Arguments:
        key: Their name there.
        dtype: Name of their torch dtype.
        count: How many there are.
    """

    key: str
    dtype: str
    count: int


@attrs.frozen
class StoredTensor:
    """A tensor as the file describes it: a view of a storage.

    Arguments:
        storage: Its numbers.
        offset: First number.
        size: Shape.
        stride: Steps between neighbours, per dimension.
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Made(abc.ABC):
    """What an :data:`Answer` gives for an object whose attributes the file sets afterwards."""

    @abc.abstractmethod
    def build(self, state: Any) -> None:
        """Take over the attributes; a ValueError says that they are not what such an object has."""


class Arguments(dict[str, Any]):
    """The attributes of an ``argparse.Namespace``."""


@attrs.frozen
class _Named:
    """A global that the file names, and that stays a name."""

    name: str


class _Mark:
    """What MARK puts on the stack."""


def read_pickle(file: IO[bytes], answers: Mapping[str, Answer] | None = None) -> Any:
    """The value that one pickle describes; ``file`` then stands behind it.

    Arguments:
        file: Opened at the pickle's first byte.
        answers: Further globals that the file may name, each with the reader's own function that answers for it.

    Returns:
        Numbers, strings, lists, tuples, dicts, sets, :class:`Arguments`, :class:`Storage`, :class:`StoredTensor`, and
        what the answers gave.

    Raises:
        RefusedError: An opcode or a global that is not known.
        DataError: A pickle that is damaged.
    """
    machine = _Machine(answers or {})
    try:
        for opcode, argument, place in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.pop()
            machine.do(opcode.name, argument, place or 0)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise DataError(f"the pickle is damaged: {error}") from error
    raise DataError("the pickle is damaged: it has no end")


_ARGUMENT: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
_CONSTANT: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": _Mark,
}


class _Machine:
    """Stack and memo of the pickle format."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = answers
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def do(self, name: str, argument: Any, place: int) -> None:
        """One opcode."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _ARGUMENT:
                self.stack.append(argument)
            case _ if name in _CONSTANT:
                self.stack.append(_CONSTANT[name]())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "POP":
                self.pop()
            case "POP_MARK":
                self.since_mark()
            case "TUPLE":
                self.stack.append(tuple(self.since_mark()))
            case "LIST":
                self.stack.append(self.since_mark())
            case "DICT":
                self.stack.append({})
                self.set_items(self.since_mark_below())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "APPEND":
                value = self.pop()
                self.newest(list, name).append(value)
            case "APPENDS":
                items = self.since_mark()
                self.newest(list, name).extend(items)
            case "ADDITEMS":
                items = self.since_mark()
                self.newest(set, name).update(_key(item) for item in items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.since_mark())
            case "GLOBAL":
                self.name(".".join(str(argument).split(" ", 1)), name, place)
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                self.name(f"{module}.{attribute}", name, place)
            case "REDUCE" | "NEWOBJ":
                given, named = self.pop(), self.pop()
                own = self.answers.get(named.name) if isinstance(named, _Named) else None
                self.stack.append(own(_tuple(given)) if own is not None else _answer(named, given, name))
            case "BUILD":
                self.build(self.pop())
            case "BINPERSID":
                self.stack.append(_storage(self.pop()))
            case _:
                raise _refusal(f"the opcode {name}", place)

    def name(self, name: str, opcode: str, place: int) -> None:
        if name.startswith("__builtin__."):  # what protocols up to 2 call it
            name = f"builtins.{name.partition('.')[2]}"
        if name not in KNOWN and name not in self.answers:
            raise _refusal(f"'{name}' by the opcode {opcode}", place)
        self.stack.append(_Named(name))

    def since_mark(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        items: list[Any] = []
        while not isinstance(item := self.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def since_mark_below(self) -> list[Any]:
        """The same, below the newest value."""
        newest = self.pop()
        items = self.since_mark()
        self.stack.append(newest)
        return items

    def newest(self, kind: type[_Container], opcode: str) -> _Container:
        """The newest value, which must be such a container."""
        target = self.stack[-1]
        if type(target) is not kind:
            raise ValueError(f"{opcode} on a {type(target).__name__}")
        return target

    def set_items(self, items: list[Any]) -> None:
        target = self.newest(dict, "SETITEMS")
        target.update({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            target.build(state)
            return
        if type(state) is not dict or type(target) not in (dict, Arguments):
            raise ValueError(f"attributes set on a {type(target).__name__}")
        if isinstance(target, Arguments):
            target.update({str(key): value for key, value in state.items()})
        # The attributes of an OrderedDict are a state dict's version numbers; nobody needs them.


def _key(key: Any) -> Any:
    if key is not None and not isinstance(key, (str, int, float, bytes)):
        raise ValueError(f"a key is a {type(key).__name__}")
    return key


def _tuple(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, tuple):
        raise ValueError("arguments that are no tuple")
    return given


def _answer(named: Any, given: Any, opcode: str) -> Any:
    """What stands for the object that a known global would have made."""
    if not isinstance(named, _Named) or not isinstance(given, tuple):
        raise ValueError(f"{opcode} on a {type(named).__name__}")
    match named.name, given:
        case "collections.OrderedDict", ():
            return {}
        case "collections.OrderedDict", (list() as pairs,):
            return {_key(key): value for key, value in pairs}
        case "argparse.Namespace", ():
            return Arguments()
        case (("builtins.set" | "__builtin__.set"), (list() as items,)):
            return {_key(item) for item in items}
        case "torch.Size", (list() | tuple() as size,):
            return _whole(size)
        case "torch.device", (str(), *_):
            return ":".join(str(part) for part in given)
        case "torch._utils._rebuild_parameter", (StoredTensor() as tensor, *_):
            return tensor
        case (
            ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2"),
            (
                Storage() as storage,
                int() as offset,
                tuple() as size,
                tuple() as stride,
                *_,
            ),
        ):
            return StoredTensor(storage, offset, _whole(size), _whole(stride))
    raise ValueError(f"{named.name} with arguments that it does not take")


def _whole(numbers: list[Any] | tuple[Any, ...]) -> tuple[int, ...]:
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor's shape is made of whole numbers from 0 up")
    return tuple(numbers)


def _storage(given: Any) -> Storage:
    match given:
        case ("storage", _Named(name), str() as key, _, int() as count, *rest) if name.rpartition(".")[2] in _STORAGES:
            if any(part is not None for part in rest):
                raise ValueError("a storage that is a view of another")
            return Storage(key, _STORAGES[name.rpartition(".")[2]], count)
    raise ValueError("a reference that is not to a tensor's numbers")


def _refusal(what: str, place: int) -> RefusedError:
    return RefusedError(
        f"refused: the file asks for {what} at byte {place}. Tensors, plain containers and one argparse.Namespace are "
        "read, and nothing that a file names is ever executed"
    )
