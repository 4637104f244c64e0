"""A hostile file: how it is made, who reads it, and what is right; the files themselves stand in ``hostile_*``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs

from attempts import Called, Outcome, call_genfw, fresh_folder, judge_call, judge_error, measured

#: What payloads make when they run, in the folder of their case.
MARKER = "EXECUTED"

Right = Literal["refused", "ok", "either", "noticed"]


#: The words for a file that is not as it was written.
_NOTICED = re.compile(r"damaged|edited|altered|SHA-256|digest|hash", re.IGNORECASE)


class WrongError(Exception):
    """What was read is not what the file holds."""


@attrs.frozen
class Hostile:
    """One hostile input.

    Arguments:
        name: Reader and kind, such as ``recipe: alias bomb``.
        make: Writes the files into a folder that is there.
        use: Reads them, in that folder; what it returns or raises is judged.
        right: What should happen: it is refused; it is read; either of the two; or, where it may go on, it says so.
        quick: Among those that the default tests try.
    """

    name: str
    make: Callable[[Path], None] = attrs.field(repr=False)
    use: Callable[[Path], Any] = attrs.field(repr=False)
    right: Right = "refused"
    quick: bool = False


def attempt(case: Hostile) -> Outcome:
    """Hand one hostile input to its reader, in this process, which should be a child."""
    with fresh_folder() as folder:
        os.chdir(folder)
        case.make(folder)
        found = measured(lambda: _judge(case, folder))
        executed = (folder / MARKER).exists()
        os.chdir("/")
    if executed:
        return attrs.evolve(found, kind="executed", say=f"code of the file ran; then: {found.say}")
    if found.kind == "ok" and case.right in ("refused", "noticed"):
        return attrs.evolve(found, kind="accepted", say=found.say or "read without a word")
    if found.kind == "refused" and case.right == "ok":
        return attrs.evolve(found, kind="not read")
    return found


def _judge(case: Hostile, folder: Path) -> Outcome:
    try:
        answer = case.use(folder)
    except WrongError as error:
        return Outcome("wrong", str(error))
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        return judge_error(error)
    if not isinstance(answer, Called):
        return Outcome("ok", "" if answer is None else str(answer))
    found = judge_call(answer)
    if case.right == "noticed" and found.kind == "ok" and _NOTICED.search(answer.err):
        return attrs.evolve(found, kind="refused")
    return found


def command(*arguments: str) -> Callable[[Path], Called]:
    """A reader: the command line, called in the case's folder."""
    return lambda folder: call_genfw(*arguments)
