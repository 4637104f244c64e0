"""The constructor of a component as its schema: names, types, defaults and descriptions of its parameters."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from genfw.errors import ContractError
from genfw.plugins.component import KINDS, Settings

#: Parameters that genfw fills by their name; no recipe can set them.
INJECTED = ("data_shape", "latent_layout", "noise_layout", "model", "device", "generator")

MISSING: Any = inspect.Parameter.empty

_LISTS = (list, Sequence)
_MAPS = (dict, Mapping)
_SCALARS = (bool, int, float, str)


@attrs.frozen
class Parameter:
    """One parameter of a component's constructor.

    Arguments:
        name: Its name, which is its key in a recipe.
        annotation: Its type, resolved.
        default: Its default; :data:`MISSING` where it has none.
        injected: Whether genfw fills it by name.
        description: What the class's docstring says of it under ``Arguments:``.
    """

    name: str
    annotation: Any
    default: Any = MISSING
    injected: bool = False
    description: str = ""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is MISSING

    @property
    def nullable(self) -> bool:
        """Whether it may be ``None``."""
        return type(None) in alternatives(self.annotation)


@functools.cache
def parameters(cls: type) -> tuple[Parameter, ...]:
    """Parameters of a class's constructor, in order.

    Raises:
        ContractError: The constructor can't serve as a schema: ``*args``, ``**kwargs``, positional-only parameters, one
            called ``use`` or ``ref``, a missing or unreadable annotation.
    """
    init = inspect.getattr_static(cls, "__init__")
    if init is object.__init__ or not isinstance(init, types.FunctionType) or init.__module__.startswith("torch."):
        return ()  # no constructor of its own; that of nn.Module takes nothing
    hints = _hints(cls, init)
    described = _descriptions(cls)
    result = []
    for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD and parameter.kind is not parameter.KEYWORD_ONLY:
            raise ContractError(
                f"{cls.__name__}.__init__ takes '{parameter}'; a component's parameters are named one by one, "
                "without *args, **kwargs or '/'"
            )
        if name in ("use", "ref"):
            raise ContractError(f"{cls.__name__}.__init__ has a parameter '{name}', a key that recipes reserve")
        if name not in hints:
            raise ContractError(f"{cls.__name__}.__init__ has no annotation on '{name}'; it is the recipe's schema")
        injected = name in INJECTED
        if not injected:
            _check_annotation(hints[name], f"'{name}' of {cls.__name__}")
        result.append(Parameter(name, hints[name], parameter.default, injected, described.get(name, "")))
    return tuple(result)


def _hints(cls: type, init: types.FunctionType) -> dict[str, Any]:
    # An attrs constructor names types of its bases' fields too, which resolve in the bases' modules.
    modules = [sys.modules[base.__module__] for base in reversed(cls.__mro__) if base.__module__ in sys.modules]
    names = {name: value for module in modules for name, value in vars(module).items()}
    try:
        return typing.get_type_hints(init, localns=names)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ContractError(
            f"the annotations of {cls.__name__}.__init__ can't be read: {error}; "
            "import at run time what they name, not under TYPE_CHECKING"
        ) from error


def _check_annotation(annotation: Any, what: str) -> None:
    for option in alternatives(annotation):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if option in (Any, type(None), Path, *_SCALARS, *_LISTS, *_MAPS, tuple) or origin is Literal:
            continue
        if interface_kind(option) is not None or is_settings(option):
            continue
        if origin in (*_LISTS, tuple):
            for item in arguments:
                if item is not Ellipsis:
                    _check_annotation(item, what)
            continue
        if origin in _MAPS and arguments[0] is str:
            _check_annotation(arguments[1], what)
            continue
        raise ContractError(
            f"{what} is annotated {option!r}, which no recipe can fill; use bool, int, float, str, Path, Literal, "
            "list, tuple, dict[str, ...], an interface or a Settings class"
        )


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Members of a union, aliases opened; a single type is its only member."""
    while hasattr(annotation, "__value__"):  # a `type X = ...` alias
        annotation = annotation.__value__
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(option for member in typing.get_args(annotation) for option in alternatives(member))
    return (annotation,)


def interface_kind(annotation: Any) -> str | None:
    """The kind of component that an annotation takes, or ``None``."""
    if not isinstance(annotation, type) or typing.get_origin(annotation) is not None:
        return None
    for base in annotation.__mro__:
        for kind, interface in KINDS.items():
            if f"{base.__module__}:{base.__qualname__}" == interface:
                return kind
    return None


def is_settings(annotation: Any) -> bool:
    """Whether an annotation is a :class:`Settings` class, which a mapping fills."""
    return isinstance(annotation, type) and typing.get_origin(annotation) is None and issubclass(annotation, Settings)


def type_name(annotation: Any) -> str:
    """A type in the words of an error message, such as ``int, 'auto' or null``."""
    words = list(dict.fromkeys(word for option in alternatives(annotation) for word in _words(option)))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _words(option: Any) -> list[str]:
    if typing.get_origin(option) is Literal:
        return [repr(value) if isinstance(value, str) else str(value) for value in typing.get_args(option)]
    return [_type_name(option)]


def _type_name(option: Any) -> str:
    if option is type(None):
        return "null"
    if option is Any:
        return "any value"
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    kind = interface_kind(option)
    if kind is not None:
        return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} block"
    if origin in _LISTS:
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is tuple:
        if not arguments:
            return "list"
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {type_name(arguments[0])}"
        return f"list [{', '.join(type_name(item) for item in arguments)}]"
    if is_settings(option) or origin in _MAPS or option in _MAPS:
        return "mapping"
    if option in _LISTS or option is tuple:
        return "list"
    names = {Path: "path", str: "string", bool: "true or false"}
    return names.get(option, getattr(option, "__name__", str(option)))


def _descriptions(cls: type) -> dict[str, str]:
    """Name -> description, from ``Arguments:`` in docstrings of Google's style."""
    result: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for holder in (base, base.__dict__.get("__init__")):
            text = inspect.cleandoc(getattr(holder, "__doc__", None) or "")
            found = re.search(r"^(?:Arguments|Args|Parameters):\n((?:[ \t]+.*\n?|\n)+)", text, flags=re.MULTILINE)
            body = inspect.cleandoc("\n" + found[1]) if found else ""
            for entry in re.finditer(r"^(\w+)(?: \([^)]*\))?: ((?:.|\n(?=\s))*)", body, flags=re.MULTILINE):
                result[entry[1]] = " ".join(entry[2].split())
    return result


def class_problems(cls: type) -> list[str]:
    """Why recipes can't use a component's class: its constructor is no schema, or is not documented."""
    problems = []
    if not (cls.__dict__.get("__doc__") or "").strip():
        problems.append(f"{cls.__name__} has no docstring of its own")
    try:
        undocumented = [parameter.name for parameter in parameters(cls) if not parameter.description]
    except ContractError as error:
        return [*problems, str(error)]
    if undocumented and not problems:
        problems.append(f"the 'Arguments:' of {cls.__name__}'s docstring leave out {', '.join(undocumented)}")
    return problems


def summarise(component: object) -> str:
    """A component as one line: ``langevin(step_size=0.005, steps=10)``.

    Arguments:
        component: A recipe's block, or an object; of an object, the scalar arguments of its constructor that are still
            its attributes.
    """
    if isinstance(component, Mapping):
        name = str(component.get("use") or component.get("ref") or "")
        arguments = {key: value for key, value in component.items() if key not in ("use", "ref")}
    else:
        name = type(component).__name__
        arguments = {key: getattr(component, key, None) for key in inspect.signature(type(component)).parameters}
        arguments = {key: value for key, value in arguments.items() if isinstance(value, bool | int | float | str)}
    parts = [f"{key}={_brief(value)}" for key, value in arguments.items() if value is not None]
    return f"{name}({', '.join(parts)})" if parts else name


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return summarise(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_brief(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
