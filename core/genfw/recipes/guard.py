"""The one place where parts of plugins are called: whatever they raise or return wrongly becomes an error that names
the component, its plugin and its place in the recipe.

:func:`guarded` gives a subclass of a component's class, of the same name. Its public methods call those of the class.
What they raise that is no :class:`~genfw.errors.GenfwError` (``KeyError``, ``SystemExit``, ...) and what breaks a
promise of the interface (:mod:`genfw.recipes.promises`) ends the run with a :class:`~genfw.errors.BrokenPartError`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from genfw.errors import BrokenPartError, GenfwError, is_disk_fault, one_line
from genfw.plugins.component import KINDS
from genfw.recipes.promises import COUNT, PROMISES, Promise, rows_of, shape_fault, tensors_of

#: Attributes that state a shape: what is built next reads them.
_SHAPES = ("noise_shapes", "noise_shape", "data_shape")
#: Methods that several classes of networks share, besides those of the interface.
_OF_MODULES = ("forward", "state_dict")
#: Their failure tells that a checkpoint belongs to another model, which their caller says.
_LEFT = ("load_state_dict",)
#: Values beyond which a network may overflow by right.
_MODERATE = 1e4

_watched = False


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Inside the block networks are refused that make NaN of moderate values; on CUDA the host would wait for each."""
    global _watched
    before, _watched = _watched, True
    try:
        yield
    finally:
        _watched = before


def guarded(cls: type, kind: str, origin: str) -> type:
    """The class whose objects are named by ``origin`` when they fail.

    Arguments:
        cls: Class of a component.
        kind: Its kind.
        origin: Its name, its plugin and its place in the recipe, for messages.
    """
    interface = _interface(kind)
    of_modules = dir(nn.Module) if issubclass(interface, nn.Module) else ()
    names = [name for name in dir(interface) if not name.startswith("_") and name not in of_modules]
    names += _OF_MODULES if issubclass(cls, nn.Module) else ()
    promises = dict(PROMISES[kind])
    if kind == "dataset":
        promises["split"] = _watch_split(promises["split"], origin)
    # The table of numbers names the metric that failed, wherever its exception comes from.
    told = kind == "metric"
    return _subclass(cls, dict.fromkeys(names), promises, origin, told)


def _interface(kind: str) -> type:
    module, _, attribute = KINDS[kind].partition(":")
    interface: type = getattr(importlib.import_module(module), attribute)
    return interface


def _subclass(cls: type, names: Any, promises: dict[str, Promise], origin: str, told: bool = False) -> type:
    body: dict[str, Any] = {"__slots__": (), "_genfw_origin": origin}
    for name in ("__module__", "__qualname__", "__doc__"):
        body[name] = getattr(cls, name)
    for name in names:
        found = inspect.getattr_static(cls, name, None)
        if name in _LEFT:
            continue
        if isinstance(found, types.FunctionType):
            body[name] = _method(name, found, promises.get(name), origin, told)
        elif isinstance(found, property) and found.fget is not None:
            body[name] = property(_method(name, found.fget, None, origin), found.fset)
    try:
        made: type = types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(body))
    except Exception:  # a class that can't be inherited from as it is; it works without guard
        return cls
    return made


def _method(
    name: str, inner: Callable[..., Any], promise: Promise | None, origin: str, told: bool = False
) -> Callable[..., Any]:
    @functools.wraps(inner)
    def call(self: Any, *arguments: Any, **more: Any) -> Any:
        try:
            value = inner(self, *arguments, **more)
            said = "" if promise is None else promise(self, value, *arguments, **more)
            if _watched and not said and isinstance(self, nn.Module) and promise is not None:
                said = _made_nan(value, arguments)
        except BaseException as error:
            if told and isinstance(error, Exception):
                raise
            named(error, origin, name, type(self))
        if said:
            raise BrokenPartError(f"{origin}: {name} {said}")
        return value

    return call


def named(error: BaseException, origin: str, doing: str, cls: type) -> NoReturn:
    """Raise an exception of a component's code again, by a name that says whose it is.

    Arguments:
        error: The exception.
        origin: See :func:`guarded`.
        doing: What was called.
        cls: The component's class.

    Raises:
        BrokenPartError: The exception is none that genfw expects, a signal or a full disk.
    """
    if not isinstance(error, Exception | SystemExit | GeneratorExit) or isinstance(error, GenfwError):
        raise error
    if is_disk_fault(error):
        raise error
    raise BrokenPartError(f"{origin}: {doing} failed: {one_line(error)}{where(error, cls)}") from error


def where(error: BaseException, cls: type) -> str:
    """`` (file:line)`` of the innermost line of a class's module that an exception passed; else empty."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(str(file)).name}:{lines[-1]})" if lines else ""


def origin_of(part: object) -> str:
    """Where a part is from, for messages; its class where it was built without a recipe."""
    return str(getattr(type(part), "_genfw_origin", type(part).__name__))


def stand_in_for(kind: str, on: str | None = None) -> Any:
    """An object of a kind of network that no one may call: others can be built beside it.

    Arguments:
        kind: Kind of component.
        on: What an energy reads.
    """
    interface = _interface(kind)
    body: dict[str, Any] = dict.fromkeys(getattr(interface, "__abstractmethods__", ()))
    body |= {"noise_shapes": ((1,),), "noise_shape": (1,), "on": on or "data", "stands_in": True}
    return types.new_class("StandIn", (interface,), exec_body=lambda space: space.update(body))()


def settle(part: Any, kind: str, origin: str) -> None:
    """Look at a part that has just been built, before others are built from what it says.

    Raises:
        BrokenPartError: It is no whole module, or states a shape that is none.
    """
    if isinstance(part, nn.Module) and "_modules" not in vars(part):
        raise BrokenPartError(f"{origin}: its constructor does not call super().__init__()")
    for name in _SHAPES:
        if hasattr(_interface(kind), name) and (said := shape_fault(name, getattr(part, name))):
            raise BrokenPartError(f"{origin}: {name} {said}")


def _watch_split(promise: Promise, origin: str) -> Promise:
    """Let a split that a data set returns be guarded too."""

    def watched(part: Any, split: Any, *arguments: Any, **more: Any) -> str:
        said = promise(part, split, *arguments, **more)
        if said or hasattr(type(split), "_genfw_origin"):
            return said
        name = f"{origin}, split '{arguments[0] if arguments else more.get('name', '')}'"
        promises = {"get": rows_of(part.data_shape), "__len__": COUNT}
        with contextlib.suppress(TypeError):  # an object of another layout works without guard
            split.__class__ = _subclass(type(split), promises, promises, name)
        return ""

    return watched


def _made_nan(value: Any, arguments: tuple[Any, ...]) -> str:
    made = tensors_of(value)
    if not any(bool(tensor.isnan().any()) for tensor in made if tensor.device.type != "meta"):
        return ""
    given = [tensor.detach() for tensor in tensors_of(arguments) if tensor.is_floating_point()]
    # NaN and infinity are no moderate values either.
    if not all(bool((tensor.abs() <= _MODERATE).all()) for tensor in given):
        return ""
    return "returned NaN, and was given finite values"
