"""Hostile recipes, for ``genfw check``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from attempts import Called, call_genfw
from hostile import Hostile, Right, command
from places import ROOT

_TOP = "genfw: 1\nname: r\ndata: {use: gaussian-grid}\nprior: {use: standard-normal, dim: 2}\n"
_TOP += "decoder: {use: mlp, hidden: [4], sigma: 0.2}\n"


def _check(folder: Path) -> Called:
    """Check the recipe; what is refused without a place is no good."""
    called = call_genfw("check", "r.yaml", "--no-plugins")
    if called.code and not re.match(r"[\w./-]+\.yaml:\d+:\d+: ", called.err) and "no recipe 'r.yaml'" not in called.err:
        return Called(called.code, called.out, f"fault of genfw, which names no place: {called.err}")
    return called


def _case(
    name: str, text: str | bytes | Callable[[], str | bytes], *, right: Right = "refused", quick: bool = False
) -> Hostile:
    def make(folder: Path) -> None:
        content = text() if callable(text) else text
        (folder / "r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())

    return Hostile(f"recipe: {name}", make, _check, right, quick)


def _chain(length: int, names: int = 1) -> Callable[[Path], None]:
    """Recipes that extend one another, each the next so many times."""

    def make(folder: Path) -> None:
        for number in range(length):
            after = f"d{number + 1}.yaml" if number < length - 1 else "quickstart"
            (folder / f"d{number}.yaml").write_text(f"extends: [{', '.join([after] * names)}]\n")
        shutil.move(folder / "d0.yaml", folder / "r.yaml")

    return make


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "r.yaml")


def _aliases(levels: int, copies: int) -> str:
    lines = ["v0: &l0 [x, x]", *(f"v{n}: &l{n} [{', '.join([f'*l{n - 1}'] * copies)}]" for n in range(1, levels))]
    return _TOP + "vars:\n" + "".join(f"  {line}\n" for line in lines)


def cases() -> Iterator[Hostile]:
    """All of them."""
    yield _case("alias bomb, 9 levels of 9", _aliases(9, 9), quick=True)
    yield _case("alias bomb, 60 levels of 2", _aliases(39, 2), quick=True)
    yield _case("alias in itself", _TOP + "vars: &a {b: *a}\n", quick=True)
    for depth in (41, 1_000, 100_000):
        yield _case(f"{depth:,} brackets", _TOP + "vars: " + "[" * depth + "]" * depth, quick=depth == 1_000)
        yield _case(f"{depth:,} open brackets", _TOP + "vars: " + "[" * depth)
        yield _case(f"{depth:,} dashes", _TOP + "vars:\n  a:\n   " + "- " * depth + "x\n", quick=depth == 1_000)
    yield _case("5,000 braces", _TOP + "vars: " + "{a: " * 5_000 + "}" * 5_000)
    yield _case("21 MB of one text", lambda: _TOP + "description: " + "x" * 21_000_000 + "\n", right="either")
    yield _case("21 MB of a list", lambda: _TOP + "vars: {a: [" + "x, " * 7_000_000 + "]}\n")
    yield _case(
        "21 MB of mappings", lambda: _TOP + "vars:\n" + "".join(f"  k{n}: {{a: 1}}\n" for n in range(1_300_000))
    )
    yield _case("21 MB of comments", lambda: _TOP + "# xxxxxxxx\n" * 1_900_000, right="either")
    yield _case("21 MB of empty lines", lambda: _TOP + "\n" * 21_000_000, right="either")
    yield _case("21 MB of unknown sections", lambda: _TOP + "".join(f"key{n}: 1234\n" for n in range(1_300_000)))
    yield _case("21 MB of tags", lambda: _TOP + "vars:\n" + "  - !x y\n" * 2_300_000)
    yield _case("21 MB of documents", lambda: _TOP + "---\na\n" * 3_500_000)
    yield _case("9,000 unknown sections", _TOP + "".join(f"key{n}: 1\n" for n in range(9_000)))
    yield _case(
        "9,000 unknown parameters", _TOP + "energy: {use: mlp, " + ", ".join(f"k{n}: 1" for n in range(9_000)) + "}\n"
    )
    yield _case("9,000 tags", _TOP + "vars:\n" + "  - !x y\n" * 9_000)
    yield _case("9,000 keys that stand twice", _TOP + "vars: {" + "a: 1, " * 9_000 + "}\n")
    yield _case("9,000 merge keys", _TOP + "vars: {" + "<<: {}, " * 9_000 + "}\n")
    yield _case(
        "9,000 copies of nothing", _TOP + "vars:\n" + "".join(f'  v{n}: "${{no.v{n}}}"\n' for n in range(9_000))
    )
    yield _case("9,000 stages that are none", _TOP + "train:\n" + "".join(f"  - {{use: s{n}}}\n" for n in range(9_000)))
    yield _case("9,000 faults on one long line", _TOP + "train: [" + "{use: nothing}, " * 9_000 + "]\n")
    yield _case("a key of 1 MB", _TOP + "x" * 1_000_000 + ": 1\n")
    yield _case("a name of a component of 1 MB", _TOP + "energy: {use: " + "x" * 1_000_000 + "}\n")
    yield _case("an integer of 5,000 digits", _TOP + "seed: " + "9" * 5_000 + "\n", quick=True)
    yield _case("an integer of a million digits", _TOP + "seed: " + "9" * 1_000_000 + "\n")
    yield _case("10**400 for a float", _TOP.replace("0.2", "1" + "0" * 400), quick=True)
    yield _case("a float of a million digits", _TOP.replace("0.2", "0." + "1" * 1_000_000), right="either")
    yield _case("UTF-16", _TOP.encode("utf-16"), quick=True)
    yield _case("bytes that are no UTF-8", _TOP.encode() + b"# \xff\n", quick=True)
    yield _case("zeros", b"\0" * 10_000)
    yield _case("nothing", b"", right="either")
    yield _case("control characters as a value", _TOP + 'energy: {use: "\\e]0;title\\a\\e[31mred"}\n', quick=True)
    yield _case("control characters as a key", _TOP + '"\\e[2J": 1\n', quick=True)
    yield _case("control characters as they are", _TOP + "energy: {use: \x1b[31mred}\n")
    yield _case("half a surrogate pair", _TOP + 'name: "\\uD800"\n')
    yield _case("an overlong plugin", _TOP + f"plugins: [{'x' * 5_000}.py]\n", quick=True)
    yield _case("a plugin of nobody's", _TOP + "plugins: [~nobody-here/x.py]\n", quick=True)
    yield _case("a plugin that is a device", _TOP + "plugins: [/dev/zero]\n")
    yield _case("a recipe that is a device", "extends: /dev/zero\n")
    yield _case("a recipe of nobody's", "extends: ~nobody-here/x\n")
    yield _case("an overlong recipe", f"extends: {'x' * 5_000}\n", quick=True)
    yield _case("all of the disk", "extends: ../../../../../../../../\n")
    yield _case("a range of nonsense", _TOP + "requires: {'../..': '>=1', torch: '" + ">=1," * 20_000 + "'}\n")
    yield Hostile("recipe: doubled 25 times", _chain(25, 2), _check, quick=False)
    yield Hostile("recipe: 10 names each, 6 deep", _chain(6, 10), _check)
    yield Hostile("recipe: a chain of 300", _chain(300), _check, "either")
    yield Hostile("recipe: a chain of 1,100", _chain(1_100), _check)
    yield Hostile("recipe: a folder", lambda folder: (folder / "r.yaml").mkdir(), _check, quick=True)
    yield Hostile("recipe: a pipe without a writer", _fifo, _check)
    yield Hostile("recipe: a name of 5,000 letters", lambda folder: None, command("check", "x" * 5_000, "--no-plugins"))
    yield Hostile("recipe: zero byte in the name", lambda folder: None, command("check", "a\0b", "--no-plugins"))
    yield Hostile("recipe: a home of nobody's", lambda folder: None, command("check", "~nobody-here/x", "--no-plugins"))
    yield from _sets()


def _sets() -> Iterator[Hostile]:
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    for name, value in {
        "5,000 digits": "seed=" + "9" * 5_000,
        "10**400": "decoder.sigma=1" + "0" * 400,
        "1,000 steps": "train." + "0." * 1_000 + "x=1",
        "5,000 brackets": "vars.a=" + "[" * 5_000,
        "control characters": "name=\x1b[31m",
        "an alias in itself": "train=&a [*a]",
    }.items():
        use = command("check", str(quickstart), "--no-plugins", "--set", value)
        yield Hostile(f"recipe: --set with {name}", lambda folder: None, use)
