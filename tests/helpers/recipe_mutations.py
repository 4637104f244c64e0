"""Recipes that nobody would write: every shipped one, damaged in every way, each again from its seed alone."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from attempts import Outcome, fresh_folder, judge_error, measured
from genfw.errors import RecipeError
from genfw.plugins.registry import Registry
from genfw.recipes.check import check
from genfw.recipes.compose import compose
from genfw.recipes.faults import FaultList
from genfw.recipes.recipe import SECTIONS, open_recipe, parse_recipe
from genfw.recipes.yaml_nodes import read_yaml
from places import ROOT

#: What the mutated recipe is called in its folder.
MAIN = "recipe.yaml"


@attrs.frozen
class Mutated:
    """A recipe after mutation.

    Arguments:
        seed: It comes again from this and ``kind``.
        kind: A key of :data:`MUTATIONS`.
        recipe: Stem of the shipped recipe it was.
        what: What was done to it.
        files: Name -> content; the recipe is :data:`MAIN`, the others stand beside it.
        sets: Overrides that it is read with.
        unsets: Paths that are removed from it.
    """

    seed: int
    kind: str
    recipe: str
    what: str
    files: Mapping[str, bytes]
    sets: tuple[str, ...] = ()
    unsets: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What to replay, and what it does."""
        return f"--replay {self.kind}:{self.seed} ({self.recipe}: {self.what})"


class Raw(str):
    """A value as it is written in YAML."""

    __slots__ = ()


class Pairs(list[list[Any]]):
    """A mapping as a list of [key, value], in which a key may stand twice."""


#: A place in a tree: what holds it, and its number there.
Place = tuple[Any, int]


# -- values that do not belong where they are put ---------------------------------------------------------------------

PLAIN = [
    "null", "true", "no", "7", "-1", "0", "0.5", "-0.0", "1e-300", "1e300", '"text"', '""', "[]", "{}", "[1, 2]",
    "[1, two, [3]]", "{a: 1}", "{a: {b: {c: 1}}}", "[[[]]]", "[null]", "{'': 1}", "2001-01-01", "1:30", "0o777", "0x1F",
    "'7'", "[{use: mlp}]", "~",
]  # fmt: skip
NUMBERS = [
    ".nan", ".inf", "-.inf", "-5", "-1.5", "1e999", "-1e999", "1e-999", str(2**31), str(2**63), str(2**64), str(2**70),
    "1" + "0" * 18, "1e30", "3.5", "-0", "+.inf", "1_000_000_000", "0.1_5", "1e308", "5e-324",
]  # fmt: skip
HUGE = [
    "1" + "0" * 400, "-1" + "0" * 400, "9" * 4_299, "9" * 5_000, "-" + "9" * 5_000, "0x" + "f" * 5_000,
    "0o" + "7" * 9_000, "1" + "_000" * 2_000, "0." + "1" * 5_000, "1" * 4_000 + "e5", "1e" + "9" * 5_000,
    "[" + "9" * 5_000 + "]",
]  # fmt: skip
STRINGS = [
    "x" * 300, "x" * 5_000, "ünïcödé 𝔘 日本", "\u202eabc", "\u200b", " ", "a\nb", "\\", "'", "/", "../../../etc/passwd",
    "/dev/zero", "~", "~nobody-here/x.py", "%s%n", "{0}", "${", "$", "a.b.c", "mlp ", " mlp", "MLP", "genfw/mlp",
    "x/y/z", "\u2028", "\u0085", "nul", "con", ".", "..", "-", "--", "-x", "*", "?",
]  # fmt: skip
CONTROLS = ['"\\0"', '"\\e[31mred"', '"\\a"', '"\\uD800"', '"\\x7f"', '"\\r"', '"\\b\\b\\b"', '"\\uFFFE"']
PATHS = [
    "~nobody-here/x.py", "~nobody-here", "~", "x" * 300, "x/" * 2_500, "/" + "x" * 255, ".", "..", "/", "", "/dev/null",
    "/dev/zero", "/proc/self/mem", "recipe.yaml", "./recipe.yaml", "no/such/file.py", "../" * 100, "a\nb", "é", "~/x",
]  # fmt: skip
KEYS: list[Any] = [
    *(Raw(text) for text in ("7", "null", "true", ".nan", "[1, 2]", "{a: 1}", "? a", "''", "9" * 5_000, '"\\e[31m"')),
    *("é", "<<", "*x", "__class__", "self", "device", "model", "generator", "data_shape", "x" * 3_000),
]
USES = [
    "null", "7", "[mlp]", "{use: mlp}", "''", "os:system", "genfw.engine.run", "genfw/mlp", "other/mlp", "a/b/c", "/",
    "mlp/", "true", ".nan", "MLP", "m-l-p", "standard_normal", "x" * 5_000, "é", "__class__", "'..'", '"\\e[31m"',
    "9" * 5_000,
]  # fmt: skip
REFS = [
    "nobody", "7", "null", "[prior]", "{ref: prior}", "data", "prior", "decoder", "encoder", "energy", "energy.0",
    "energy.1", "energy.99", "energy.-1", "train.0", "model", "''", "x" * 5_000, "é", "sample",
]  # fmt: skip
PIECES = [
    b"\t", b"\0", b"\x1b[31m", b"\x7f", b"\xff", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\r", b"\x0c",
    "\u0085".encode(), "\u2028".encode(), "\u2029".encode(), b"]", b"}", b"{", b"[", b"'", b'"', b"#", b": ", b"- ",
    b"\n", b"%", b"@", b"`", b"\n---\n", b"\n...\n", b"%YAML 9.9\n---\n", b"&a ", b"*a ", b"!x ", b"? ", b"| ", b"> ",
    b"x" * 20_000, b" " * 3_000,
]  # fmt: skip
TAGS = [
    "!!python/object/apply:os.system [x]", "!!int 3", "!!binary aGk=", "!x y", "!!set {a, b}", "!!str", "! x", "!<x> y",
    "!!map {}", "!!timestamp 2001-01-01",
]  # fmt: skip


# -- trees ------------------------------------------------------------------------------------------------------------


def tree_of(value: Any) -> Any:
    """Plain values with mappings as :class:`Pairs`."""
    if isinstance(value, dict):
        return Pairs([key, tree_of(item)] for key, item in value.items())
    return [tree_of(item) for item in value] if isinstance(value, list) else value


def places(tree: Any, wanted: Callable[[Any], bool] = lambda value: True) -> list[Place]:
    """Every place below a tree whose value is wanted."""
    found: list[Place] = []
    for number, item in enumerate(tree):
        holder, at = (item, 1) if isinstance(tree, Pairs) else (tree, number)
        if wanted(holder[at]):
            found.append((holder, at))
        if isinstance(holder[at], list):
            found += places(holder[at], wanted)
    return found


def maps(tree: Any) -> list[Pairs]:
    """Every mapping of a tree that has a key."""
    return [tree, *(holder[at] for holder, at in places(tree, lambda value: isinstance(value, Pairs) and value))]


def blocks(tree: Any) -> list[Pairs]:
    """Every mapping with ``use``."""
    return [one for one in maps(tree) if any(key == "use" for key, _ in one)]


def written(tree: Pairs) -> bytes:
    """A recipe as people lay it out: a line for each section and each item of a list."""
    lines = []
    for key, value in tree:
        if isinstance(value, list) and not isinstance(value, Pairs) and value:
            lines += [f"{flow(key)}:", *(f"  - {flow(item)}" for item in value)]
        else:
            lines.append(f"{flow(key)}: {flow(value)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def flow(value: Any) -> str:
    """A value on one line."""
    match value:
        case Raw():
            return str(value)
        case Pairs():
            return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value) + "}"
        case list():
            return "[" + ", ".join(flow(item) for item in value) + "]"
        case str() if value.replace("-", "").replace("_", "").isalnum() and value.isascii() and not value[0].isdigit():
            return value if value not in ("null", "true", "false") else f"'{value}'"
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
        case _:
            return json.dumps(value, ensure_ascii=False)


# -- mutations --------------------------------------------------------------------------------------------------------


class Draft:
    """A recipe that is being mutated.

    Arguments:
        tree: Its sections.
        text: Its own text, for damage that knows nothing of sections.
        chance: Where all choices come from.
    """

    def __init__(self, tree: Pairs, text: bytes, chance: random.Random) -> None:
        self.tree, self.text, self.chance = tree, text, chance
        self.files: dict[str, bytes] = {}
        self.sets: list[str] = []
        self.unsets: list[str] = []

    def spot(self, wanted: Callable[[Any], bool] = lambda value: True) -> Place:
        return self.chance.choice(places(self.tree, wanted) or places(self.tree))

    def put(self, place: Place, value: Any) -> str:
        holder, at = place
        name = holder[0] if at == 1 and isinstance(holder[0], str) else f"item {at}"
        before, holder[at] = flow(holder[at]), value
        return f"{name}: {_short(before)} -> {_short(flow(value))}"

    def swap(self, values: list[str]) -> str:
        return self.put(self.spot(), Raw(self.chance.choice(values)))

    def number(self, values: list[str]) -> str:
        numeric = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)  # noqa: E731
        return self.put(self.spot(numeric), Raw(self.chance.choice(values)))

    def section(self, key: str, value: Any) -> str:
        """Set a section, wherever it stands."""
        self.tree[:] = [pair for pair in self.tree if pair[0] != key]
        self.tree.append([key, value])
        return f"{key}: {_short(flow(value))}"


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:40]}...({len(text):,})"


def _delete(draft: Draft) -> str:
    holder = draft.chance.choice(maps(draft.tree))
    key, _ = holder.pop(draft.chance.randrange(len(holder)))
    return f"'{key}' deleted"


def _duplicate(draft: Draft) -> str:
    holder = draft.chance.choice(maps(draft.tree))
    pair = draft.chance.choice(holder)
    holder.append([pair[0], copy.deepcopy(draft.chance.choice([pair[1], 7, None, "x"]))])
    return f"'{pair[0]}' twice"


def _misspell(draft: Draft) -> str:
    pair = draft.chance.choice(draft.chance.choice(maps(draft.tree)))
    before, at = str(pair[0]), draft.chance.randrange(len(pair[0]))
    slips = [before[:at] + before[at + 1 :] or "x", before[:at] + "x" + before[at:], before.upper(), before + "s"]
    slips += [before.replace("_", "-"), f" {before}"]
    pair[0] = draft.chance.choice([*slips, *slips, *KEYS])
    return f"'{before}' -> {_short(flow(pair[0]))}"


def _move(draft: Draft) -> str:
    source, goal = (draft.chance.choice(maps(draft.tree)) for _ in range(2))
    pair = source.pop(draft.chance.randrange(len(source)))
    goal.append(copy.deepcopy(pair))
    return f"'{pair[0]}' moved"


def _nest(draft: Draft) -> str:
    block = draft.chance.choice(blocks(draft.tree))
    depth = draft.chance.choice([1, 1, 2, 5, 20, 45])
    key, inner = draft.chance.choice(block)[0], copy.deepcopy(block)
    if draft.chance.random() < 0.3:
        lists = draft.chance.choice([1, 30, 39, 40, 41, 200, 5_000])
        return draft.put(draft.spot(), Raw("[" * lists + "]" * lists))
    for _ in range(depth):
        outer = copy.deepcopy(block)
        next(pair for pair in outer if pair[0] == key)[1] = inner
        inner = outer
    block[:] = inner
    return f"the block of '{key}' in itself {depth} times"


def _listed(draft: Draft) -> str:
    place = draft.spot(lambda value: isinstance(value, list))
    value = place[0][place[1]]
    if isinstance(value, Pairs):
        pairs = [list(pair) for pair in value]
        return draft.put(place, draft.chance.choice([[value], [value, copy.deepcopy(value)], pairs]))
    numbered = Pairs([str(at), item] for at, item in enumerate(value))
    return draft.put(place, draft.chance.choice([numbered, [value], None, []]))


def _ref(draft: Draft) -> str:
    value = Raw(f"{{ref: {draft.chance.choice(REFS)}}}")
    return draft.put(draft.spot(lambda found: isinstance(found, Pairs)), value)


def _use(draft: Draft) -> str:
    block = draft.chance.choice(blocks(draft.tree))
    others = [value for one in blocks(draft.tree) for key, value in one if key == "use" and isinstance(value, str)]
    pair = next(pair for pair in block if pair[0] == "use")
    before = pair[1]
    pair[1] = draft.chance.choice([Raw(text) for text in USES] + others)
    return f"use: {before} -> {_short(flow(pair[1]))}"


def _alias(draft: Draft) -> str:
    kind = draft.chance.randrange(6)
    if kind == 0:
        return draft.put(
            draft.spot(), Raw(draft.chance.choice(["&a [*a]", "&a {b: *a}", "*nobody", "&a", "&a &b c", "*"]))
        )
    if kind == 1:
        return draft.put(draft.spot(), Raw("{<<: {a: 1}, b: 2}"))
    if kind == 2:
        return draft.put(draft.spot(), Raw(draft.chance.choice(TAGS)))
    if kind == 3:  # each level holds the one before several times
        levels, copies = draft.chance.choice([(3, 9), (8, 9), (30, 2), (60, 2), (2, 5_000)])
        first = "&l0 " + ("x" if levels < 30 else "[x]")
        lists = [first, *(f"&l{at} [{', '.join([f'*l{at - 1}'] * copies)}]" for at in range(1, levels))]
        return draft.section("vars", Raw("{" + ", ".join(f"v{at}: {text}" for at, text in enumerate(lists)) + "}"))
    holder, at = draft.spot(lambda value: isinstance(value, list) and value)
    whole, holder[at] = flow(holder[at]), Raw(f"&whole {flow(holder[at])}")
    return draft.put(draft.spot(), Raw("*whole")) + f"; &whole {_short(whole)}"


def _extends(draft: Draft) -> str:
    chance = draft.chance
    kind = chance.choice(["circle", "chain", "double", "strange", "list", "other", "broken", "many"])
    if kind in ("circle", "chain"):
        length = chance.choice([1, 2, 3, 40])
        for number in range(length):
            last = number == length - 1
            after = MAIN if kind == "circle" else "quickstart"
            draft.files[f"e{number}.yaml"] = f"extends: {after if last else f'e{number + 1}.yaml'}\n".encode()
        return draft.section("extends", chance.choice(["e0.yaml", MAIN])) + f" ({kind} of {length})"
    if kind == "double":
        depth = chance.choice([2, 5])
        for number in range(depth):
            after = "quickstart" if number == depth - 1 else f"e{number + 1}.yaml"
            draft.files[f"e{number}.yaml"] = f"extends: [{after}, {after}]\n".encode()
        return draft.section("extends", ["e0.yaml", "e0.yaml"]) + f" (doubled {depth} times)"
    if kind == "other":
        return draft.section("extends", chance.choice(sorted(sources())))
    if kind == "broken":
        draft.files["e0.yaml"] = chance.choice(
            [
                b"",
                b"\xff\xfe",
                b"a: [",
                b"- 1",
                b"null",
                b"7",
                b"x: 1",
                b"extends: {a: 1}",
                b"data: 7\ntrain: {}",
                b"\0",
            ]
        )
        return draft.section("extends", "e0.yaml") + f" ({draft.files['e0.yaml']!r})"
    if kind == "many":
        return draft.section("extends", ["quickstart"] * chance.choice([2, 20]))
    if kind == "list":
        return draft.section("extends", Raw(chance.choice(["[7]", "[null]", "{a: 1}", "[[quickstart]]", "[]", ".nan"])))
    return draft.section("extends", chance.choice([*PATHS, *STRINGS]))


def _copies(draft: Draft) -> str:
    chance = draft.chance
    keys = [key for key, _ in draft.tree if isinstance(key, str)]
    kind = chance.randrange(5)
    if kind == 0:  # a circle
        length = chance.choice([1, 2, 5, 300])
        circle = Pairs([f"v{at}", Raw(f'"${{vars.v{(at + 1) % length}}}"')] for at in range(length))
        return draft.section("vars", circle) + f" (a circle of {length})"
    if kind == 1:  # a copy of what contains it
        return draft.put(draft.spot(), Raw(f'"${{{chance.choice(keys)}}}"'))
    if kind == 2:  # each holds the one before twice
        depth = chance.choice([5, 12, 40])
        twice = [[f"v{at}", Raw(f'["${{vars.v{at - 1}}}", "${{vars.v{at - 1}}}"]')] for at in range(1, depth)]
        return draft.section("vars", Pairs([["v0", 1], *twice])) + f" (doubled {depth} times)"
    if kind == 3:  # a long chain
        length = chance.choice([10, 200, 1_500])
        chain = [[f"v{at}", Raw(f'"${{vars.v{at + 1}}}"')] for at in range(length)]
        return draft.section("vars", Pairs([*chain, [f"v{length}", 1]])) + f" (a chain of {length})"
    odd = [
        "${nobody}",
        "${a.b",
        "x${seed}",
        "${}",
        "${seed} ",
        "${train.0}",
        "${train.99.steps}",
        "${seed.x}",
        "${.}",
        "$${x}",
    ]
    return draft.put(draft.spot(), Raw(json.dumps(chance.choice([*odd, "${data.use}", f"${{{'a.' * 3_000}b}}"]))))


def _paths(draft: Draft) -> str:
    path = draft.chance.choice(PATHS)
    kind = draft.chance.randrange(3)
    if kind == 0:
        return draft.section("plugins", draft.chance.choice([[path], path, [path] * 50]))
    if kind == 1:
        return draft.section("data", Pairs([["use", "tensor-file"], ["file", path], ["shape", [2]]]))
    return draft.put(draft.spot(lambda value: isinstance(value, str)), path)


def _sections(draft: Draft) -> str:
    key = draft.chance.choice([*SECTIONS, "genfw", "components", "smoke", "requires", "paper"])
    ranges = ["{genfw: '>=0'}", "{genfw: x}", "{'a b': '>=1'}", "{torch: 7}", "{torch: '>=99'}", "{'': ''}"]
    value = Raw(draft.chance.choice([*PLAIN, *NUMBERS, *CONTROLS, *ranges, *ranges]))
    strange = Raw("{energy/mlp: {provider: 7, version: [1]}, 7: {}, data: null}")
    return draft.section(key, strange if key == "components" and draft.chance.random() < 0.5 else value)


def _overrides(draft: Draft) -> str:
    chance = draft.chance
    keys = [key for key, _ in draft.tree if isinstance(key, str)]
    inside = chance.choice(["0", "use", "x", "0.use", "-1", "99.steps", "0.optimizer.lr"])
    paths = [f"{chance.choice(keys)}.{inside}", chance.choice(keys), "train", "vars.x", "train.²"]
    paths += ["", ".", "a..b", "é", "x" * 3_000, f"train.{'0.' * 500}x", "9" * 5_000, f"train.{'9' * 5_000}"]
    path = chance.choice([*paths[:2], *paths])
    strange = ["${seed}", "'${seed}'", "[", "&a [*a]", "a: b: c", "\0"]
    value = chance.choice([*PLAIN, *NUMBERS, *HUGE, *CONTROLS, *TAGS, *strange])
    if chance.random() < 0.25:
        draft.unsets.append(path)
        return f"--unset {_short(path)}"
    draft.sets.append(f"{path}={value}" if chance.random() < 0.9 else path)
    return f"--set {_short(draft.sets[-1])}"


def _text(draft: Draft) -> str:
    chance, text = draft.chance, draft.text
    at = chance.randrange(len(text))
    lines = text.splitlines(keepends=True)
    row = chance.randrange(len(lines))
    piece = chance.choice(PIECES)
    table: dict[str, Callable[[], bytes]] = {
        f"cut at {at}": lambda: text[:at],
        f"begins at {at}": lambda: text[at:],
        f"{piece[:12]!r} at {at}": lambda: text[:at] + piece + text[at:],
        f"{piece[:12]!r} in front": lambda: piece + text,
        f"byte {at} flipped": lambda: text[:at] + bytes([text[at] ^ (1 << chance.randrange(8))]) + text[at + 1 :],
        f"line {row} twice": lambda: b"".join([*lines[: row + 1], *lines[row:]]),
        f"line {row} gone": lambda: b"".join([*lines[:row], *lines[row + 1 :]]),
        f"line {row} indented": lambda: b"".join([*lines[:row], chance.choice([b" ", b"\t", b"    "]), *lines[row:]]),
        "CRLF": lambda: text.replace(b"\n", b"\r\n"),
        "CR": lambda: text.replace(b"\n", b"\r"),
        "UTF-16": lambda: text.decode().encode("utf-16"),
        "latin-1": lambda: text.decode().encode("latin-1", "replace") + b"# \xe9\n",
        "twice": lambda: text + text,
        "tabs": lambda: text.replace(b"  ", b"\t"),
        "noise": lambda: text[:at] + chance.randbytes(chance.choice([1, 4, 64])) + text[at + 4 :],
        "nothing but noise": lambda: chance.randbytes(300),
    }
    what = chance.choice(list(table))
    draft.text = table[what]()
    return what


#: Kind -> what it does to a draft, as a sentence.
MUTATIONS: Mapping[str, Callable[[Draft], str]] = {
    "type": lambda draft: draft.swap(PLAIN),
    "number": lambda draft: draft.number(NUMBERS),
    "huge": lambda draft: draft.number(HUGE) if draft.chance.random() < 0.7 else draft.swap(HUGE),
    "string": lambda draft: draft.put(draft.spot(), draft.chance.choice(STRINGS)),
    "control": lambda draft: draft.swap(CONTROLS),
    "delete": _delete,
    "duplicate": _duplicate,
    "misspell": _misspell,
    "move": _move,
    "nest": _nest,
    "list": _listed,
    "ref": _ref,
    "use": _use,
    "alias": _alias,
    "extends": _extends,
    "copy": _copies,
    "path": _paths,
    "section": _sections,
    "override": _overrides,
    "text": _text,
}


_sources: dict[str, tuple[Pairs, bytes]] = {}


def sources() -> Mapping[str, tuple[Pairs, bytes]]:
    """Stem -> tree and text of every shipped recipe."""
    if not _sources:
        for path in sorted((ROOT / "recipes").rglob("*.yaml")):
            text = path.read_bytes()
            node = read_yaml(text.decode(), path.name, FaultList())
            assert node is not None  # shipped recipes are tested elsewhere
            _sources[path.stem] = (tree_of(node.plain()), text)
    return _sources


def mutate(kind: str, seed: int) -> Mutated:
    """One mutated recipe; the same for the same arguments. ``mixed`` is two or three mutations of any kinds."""
    chance = random.Random(f"{kind}:{seed}")
    recipe = chance.choice(sorted(sources()))
    tree, text = sources()[recipe]
    draft = Draft(copy.deepcopy(tree), text, chance)
    if kind == "mixed":
        chosen = chance.choices([name for name in MUTATIONS if name != "text"], k=chance.choice([2, 3]))
    else:
        chosen = [kind]
    done = [MUTATIONS[name](draft) for name in chosen if draft.tree and blocks(draft.tree)]
    main = draft.text if kind == "text" else written(draft.tree)
    files = {MAIN: main, **draft.files}
    return Mutated(seed, kind, recipe, "; ".join(done), files, tuple(draft.sets), tuple(draft.unsets))


def mutations(count: int, seed: int = 0) -> Iterator[Mutated]:
    """So many mutated recipes, every kind in turn."""
    kinds = [*MUTATIONS, "mixed"]
    for number in range(count):
        yield mutate(kinds[number % len(kinds)], seed + number)


# -- what genfw makes of one ------------------------------------------------------------------------------------------


def attempt(case: Mutated, registry: Registry, *, composed: bool = False) -> Outcome:
    """Check a mutated recipe; where nothing is wrong with it, write it out and read that back.

    Arguments:
        case: The recipe.
        registry: The components there are.
        composed: Build what it describes as well, as small as a smoke run does.
    """
    with fresh_folder() as folder:
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
        return measured(lambda: _examine(case, folder / MAIN, registry, composed))


def _examine(case: Mutated, path: Path, registry: Registry, composed: bool) -> Outcome:
    try:
        recipe, known = open_recipe(path, sets=case.sets, unsets=case.unsets, registry=registry)
        resolved = check(recipe, known)
        parse_recipe(resolved.dump(), search=known.recipe_dirs())
        if composed:
            compose(resolved, known, smoke=True)
    except RecipeError as error:
        if any(fault.file == "<recipe>" for fault in error.faults):
            return Outcome("internal error", f"the resolved recipe does not read back: {error.faults[0].message[:200]}")
        return judge_error(error, _lengths(path.parent))
    except Exception as error:
        return judge_error(error)
    return Outcome("ok")


@functools.cache
def _shipped_lengths() -> dict[str, int]:
    return {str(path): _length(path) for path in (ROOT / "recipes").rglob("*.yaml")}


def _lengths(folder: Path) -> dict[str, int]:
    """File -> lines, of each recipe that a fault may stand in."""
    return _shipped_lengths() | {str(path): _length(path) for path in folder.glob("*.yaml")}


def _length(path: Path) -> int:
    # What is missing at the end of a file is missing in the line after its last.
    return len(path.read_text("utf-8", errors="replace").splitlines()) + 1
