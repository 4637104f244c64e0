"""Hostile files of a run, for ``runs``, ``report``, ``compare``, ``resume``; and edited ones, which must be noticed."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attempts import Called, call_genfw
from hostile import Hostile, Right
from tiny_recipe import TINY_VAE

_RECIPE = (
    TINY_VAE
    + """train:
  - {use: elbo, steps: 6, batch: 8, optimizer: {use: adam, lr: 1e-3}}
sample: {count: 4}
evaluate: [{use: sampling-speed, batch: 4, repeats: 1}]
engine: {log_every: 2, checkpoint_every: 2, accelerator: cpu, threads: 1}
"""
)

#: Files of a run, and which commands read them.
FILES = {
    "resolved.yaml": ("runs", "report", "compare", "resume"),
    "recipe.yaml": ("report",),
    "STATUS": ("runs", "report", "resume"),
    "evaluation.json": ("runs", "report", "compare", "resume"),
    "metrics.jsonl": ("report", "resume"),
    "events.jsonl": ("report", "resume"),
    "environment.json": ("report", "resume"),
    "checkpoints/{last}/checkpoint.json": ("runs", "report", "resume"),
    "checkpoints/{last}/state.json": ("resume",),
    "checkpoints/{last}/state.safetensors": ("resume",),
    "checkpoints/index.json": ("report", "resume"),
}


def _level(number: int) -> bytes:
    """A list of nine of the list before."""
    before, name = b"%c" % (97 + number), b"%c" % (98 + number)
    return name + b": &" + name + b" [" + b", ".join([b"*" + before] * 9) + b"]\n"


CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null\n",
    "a number": b"7\n",
    "a text": b'"text"\n',
    "a list": b"[]\n",
    "an empty mapping": b"{}\n",
    "a mapping of lists": b'{"results": [[]], "kind": [], "state": [], "step": [], "files": [], "name": []}\n',
    "a mapping of numbers": b'{"results": 7, "kind": 7, "state": 7, "step": "x", "files": 7, "stage": -1, "name": 7}\n',
    "100,000 brackets": b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "100,000 mappings": b'{"a": ' * 100_000 + b"7" + b"}" * 100_000 + b"\n",
    "5,000 digits": b'{"step": ' + b"9" * 5_000 + b', "time": ' + b"9" * 5_000 + b"}\n",
    "numbers that are none": b'{"state": NaN, "step": Infinity, "time": 1e999, "stage": NaN}\n',
    "bytes that are no UTF-8": b'name: "\xff\xfe"\n{"state": "\xff"}\n',
    "zeros": b"\0" * 5_000,
    "half a surrogate pair": b'{"state": "\\ud800", "name": "\\ud800", "kind": "\\ud800", "message": "\\ud800"}\n',
    "control characters": b'{"name": "\\u001b[31mred\\u0007", "state": "\\u001b[31m", "stage": "\\u001b]0;x\\u0007"}\n',
    "an alias bomb": b"a: &a [x, x]\n" + b"".join(_level(n) for n in range(9)),
    "tags": b"!!python/object/apply:os.system ['touch EXECUTED']\n",
}  # fmt: skip


def prepare(folder: Path) -> Path:
    """A finished run, and one that stopped after its training; what their folder is."""
    (folder / "tiny.yaml").write_text(_RECIPE)
    for name in ("good", "other"):
        called = call_genfw("run", folder / "tiny.yaml", "--dir", folder / "runs" / "tiny" / name, "--no-plugins")
        assert called.code == 0, called.err
    for words in (["report", "good"], ["runs"], ["compare", "good", "other"]):  # their imports are paid here
        called = call_genfw(*words, "--root", folder / "runs")
        assert called.code == 0, called.err
    return folder / "runs"


def _last(run: Path) -> str:
    """The name of the newest checkpoint."""
    found = [path for path in (run / "checkpoints").iterdir() if path.is_dir() and not path.name.startswith(".")]
    return max(found, key=lambda path: json.loads((path / "checkpoint.json").read_text())["sequence"]).name


def _copy(base: Path, folder: Path) -> Path:
    """Both runs, the second as if it was interrupted before its evaluation."""
    shutil.copytree(base, folder / "runs")
    run = folder / "runs" / "tiny" / "other"
    status = json.loads((run / "STATUS").read_text())
    (run / "STATUS").write_text(json.dumps({**status, "state": "interrupted"}))
    return run


def _words(name: str) -> list[str]:
    words = {
        "runs": ["runs"],
        "report": ["report", "other"],
        "compare": ["compare", "good", "other"],
        "resume": ["resume", "runs/tiny/other", "--no-plugins"],
    }
    return words[name]


def _case(
    base: Callable[[], Path], what: str, change: Callable[[Path], None], name: str, right: Right, quick: bool
) -> Hostile:
    def use(folder: Path) -> Called:
        called = call_genfw(*_words(name))
        if name == "runs" and called.code == 0 and "good" not in called.out:
            return Called(1, "", f"one broken run hides the others: {called.out}")
        return called

    return Hostile(f"run: {what}, under {name}", lambda folder: change(_copy(base(), folder)), use, right, quick)


def _file(run: Path, file: str) -> Path:
    return run / file.format(last=_last(run))


def _replace(file: str, content: bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = _file(run, file)
        if path.suffix == ".jsonl":
            content_now = path.read_bytes() + content.rstrip(b"\n") + b"\n"
            path.write_bytes(content_now)
        else:
            path.write_bytes(content)

    return change


def _folder(file: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = _file(run, file)
        path.unlink()
        path.mkdir()

    return change


def _wrong_type(file: str, seed: int) -> Callable[[Path], None]:
    """One value of a valid document replaced by one of another type."""

    def change(run: Path) -> None:
        path, chance = _file(run, file), random.Random(f"{file}:{seed}")
        if path.suffix == ".jsonl":
            lines = path.read_text().splitlines()
            at = chance.randrange(len(lines))
            lines[at] = json.dumps(_swapped(json.loads(lines[at]), chance))
            path.write_text("\n".join(lines) + "\n")
        else:
            path.write_text(json.dumps(_swapped(json.loads(path.read_text()), chance)))

    return change


def _swapped(value: Any, chance: random.Random) -> Any:
    spots: list[tuple[Any, Any]] = []

    def walk(one: Any) -> None:
        for key in one if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ():
            spots.append((one, key))
            walk(one[key])

    walk(value)
    holder, key = chance.choice(spots)
    if isinstance(holder, dict) and chance.random() < 0.2:
        del holder[key]
    else:
        odd = [None, True, -1, 7, 2**70, float("nan"), 1e300, "", "text", "\x1b[31m", [], [7], {}, {"a": 7}, [[]]]
        holder[key] = chance.choice(odd)
    return value


# -- edits that a reader has to notice --------------------------------------------------------------------------------


def _digit(file: str, seed: int) -> Callable[[Path], None]:
    """One digit of a file changed into another."""

    def change(run: Path) -> None:
        path, chance = _file(run, file), random.Random(f"{file}:{seed}")
        text = path.read_text()
        at = chance.choice([found.start() for found in re.finditer(r"\d", text)])
        path.write_text(text[:at] + str((int(text[at]) + chance.randrange(1, 10)) % 10) + text[at + 1 :])

    return change


def _bit(file: str, seed: int) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path, chance = _file(run, file), random.Random(f"{file}:{seed}")
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)

    return change


def cases(base: Callable[[], Path]) -> Iterator[Hostile]:
    """All of them, from the runs that :func:`prepare` made; called when a case is."""
    for file, readers in FILES.items():
        # One broken run must not hide the others; the other readers may show what is left.
        for name in readers:
            right: Right = "ok" if name == "runs" else "either"
            for what, content in CONTENTS.items():
                quick = name in ("runs", "report") and what in ("a mapping of lists", "bytes that are no UTF-8")
                yield _case(base, f"{file} of {what}", _replace(file, content), name, right, quick)
            yield _case(
                base, f"{file} is absent", lambda run, file=file: _file(run, file).unlink(), name, "either", False
            )
            yield _case(base, f"{file} is a folder", _folder(file), name, "either", False)
            if file.endswith((".json", ".jsonl", "STATUS")):
                for seed in range(6):
                    what = f"{file} with a value of another type, seed {seed}"
                    yield _case(base, what, _wrong_type(file, seed), name, right, seed == 0 and name == "report")
    yield from edits(base)


#: Files that decide what a resumed run computes.
EDITED = ("resolved.yaml", "checkpoints/{last}/checkpoint.json", "checkpoints/{last}/state.json")


def edits(base: Callable[[], Path]) -> Iterator[Hostile]:
    """Runs that were edited or damaged where it changes what they compute."""
    for file in EDITED:
        for seed in range(10):
            yield _case(
                base, f"a digit of {file} changed, seed {seed}", _digit(file, seed), "resume", "noticed", seed == 0
            )
    for file in (*EDITED, "checkpoints/{last}/state.safetensors"):
        for seed in range(5):
            yield _case(base, f"a bit of {file} flipped, seed {seed}", _bit(file, seed), "resume", "noticed", False)
