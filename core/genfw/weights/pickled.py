"""Read the pickles inside published checkpoints as data: nothing that a file names is imported or called.

A pickle asks for its objects by name. A function of genfw answers for each known name, and an inert stand-in for what
only stands beside the tensors: dates, paths, optimisers, random states. Every other name is refused.
"""

from __future__ import annotations

import functools
import math
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, ClassVar, Final

import attrs
import torch
from torch import Tensor

from genfw.errors import DataError, shown

#: Makes what stands for an object, of the arguments that the file gives to its name.
Answer = Callable[..., Any]

#: Storage classes of torch -> the dtype of their numbers.
_STORAGES: Final[Mapping[str, torch.dtype]] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

#: Type codes of NumPy -> dtypes of torch.
_NUMPY: Final[Mapping[str, torch.dtype]] = {"b1": torch.bool, "u1": torch.uint8} | {
    f"{name[0]}{size}": getattr(torch, f"{name}{8 * size}")
    for name, sizes in (("int", (1, 2, 4, 8)), ("float", (2, 4, 8)))
    for size in sizes
}

#: What only stands beside tensors; and modules, with those inside them, of which every object does.
_BESIDE: Final = frozenset(
    {
        *(f"builtins.{kind.__name__}" for kind in (bool, bytearray, complex, dict, float, frozenset, int, list)),
        *("builtins.set", "builtins.str", "builtins.tuple"),
        *("collections.deque", "decimal.Decimal", "fractions.Fraction", "numpy.ndarray", "random.Random", "uuid.UUID"),
        *("torch.device", "torch.Generator", "torch._C.Generator", "torch.torch_version.TorchVersion"),
    }
)
_BESIDE_MODULES: Final = (
    *("datetime", "pathlib", "zoneinfo", "torch.amp", "torch.cuda.amp", "torch.optim", "numpy.random"),
    *("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"),
)

#: Most opcodes of one pickle: a tensor takes some 25 of them, and its optimiser's two companions as many each.
_MOST: Final = 1_000_000

#: Opcodes that reach outside the file, or for which no checkpoint has a use.
_REFUSED: Final = ("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER")


class RefusedError(DataError):
    """A file asks for something that a checkpoint has no need of: code to run, most of all."""


class Inert:
    """Stands for an object that is not read. It drops what the file puts into it.

    Arguments:
        name: What the file calls the object.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, state: Any) -> None:
        """Take over the attributes that the file sets; a ValueError says that such an object has others."""

    def append(self, *item: Any) -> None:
        """Drop an item."""

    extend = add = __setitem__ = append

    def __str__(self) -> str:
        return f"<{shown(self.name)}>"


class Items(dict[Any, Any]):
    """A dict of any class."""

    def __init__(self, pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = ()) -> None:
        for key, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        # Fifty tuples, each of which holds the one before it twice, are a small file; their hash takes years.
        if isinstance(key, tuple) and (len(key) > 16 or any(isinstance(part, tuple) for part in key)):
            raise ValueError("a key is a tuple of many values or of tuples")
        super().__setitem__(key, value)

    def build(self, state: Any) -> None:
        """Drop the attributes that the file sets: the version numbers of a state dict."""


class Arguments(Items):
    """The attributes of an ``argparse.Namespace``."""

    def build(self, state: Any) -> None:
        """Take over the attributes."""
        self.update((str(name), value) for name, value in Items(state).items())


class NumpyType(Inert):
    """A dtype of NumPy.

    Attributes:
        dtype: The same dtype of torch; None where torch has none, or where the numbers have another byte order.
    """

    def __init__(self, code: Any, *rest: Any) -> None:
        super().__init__("numpy.dtype")
        self.dtype = _NUMPY.get(code.lstrip("<|=")) if isinstance(code, str) else None

    def build(self, state: Any) -> None:
        """Take over the byte order."""
        if state[1] not in ("|", "=", "<" if sys.byteorder == "little" else ">"):
            self.dtype = None


@attrs.frozen(eq=False)
class StoredTensor:
    """A tensor as the file describes it: a view of numbers that lie elsewhere in the file.

    Arguments:
        dtype: Type of the numbers.
        count: How many numbers there are.
        raw: Gives their bytes.
        offset: The view's first number.
        size: Its shape.
        stride: Steps between neighbours, per dimension.
    """

    dtype: torch.dtype
    count: int
    raw: Callable[[], bytes | memoryview]
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    def read(self, name: str) -> Tensor:
        """A copy of the tensor.

        Arguments:
            name: What the tensor is called in an error.

        Raises:
            DataError: The file does not hold all of its numbers.
        """
        raw = self.raw()
        if len(raw) != self.count * self.dtype.itemsize:
            raise DataError(f"tensor '{name}' needs {self.count} numbers, and {len(raw)} bytes are there")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and (last >= self.count or math.prod(self.size) > self.count):
            raise DataError(f"tensor '{name}' of shape {self.size} reaches beyond its {self.count} numbers")
        try:
            if 0 in self.size:
                return torch.empty(self.size, dtype=self.dtype)
            numbers = torch.frombuffer(bytearray(raw), dtype=self.dtype)
            return numbers.as_strided(self.size, self.stride, self.offset).clone()
        except (RuntimeError, OverflowError) as error:
            raise DataError(f"tensor '{name}' has a shape that torch does not allow") from error


#: Finds the numbers of a key, a dtype and a count.
_Store = Callable[[str, torch.dtype, int], StoredTensor]


def read_pickle(
    file: IO[bytes],
    answers: Mapping[str, Answer] | None = None,
    store: _Store | None = None,
    most: int = _MOST,
) -> Any:
    """The value that one pickle describes; ``file`` then stands behind it.

    Arguments:
        file: Opened at the pickle's first byte. Bytes in memory or a mapped file: these give no more than they have,
            whatever length a damaged pickle states.
        answers: Names that the file may ask for besides those of torch's own files, with what answers.
        store: Finds the numbers of a key, a dtype and a count; without it the file may have no tensors.
        most: Opcodes that it may have.

    Returns:
        Numbers, strings, lists, tuples, :class:`Items`, :class:`StoredTensor`, :class:`Inert`, and what answers gave.

    Raises:
        RefusedError: The file asks for a name or an opcode that no checkpoint needs.
        DataError: The pickle is damaged.
    """
    try:
        return _Reader(file, {**_ANSWERS, **(answers or {})}, store, most).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler stumble over anything
        raise DataError(f"the pickle is damaged: {shown(str(error) or 'it has no end')}") from error


@attrs.frozen(eq=False)
class _Named:
    """A name that the file has asked for, and what answers when it is called."""

    name: str
    answer: Answer | None


class _Counted(dict[int, Any]):
    """What answers each opcode; so many are answered, and no more."""

    def __init__(self, table: Mapping[int, Any], most: int) -> None:
        super().__init__(table)
        self.left = most

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RefusedError("refused: the file describes more values than any checkpoint has")
        return super().__getitem__(opcode)


class _Reader(pickle._Unpickler):
    """Python's unpickler, with its own ways to look up a name, to call it and to set attributes.

    It is the unpickler written in Python. The one in C makes a memo as long as the largest number that a file puts
    there, and hashes any key; a few bytes are enough to take all memory, or a processor for years.
    """

    # Attributes of the base class that typeshed leaves out.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], answers: Mapping[str, Answer | None], store: _Store | None, most: int) -> None:
        super().__init__(file, encoding="latin1")
        self.dispatch = _Counted(type(self).dispatch, most)  # type: ignore[misc]
        self._file, self._answers, self._store, self._given = file, answers, store, 0

    def find_class(self, module: str, name: str) -> _Named | torch.dtype:
        module = "builtins" if module == "__builtin__" else module  # what protocols up to 2 call it
        full = f"{module}.{name}"
        if full in self._answers:
            return _Named(full, self._answers[full])
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        inside = any(f"{module}.".startswith(f"{each}.") for each in _BESIDE_MODULES) and "." not in name
        if (inside and len(full) < 200) or full in _BESIDE:
            return _Named(full, lambda *given: Inert(full))
        raise _refusal(f"'{shown(full)}'")

    def persistent_load(self, pid: Any) -> StoredTensor:
        match pid:
            case ("storage", _Named() as kind, str() as key, _, int() as count, *view) if view in ([], [None]):
                if self._store is not None:
                    return self._store(key, _STORAGES[kind.name.rpartition(".")[2]], count)
        raise ValueError("a reference that is not to a tensor's numbers")

    def call(self) -> None:
        given, named = self.stack.pop(), self.stack.pop()
        if not isinstance(named, _Named) or named.answer is None or not isinstance(given, tuple):
            raise ValueError(f"a call of a {type(named).__name__}")
        self.weigh(given)
        self.append(named.answer(*given))

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (Inert, Items)):
            raise ValueError(f"attributes set on a {type(self.stack[-1]).__name__}")
        self.weigh(state)
        self.stack[-1].build(state)

    def weigh(self, given: Any) -> None:
        """Refuse a file that writes a value once and has it copied into object after object."""
        self._given += _weight(given)
        if self._given > 1_000_000 + 4 * self._file.tell():
            raise ValueError("its objects are made of more than the file holds")

    def number(self, opcode: bytes) -> None:
        pickle._Unpickler.dispatch[opcode[0]](self)  # type: ignore[arg-type]
        if isinstance(self.stack[-1], int) and self.stack[-1].bit_length() > 4096:
            raise ValueError("a number of more than 512 bytes")

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.append(Items(zip(items[::2], items[1::2], strict=True)))

    def refuse(self, opcode: str) -> None:
        raise _refusal(f"the opcode {opcode}")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: call,
        pickle.NEWOBJ[0]: call,
        pickle.BUILD[0]: build,
        pickle.DICT[0]: make_dict,
        pickle.EMPTY_DICT[0]: lambda self: self.append(Items()),
        pickle.EMPTY_SET[0]: lambda self: self.append(Inert("set")),
        pickle.FROZENSET[0]: pickle._Unpickler.dispatch[pickle.TUPLE[0]],
        # A bytearray is made as long as the file says before anything is read into it.
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }


_Reader.dispatch |= {getattr(pickle, name)[0]: functools.partial(_Reader.refuse, opcode=name) for name in _REFUSED}
_Reader.dispatch |= {
    code[0]: functools.partial(_Reader.number, opcode=code) for code in (pickle.INT, pickle.LONG, pickle.LONG4)
}


def _weight(value: Any, levels: int = 4) -> int:
    """How much an answer may copy of a value: the text or bytes it is, the containers it is made of."""
    if isinstance(value, (str, bytes)):
        return len(value) if levels > 2 else 0
    if not isinstance(value, (list, tuple, dict)) or levels == 0:
        return 0
    inside = value.values() if isinstance(value, dict) else value
    return len(value) + sum(_weight(each, levels - 1) for each in inside)


def _refusal(what: str) -> RefusedError:
    return RefusedError(
        f"refused: the file asks for {what}. genfw reads tensors, plain containers and one argparse.Namespace, and "
        "nothing that a file names is ever executed. If you trust the file, load it where its own code is, and save "
        "its tensors alone"
    )


def _whole(numbers: Any) -> tuple[int, ...]:
    """A shape, or steps."""
    if not isinstance(numbers, (list, tuple)) or len(numbers) > 64:
        raise ValueError("a tensor's shape is a tuple")
    if not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers):
        raise ValueError("a tensor's shape is made of whole numbers from 0 up")
    return tuple(numbers)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor:
    [offset] = _whole([offset])
    return attrs.evolve(_parameter(storage), offset=offset, size=_whole(size), stride=_whole(stride))


def _parameter(tensor: Any, *rest: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise ValueError("a tensor without numbers")
    return tensor


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, which protocols up to 2 write as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in an encoding other than latin1")
    return text.encode("latin1")


def _scalar(kind: Any, raw: Any = None) -> Any:
    """A number of NumPy as one of Python."""
    dtype = kind.dtype if isinstance(kind, NumpyType) else None
    if dtype is None or not isinstance(raw, bytes):
        return Inert("numpy.generic")
    return StoredTensor(dtype, 1, lambda: raw).read("scalar").item()


_ANSWERS: Final[Mapping[str, Answer | None]] = {
    "collections.OrderedDict": Items,
    "collections.Counter": Items,
    "collections.defaultdict": lambda factory=None, pairs=(): Items(pairs),
    "argparse.Namespace": Arguments,
    "_codecs.encode": _encoded,
    "numpy.dtype": NumpyType,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "torch.Size": _whole,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    **dict.fromkeys((f"{home}.{name}" for home in ("torch", "torch.cuda") for name in _STORAGES), None),
}
