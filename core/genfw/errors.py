"""Every failure that genfw expects, by who can fix it.

``exit_code`` is what the command line returns for it: 1 the run failed, 3 the recipe is wrong,
4 a component or plugin is wrong. Besides, 6 says that a run was carried out, and that its numbers are not to be relied
upon.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import attrs

#: Characters of a line that a fault shows, and faults that a message shows.
_WIDEST, _SHOWN = 200, 50


class GenfwError(Exception):
    """Base of all expected failures; its text is a sentence with a remedy, fit to be shown without a traceback."""

    exit_code: ClassVar[int] = 1


@attrs.frozen
class Fault:
    """One thing that is wrong in a recipe, and where.

    Arguments:
        code: Stable identifier, such as ``GF203``.
        message: What was given, what exists.
        file: The file of the text, or ``--set`` for an override.
        line: Line, counted from 1; 0 where there is none.
        column: Column, counted from 1; 0 where there is none.
        source: The line itself, shown with a caret under ``column``.
        hint: What to do next, often a command.
    """

    code: str
    message: str
    file: str = "<recipe>"
    line: int = 0
    column: int = 0
    source: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{where}: error[{self.code}]: {self.message}"
        if self.source:
            line, at = _window(self.source.rstrip(), max(self.column - 1, 0))
            text += f"\n    {line}\n    {' ' * at}^"
        if self.hint:
            text += f"\n    {self.hint}"
        return text


def _window(line: str, at: int) -> tuple[str, int]:
    """The part of a line around one of its columns, and that column in the part."""
    if len(line) <= _WIDEST:
        return line, at
    begin = min(max(at - _WIDEST // 2, 0), len(line) - _WIDEST)
    before, after = "..." if begin else "", "..." if begin + _WIDEST < len(line) else ""
    return f"{before}{line[begin : begin + _WIDEST]}{after}", at - begin + len(before)


class RecipeError(GenfwError):
    """A recipe is wrong. Carries every fault that one pass found, in the order of the file; its text has the first."""

    exit_code = 3

    def __init__(self, faults: Sequence[Fault] | Fault | str) -> None:
        if isinstance(faults, str):
            faults = [Fault("GF100", faults)]
        elif isinstance(faults, Fault):
            faults = [faults]
        self.faults: tuple[Fault, ...] = tuple(faults)
        lines = [str(fault) for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            lines.append(f"... and at least {len(self.faults) - _SHOWN} more faults")
        super().__init__("\n".join(lines))


class PluginError(GenfwError):
    """A plugin or component can't be used: it is broken, missing, ambiguous, or needs a package that is absent."""

    exit_code = 4


class BrokenPartError(PluginError):
    """A component raised what no interface allows, or returned what its own rules out; the message names it."""


class NoSuchComponentError(PluginError):
    """A name belongs to no component, to one of another kind, or to several.

    Arguments:
        code: The code of the fault where a recipe names it (``docs/errors.md``).
        message: What was named, and what there is.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ContractError(GenfwError):
    """A component was given, or returned, something that its interface rules out (a shape, a range, an ability)."""

    exit_code = 4


class DataError(GenfwError):
    """A data set is absent, unreadable, or not what it says."""


class AbsentDataError(DataError):
    """The files of a data set are not there: in a smoke run, and only then, synthetic rows stand in for them."""


class DivergenceError(GenfwError):
    """Training left its healthy range, and no permitted action brought it back."""


class RunError(GenfwError):
    """A run directory or checkpoint is absent, damaged, in use by another process, or written by other code."""


class DiskError(RunError):
    """A file can't be written: the disk is full, a limit is reached, or it can be read only."""


class ChangedRecipeError(RunError):
    """The recipe in a run directory is not the one that its checkpoints were written under."""


class LostProcessError(RunError):
    """Another process of the run ended before it answered."""


def article(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option that ``word`` most likely misspells, or ``None``."""
    if len(word) > 100:  # no name is so long, and the search takes its time
        return None
    folded = {option.casefold().replace("_", "-"): option for option in options}
    found = difflib.get_close_matches(word.casefold().replace("_", "-"), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def quoted(words: Iterable[str]) -> str:
    """``a, b, c`` for a sentence; ``none`` if there are none."""
    return ", ".join(words) or "none"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a sentence about an unknown ``word``: the likely spelling, or the options."""
    options = list(options)
    likely = closest(word, options)
    if likely is not None:
        return f" - did you mean '{likely}'?"
    if not options:
        return ""
    shown = quoted(options[:12]) + (", ..." if len(options) > 12 else "")
    return f"; there {'is' if len(options) == 1 else 'are'} {shown}"


def shown(value: object, most: int = 100) -> str:
    """The start of a value read from a file, printable; the type's name if it is neither text nor a number.

    Arguments:
        value: Anything.
        most: Characters to show.
    """
    text = str(value) if isinstance(value, (str, int, float)) else f"<{type(value).__name__}>"
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:most])
    return printable + ("..." if len(text) > most else "")


@contextlib.contextmanager
def readable(what: object, remedy: str = "") -> Iterator[None]:
    """Turn whatever a library raises over a file into one error that names the file.

    Damaged files make parsers stumble over anything, so every kind of exception counts. Keep the block to calls of the
    library: a mistake of genfw's own would look like a damaged file.

    Arguments:
        what: The file, at the beginning of the message.
        remedy: What to do, at its end.

    Raises:
        DataError: The block raised; errors of genfw's pass as they are.
    """
    try:
        yield
    except GenfwError:
        raise
    except Exception as error:
        said = shown(" ".join(str(error).split()), 300) or type(error).__name__
        raise DataError(f"{what} can't be read: {said.rstrip('.')}. {remedy}".rstrip()) from error


def text_of(error: BaseException, most: int = 2000) -> str:
    """Text of an exception, of bounded length, also where a plugin's own exception can't give one."""
    try:
        text = str(error)
    except (Exception, SystemExit, GeneratorExit) as second:
        return f"its text can't be shown: {type(second).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(error: BaseException, most: int = 500) -> str:
    """Type and text of an exception: printable, without line breaks, of bounded length.

    Arguments:
        error: Any exception, also one of a plugin's own whose text raises another.
        most: Characters of its text to show.
    """
    text = " ".join(text_of(error).split())
    return f"{type(error).__name__}: {shown(text, most)}" if text else type(error).__name__


#: What the system says of a disk that takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def is_disk_fault(error: BaseException) -> bool:
    """Whether an exception tells of a full or broken disk, which is nobody's mistake and may be mended."""
    return isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in _FULL)
