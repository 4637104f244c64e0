"""One recipe laid over another: deep merge, ``--set``, ``--unset``, and ``${...}`` copies."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import attrs

from genfw.errors import did_you_mean, shown
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.yaml_nodes import BAD, DEPTH, LIMIT, Node, is_position, read_yaml

#: Sections without component: an override there must match something that is written.
_FREE = frozenset({"vars", "paper", "requires", "plugins", "components", "tried"})
#: Most steps from a value to what it copies: a copy of a copy of a copy, and the values around each.
_LONGEST_CHAIN = 210
_REFERENCE = re.compile(r"\$\{\s*([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*\}")


def merge(below: Node, above: Node, notes: list[str], path: str = "") -> Node:
    """Lay ``above`` over ``below``: mappings merge key by key, lists and scalars replace.

    A mapping that changes ``use`` drops the other keys of the one below, which belong to another component; ``notes``
    names each.
    """
    if not (below.is_map and above.is_map):
        return above
    lower = _matching_keys(below, above, notes, path)
    result = dict(lower)
    for key, node in above.value.items():
        known = lower.get(key)
        result[key] = node if known is None else merge(known, node, notes, f"{path}.{key}" if path else key)
    return attrs.evolve(above, value=result)


def _matching_keys(below: Node, above: Node, notes: list[str], path: str) -> dict[str, Node]:
    before, after = below.value.get("use"), above.value.get("use")
    if before is None or after is None or before.value == after.value:
        lower: dict[str, Node] = below.value
        return lower
    dropped = [f"{key} ({node.mark})" for key, node in below.value.items() if key != "use"]
    if dropped:
        notes.append(
            f"{after.mark}: {path or 'the recipe'} uses '{after.value}' instead of '{before.value}'; "
            f"dropped {', '.join(dropped)}"
        )
    return {"use": before}


# -- overrides --------------------------------------------------------------------------------------------------------


def apply_sets(root: Node, sets: Sequence[str], faults: FaultList, notes: list[str]) -> Node:
    """Apply ``path=VALUE`` overrides in turn; the value is read as YAML.

    A path may name a written value or a new key of a block; the binder checks whether the component has it.
    """
    for text in sets:
        path, found, value_text = text.partition("=")
        mark = Mark("--set", 1, 1, text)
        steps = _steps(path)
        if not found or steps is None:
            faults.add("GF113", f"an override reads path=VALUE, such as train.0.steps=5; got '{shown(text)}'", mark)
            continue
        value = _value(text, value_text, len(path) + 2, faults)
        if value is None:
            continue
        value = attrs.evolve(value, key_mark=mark)
        if steps[-1] == "use":
            root = _change_use(root, steps, value, notes)
        root = _put(root, steps, value, faults, mark, ())
    return root


def apply_unsets(root: Node, unsets: Sequence[str], faults: FaultList) -> Node:
    """Remove the values at paths; list positions are those before any removal."""
    paths: list[tuple[str, ...]] = []
    for text in unsets:
        mark = Mark("--unset", 1, 1, text)
        steps = _steps(text)
        if steps is None:
            faults.add("GF113", f"--unset takes a path such as energy.width, got '{shown(text)}'", mark)
        elif root.get(steps) is None:
            faults.add("GF114", _nothing_there(root, steps), mark)
        else:
            paths.append(steps)
    for steps in sorted(set(paths), key=_natural, reverse=True):
        root = _remove(root, steps)
    return root


def _natural(steps: tuple[str, ...]) -> tuple[tuple[bool, int, str], ...]:
    return tuple((is_position(step), int(step) if is_position(step) else 0, step) for step in steps)


def _steps(path: str) -> tuple[str, ...] | None:
    steps = tuple(path.strip().split("."))
    return steps if len(steps) <= DEPTH and all(re.fullmatch(r"[A-Za-z0-9_-]+", step) for step in steps) else None


def _value(source: str, text: str, column: int, faults: FaultList) -> Node | None:
    local = FaultList()
    node = read_yaml(text, "--set", local) if text.strip() else Node(None, Mark("--set", 1, column, source))
    for fault in local.faults:
        faults.add("GF113", fault.message, Mark("--set", 1, fault.column + column - 1, source), fault.hint)
    if node is None or local:
        return None
    return _moved(node, source, column)


def _moved(node: Node, source: str, column: int) -> Node:
    """Translate places inside the value to places inside the whole override."""

    def move(mark: Mark) -> Mark:
        return Mark("--set", 1, mark.column + column - 1 if mark.line == 1 else column, source)

    value = node.value
    if isinstance(value, dict):
        value = {key: _moved(child, source, column) for key, child in value.items()}
    elif isinstance(value, tuple):
        value = tuple(_moved(child, source, column) for child in value)
    return Node(value, move(node.mark), None if node.key_mark is None else move(node.key_mark))


def _change_use(root: Node, steps: tuple[str, ...], value: Node, notes: list[str]) -> Node:
    block = root.get(steps[:-1])
    if block is None or not block.is_map:
        return root
    # Values from other overrides stay, because overrides apply together whatever their order.
    own = {key: child for key, child in block.value.items() if child.mark.file == "--set" and key != "use"}
    below = attrs.evolve(block, value={key: child for key, child in block.value.items() if key not in own})
    lower = _matching_keys(below, Node({"use": value}, value.mark), notes, ".".join(steps[:-1]))
    return _replace(root, steps[:-1], lambda node: attrs.evolve(node, value={**lower, **own}))


def _replace(node: Node, steps: tuple[str, ...], change: Callable[[Node], Node]) -> Node:
    if not steps:
        return change(node)
    child = node.child(steps[0])
    assert child is not None  # callers pass paths that exist
    return _with_child(node, steps[0], _replace(child, steps[1:], change))


def _with_child(node: Node, step: str, child: Node) -> Node:
    if isinstance(node.value, tuple):
        items = list(node.value)
        items[int(step)] = child
        return attrs.evolve(node, value=tuple(items))
    return attrs.evolve(node, value={**node.value, step: child})


def _put(
    node: Node, steps: tuple[str, ...], value: Node, faults: FaultList, mark: Mark, prefix: tuple[str, ...]
) -> Node:
    if not steps:
        return attrs.evolve(value, key_mark=node.key_mark or value.key_mark)
    step, rest = steps[0], steps[1:]
    if node.value is None:
        node = attrs.evolve(node, value={})
    child = node.child(step)
    if child is None:
        if not node.is_map or (prefix and prefix[0] in _FREE):
            faults.add("GF114", _nothing_there(node, (step,), prefix), mark)
            return node
        child = Node({} if rest else None, mark, mark)
    return _with_child(node, step, _put(child, rest, value, faults, mark, (*prefix, step)))


def _remove(node: Node, steps: tuple[str, ...]) -> Node:
    if len(steps) > 1:
        child = node.child(steps[0])
        return node if child is None else _with_child(node, steps[0], _remove(child, steps[1:]))
    if isinstance(node.value, tuple):
        return attrs.evolve(node, value=tuple(n for i, n in enumerate(node.value) if str(i) != steps[0]))
    return attrs.evolve(node, value={key: child for key, child in node.value.items() if key != steps[0]})


def _nothing_there(node: Node, steps: Sequence[str], prefix: Sequence[str] = ()) -> str:
    """A sentence about the first step of a path that does not exist."""
    prefix = list(prefix)
    for step in steps:
        child = node.child(step)
        if child is None:
            where = f"'{shown('.'.join(prefix))}'" if prefix else "the recipe"
            if node.is_list:
                return f"{where} is a list of {len(node.value)}, counted from 0; it has no item '{shown(step)}'"
            if not node.is_map:
                return f"{where} is a single value; there is nothing at '{shown(step)}' in it"
            return f"{where} has no '{shown(step)}'{did_you_mean(step, node.steps())}"
        prefix.append(step)
        node = child
    raise AssertionError("the path exists")


# -- references -------------------------------------------------------------------------------------------------------


def resolve_references(root: Node, faults: FaultList) -> Node:
    """Replace every ``${a.b}`` by a copy of the value at that path; a value may itself be a copy."""
    return _References(root, faults).resolve(root, ())


class _References:
    def __init__(self, root: Node, faults: FaultList) -> None:
        self.root, self.faults = root, faults
        self.count = self.depth = 0

    def resolve(self, node: Node, following: tuple[str, ...], level: int = 0) -> Node:
        self.count += 1
        if self.count > LIMIT:
            self.faults.add("GF104", f"copies make more than {LIMIT} values", self.root.mark)
            return attrs.evolve(node, value=BAD)
        if self.depth > _LONGEST_CHAIN or level > DEPTH:
            say = f"copies of copies nest deeper than {DEPTH} levels, or follow one another {_LONGEST_CHAIN} times"
            self.faults.add("GF104", say, node.mark)
            return attrs.evolve(node, value=BAD)
        self.depth += 1
        found = self._resolved(node, following, level)
        self.depth -= 1
        return found

    def _resolved(self, node: Node, following: tuple[str, ...], level: int) -> Node:
        value, inside = node.value, level + 1
        if isinstance(value, dict):
            items = {}
            for key, child in value.items():
                items[key] = self.resolve(child, following, inside)
            return attrs.evolve(node, value=items)
        if isinstance(value, tuple):
            copies = []
            for child in value:
                copies.append(self.resolve(child, following, inside))
            return attrs.evolve(node, value=tuple(copies))
        if not isinstance(value, str) or "${" not in value:
            return node
        found = _REFERENCE.fullmatch(value.strip())
        if found is None:
            self.faults.add(
                "GF112",
                f"'{shown(value)}' is no reference",
                node.mark,
                "${a.b} stands alone and copies a value; there are no expressions",
            )
            return attrs.evolve(node, value=BAD)
        return self._copy(node, found[1], following, level)

    def _copy(self, node: Node, path: str, following: tuple[str, ...], level: int) -> Node:
        target = self.root.get(path.split("."))
        if target is None:
            self.faults.add("GF110", f"'${{{shown(path)}}}': {_nothing_there(self.root, path.split('.'))}", node.mark)
            return attrs.evolve(node, value=BAD)
        # Following a path again would never end.
        if path in following:
            chain = " -> ".join([*following[following.index(path) :], path])
            self.faults.add("GF111", f"'${{{path}}}' leads back to itself: {chain}", node.mark)
            return attrs.evolve(node, value=BAD)
        copy = self.resolve(target, (*following, path), level)
        return Node(copy.value, node.mark, node.key_mark, copy.copied or target.mark)
