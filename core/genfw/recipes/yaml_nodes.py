"""YAML as recipes use it: every value and every key with its place.

Scalars are those of YAML 1.2 (``1e-3`` is a float, ``no`` is a string); numbers may have underscores between digits
(``200_000``). Tags, merge keys and duplicate keys are refused; aliases are copies, within limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import yaml

from genfw.errors import RecipeError, shown
from genfw.recipes.faults import FaultList, Mark

#: Most values of one recipe, including copies.
LIMIT = 20_000
#: Most characters of one file, and most events of its parser: each value has one, and each list or mapping two.
LARGEST, _EVENTS = 2_000_000, 4 * LIMIT
#: Most levels of nesting, and steps of a path.
DEPTH = 40
#: Most digits of an integer: a longer one is no float, and Python reads or writes none of some thousands.
_LONGEST = 250


class _Bad:
    def __repr__(self) -> str:
        return "<unreadable>"


#: Replaces a faulty value that has been reported, so that it is not reported twice.
BAD = _Bad()

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", rf"^(?:[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    (
        "float",
        rf"^(?:[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
)


class _Loader(yaml.CSafeLoader):
    """The C parser with only YAML 1.2 scalars."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class _Dumper(yaml.CSafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated parts in full."""
        return True


for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _TAG + _name, re.compile(_pattern), ["" if character == "\0" else character for character in _first]
        )


@attrs.frozen
class Node:
    """One value of a recipe, with its place.

    Arguments:
        value: A scalar, a tuple of nodes, or a dict of nodes.
        mark: Place of the value.
        key_mark: Place of its key; ``None`` for list items and the root.
        copied: Place of the original that ``${...}`` copied.
    """

    value: Any
    mark: Mark
    key_mark: Mark | None = None
    copied: Mark | None = None

    @property
    def entry_mark(self) -> Mark:
        """Place of the whole entry: of the key, or of the value where it has no key."""
        return self.key_mark or self.mark

    @property
    def is_map(self) -> bool:
        """Whether the value is a mapping."""
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.value, tuple)

    def shown(self) -> str:
        """The value, in words for an error message."""
        value = self.value
        if self.is_map:
            return "a mapping"
        if self.is_list:
            return f"a list of {len(value)}"
        match value:
            case None:
                return "null"
            case bool():
                return str(value).lower()
            case str():
                return f"the string '{shown(value)}'"
            case _:
                return f"{value!r}"

    def plain(self) -> Any:
        """The value without places: scalars, lists and dicts."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return None if self.value is BAD else self.value

    def get(self, path: Sequence[str]) -> Node | None:
        """The node at a path of keys and list positions, or ``None``."""
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            node = node.child(step)
        return node

    def child(self, step: str) -> Node | None:
        """The value under a key or at a list position, or ``None``."""
        if isinstance(self.value, dict):
            return self.value.get(step)
        if isinstance(self.value, tuple) and is_position(step) and int(step) < len(self.value):
            item: Node = self.value[int(step)]
            return item
        return None

    def steps(self) -> Iterator[str]:
        """Keys of a mapping or positions of a list; nothing for a scalar."""
        if isinstance(self.value, dict):
            yield from self.value
        elif isinstance(self.value, tuple):
            yield from map(str, range(len(self.value)))


def read_yaml(text: str, file: str, faults: FaultList) -> Node | None:
    """Read one YAML document.

    Arguments:
        text: The document.
        file: Its name in faults.
        faults: Collects every fault.

    Returns:
        The root, or ``None`` if the text can't be read at all; an empty document is an empty mapping.
    """
    if len(text) > LARGEST:
        faults.add("GF104", f"larger than {LARGEST:,} characters", Mark(file, 1, 1))
        return None
    reader = _Reader(text, file, faults)
    try:
        if not reader.screen():
            return None
        raw = yaml.compose(text, Loader=_Loader)
        if raw is None:
            return Node({}, reader.mark(None))
        return reader.node(raw, None, ())
    except yaml.MarkedYAMLError as error:
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        mark = reader.mark(error.problem_mark or error.context_mark)
        hint = 'inside [ ] and { }, write "${a.b}" in quotes' if "${" in mark.source else ""
        faults.add("GF101", f"not readable as YAML: {problem}", mark, hint)
    except yaml.YAMLError as error:
        faults.add("GF101", f"not readable as YAML: {error}", reader.mark(None))
    except _TooLargeError as error:
        faults.add("GF104", str(error), error.mark, "write out what is needed; aliases are copies")
    return None


class _TooLargeError(Exception):
    def __init__(self, message: str, mark: Mark) -> None:
        super().__init__(message)
        self.mark = mark


class _Reader:
    def __init__(self, text: str, file: str, faults: FaultList) -> None:
        self.text, self.file, self.faults = text, file, faults
        self.lines = text.splitlines() or [""]
        self.count = 0

    def mark(self, position: Any) -> Mark:
        if position is None:
            return Mark(self.file, 1, 1, self.lines[0])
        source = self.lines[position.line] if position.line < len(self.lines) else ""
        return Mark(self.file, position.line + 1, position.column + 1, source)

    def screen(self) -> bool:
        """Check the events before building a tree: building is recursive, and drops whether a tag was written."""
        depth = 0
        for number, event in enumerate(yaml.parse(self.text, Loader=_Loader)):
            if number > _EVENTS:
                raise _TooLargeError(f"more than {LIMIT} values", self.mark(event.start_mark))
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEPTH:
                    self.faults.add("GF104", f"nested deeper than {DEPTH} levels", self.mark(event.start_mark))
                    return False
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            tag = getattr(event, "tag", None)
            if tag is not None:
                written = shown(tag.replace(_TAG, "!!"))
                self.faults.add(
                    "GF103",
                    f"the tag '{written}' is not read; a recipe's values say their type by themselves",
                    self.mark(event.start_mark),
                    "quote a value to make it a string",
                )
        return True

    def node(self, raw: yaml.Node, key_mark: Mark | None, above: tuple[int, ...]) -> Node:
        mark = self.mark(raw.start_mark)
        self.count += 1
        if self.count > LIMIT:
            raise _TooLargeError(f"more than {LIMIT} values", mark)
        if id(raw) in above or len(above) > DEPTH:
            raise _TooLargeError(f"an alias contains itself, or nesting goes beyond {DEPTH} levels", mark)
        above = (*above, id(raw))
        if isinstance(raw, yaml.MappingNode):
            return Node(self._mapping(raw, above), mark, key_mark)
        if isinstance(raw, yaml.SequenceNode):
            return Node(tuple(self.node(item, None, above) for item in raw.value), mark, key_mark)
        if str(raw.tag) == f"{_TAG}int" and len(raw.value) > _LONGEST:
            raise _TooLargeError(f"an integer of more than {_LONGEST} digits", mark)
        return Node(_scalar(raw), mark, key_mark)

    def _mapping(self, raw: yaml.MappingNode, above: tuple[int, ...]) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for raw_key, raw_value in raw.value:
            mark = self.mark(raw_key.start_mark)
            key = (
                _scalar(raw_key) if isinstance(raw_key, yaml.ScalarNode) and str(raw_key.tag) != f"{_TAG}int" else None
            )
            if key == "<<":
                self.faults.add("GF105", "merge keys (<<) are not read", mark, "use 'extends', or '${path}' to copy")
                continue
            if not isinstance(key, str):
                self.faults.add("GF105", f"keys are strings, got {_shown(raw_key)}", mark, "quote the key")
                continue
            value = self.node(raw_value, mark, above)
            if key in result:
                first = result[key].entry_mark.line
                self.faults.add("GF102", f"'{shown(key)}' stands twice in one mapping, first in line {first}", mark)
                continue
            result[key] = value
        return result


def is_position(step: str) -> bool:
    """Whether a step of a path can stand for a position in a list; Python reads no integer of thousands of digits."""
    return step.isdecimal() and len(step) < 10


def _shown(raw: yaml.Node) -> str:
    return shown(raw.value) if isinstance(raw, yaml.ScalarNode) else "a list or mapping"


def _scalar(raw: yaml.Node) -> Any:
    text: str = raw.value
    match str(raw.tag).removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if re.match(r"0[xo]", text):
            return int(text, 0)
        case "int":
            return int(text)
        case "float":
            special = text.lower().lstrip("+")
            return float(special.replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


def dump(plain: Mapping[str, Any] | Sequence[Any] | Any) -> str:
    """Write scalars, lists and dicts with string keys as YAML that :func:`read_yaml` reads as equal values.

    Raises:
        RecipeError: The values include something else.
    """
    try:
        text: str = yaml.dump(
            plain, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
        )
    except yaml.representer.RepresenterError as error:
        what = type(error.args[-1]).__name__
        raise RecipeError(
            f"a recipe holds scalars, lists and mappings; it can't hold a value of type {what}"
        ) from error
    return text
