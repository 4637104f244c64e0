"""An attempt on genfw with a hostile input: what it cost, and what its user would have seen.

Time is the processor's, so that a busy machine makes no attempt slow. Memory is the growth of the resident set at its
peak. A limit on addresses stands above both, so that a bomb ends in MemoryError and not in the machine's own death.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from genfw.errors import GenfwError, RecipeError

#: What an attempt may cost before it is a failure, in seconds and MB.
SECONDS, MEGABYTES = 2.0, 500.0
#: Where it is stopped: enough above the limits to measure how far it goes.
_STOP_SECONDS, _STOP_MEGABYTES = 4.0, 2_000.0
#: A message of more characters than anyone reads.
LONGEST = 20_000
#: Outcomes that are as they should be.
FINE = ("ok", "refused")

Case = TypeVar("Case")


@attrs.frozen
class Outcome:
    """How an attempt ended.

    Arguments:
        kind: ``ok``, ``refused``, or one of the failures: ``internal error``, ``without position``, ``slow``,
            ``large``, ``flood`` (a message that nobody reads), ``raw escape``, ``silent``, ``accepted``, ``not read``,
            ``wrong`` (numbers that are not those of the file), ``unnamed``, ``executed``, ``crash``.
        say: What was said, or raised and where.
        seconds: Time of the processor.
        megabytes: Growth of the resident set at its peak.
    """

    kind: str
    say: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether this is what should happen."""
        return self.kind in FINE


class TimeUpError(BaseException):
    """The attempt is stopped. No Exception, so that genfw's handlers let it through."""


class _Meter:
    """Peak of the resident set since it was made; the page tables' own count, reset where the system can."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.before = _status("VmRSS")

    def growth(self) -> float:
        return max(_status("VmHWM") - self.before, 0.0)


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _stop(number: int, frame: object) -> None:
    raise TimeUpError


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Stop what is inside where it takes far too much time or memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int((_status("VmSize") + _STOP_MEGABYTES) * 2**20), hard))
    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGPROF, _stop) if timed else None
    if timed:
        signal.setitimer(signal.ITIMER_PROF, _STOP_SECONDS)
    try:
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def measured(attempt: Callable[[], Outcome]) -> Outcome:
    """Make an attempt under limits; an exception that ends it becomes an outcome."""
    meter, began = _Meter(), time.process_time()
    try:
        with bounded():
            found = attempt()
    except TimeUpError:
        found = Outcome("slow", f"stopped after {_STOP_SECONDS:g} s")
    except MemoryError as error:
        found = Outcome("large", f"MemoryError {where(error)}")
    except BaseException as error:
        found = judge_error(error)
    seconds, megabytes = time.process_time() - began, meter.growth()
    if found.fine and seconds > SECONDS:
        found = attrs.evolve(found, kind="slow")
    elif found.fine and megabytes > MEGABYTES:
        found = attrs.evolve(found, kind="large")
    return attrs.evolve(found, seconds=seconds, megabytes=megabytes)


def where(error: BaseException) -> str:
    """The innermost function of genfw's that an exception passed through."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "/genfw" in one.filename]
    if not frames:
        return "outside genfw"
    path = re.sub(r".*/(genfw(?:_cli|_plugins)?/)", r"\1", frames[-1].filename)
    return f"in {frames[-1].name} of {path}"


def judge_error(error: BaseException, files: Mapping[str, int] | None = None) -> Outcome:
    """What an exception means.

    Arguments:
        error: The exception.
        files: Name -> count of lines, of the files in which a fault of a recipe may stand; any where absent.
    """
    try:
        text = str(error)
        text.encode()
    except Exception as second:
        return Outcome("internal error", f"the message of {type(error).__name__} can't be shown: {second!r}")
    short = " ".join(text.split())[:200]
    if isinstance(error, RecipeError):
        for fault in error.faults:
            if not placed(fault, files):
                return Outcome("without position", f"{fault.code}: {fault.message[:200]}")
            if len(str(fault)) > LONGEST:
                return Outcome("flood", f"{fault.code} of {len(str(fault)):,} characters: {fault.message[:80]}")
        return Outcome("refused", short)
    if isinstance(error, GenfwError):
        return Outcome("flood" if len(text) > LONGEST else "refused", f"{type(error).__name__}: {short}")
    return Outcome("internal error", f"{type(error).__name__} {where(error)}: {short}")


def placed(fault: Any, files: Mapping[str, int] | None = None) -> bool:
    """Whether a fault says where it is. GF100 is documented as having no place."""
    if fault.code == "GF100" or fault.file in ("--set", "--unset"):
        return True
    if fault.line < 1 or fault.column < 1:
        return False
    return fault.line <= files[fault.file] if files and fault.file in files else Path(fault.file).is_file()


# -- the command line -------------------------------------------------------------------------------------------------


@attrs.frozen
class Called:
    """A call of genfw: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def call_genfw(*arguments: object) -> Called:
    """Call the command line in this process, which should be a child: what it does to the process stays."""
    from genfw_cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(one) for one in arguments])
        except (TimeUpError, MemoryError):
            raise
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
    return Called(code, out.getvalue(), err.getvalue())


def judge_call(called: Called) -> Outcome:
    """What a person at the terminal makes of a call."""
    said = " ".join(called.err.split())
    if "fault of genfw" in said or "Traceback (most recent" in said:
        last = called.err.strip().splitlines()[-1] if "Traceback" in said else said
        return Outcome("internal error", last[:300])
    if "\x1b" in called.out + called.err or "\a" in called.out + called.err:
        return Outcome("raw escape", repr((called.err or called.out)[:200]))
    if len(called.out) + len(called.err) > 5 * LONGEST:
        return Outcome("flood", f"{len(called.out) + len(called.err):,} characters: {said[:100]}")
    if called.code == 0:
        return Outcome("ok", said[:300])
    return Outcome("refused" if said else "silent", said[:300] or f"exit {called.code} without a word")


# -- children ---------------------------------------------------------------------------------------------------------


def in_children(
    cases: Iterable[Case], attempt: Callable[[Case], Outcome], *, share: int = 500, hard: float = 60.0
) -> Iterator[tuple[Case, Outcome]]:
    """Make attempts in forked processes: the imports are paid once, and what kills a process costs one attempt.

    Arguments:
        cases: Given to ``attempt`` in turn.
        attempt: Makes one attempt.
        share: Cases for each process; 1 where an attempt leaves the process changed.
        hard: Seconds after which an attempt that nothing else stops is killed.
    """
    waiting = deque(cases)
    while waiting:
        child = _Child([waiting[number] for number in range(min(share, len(waiting)))], attempt)
        for _ in range(min(share, len(waiting))):
            line = child.line(hard)
            found = Outcome(**json.loads(line)) if line else child.lost(line, hard)
            yield waiting.popleft(), found
            if not line:
                break
        else:
            child.wait()


class _Child:
    """A process that makes attempts and writes each outcome into a pipe."""

    def __init__(self, cases: Sequence[Any], attempt: Callable[[Any], Outcome]) -> None:
        sys.stdout.flush()
        self.read, write = os.pipe()
        self.buffer = b""
        with warnings.catch_warnings():
            # Later versions of Python warn where there are threads; whoever calls this has none that hold a lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        try:
            os.close(self.read)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            # As for a user, and not as for these tests.
            warnings.simplefilter("ignore")
            logging.getLogger().handlers.clear()
            for case in cases:
                os.write(write, json.dumps(attrs.asdict(attempt(case))).encode() + b"\n")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def line(self, seconds: float) -> bytes | None:
        """The next line; empty at the end, None where nothing comes in time."""
        while b"\n" not in self.buffer:
            if not select.select([self.read], [], [], seconds)[0]:
                return None
            part = os.read(self.read, 65_536)
            if not part:
                return b""
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def lost(self, line: bytes | None, seconds: float) -> Outcome:
        """What became of an attempt without an outcome."""
        if line is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            return Outcome("slow", f"killed after {seconds:g} s", seconds)
        code = self.wait()
        died = f"signal {os.WTERMSIG(code)}" if os.WIFSIGNALED(code) else f"exit {os.WEXITSTATUS(code)}"
        return Outcome("crash", f"the process ended by {died}")

    def wait(self) -> int:
        os.close(self.read)
        return os.waitpid(self.pid, 0)[1]


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """A folder of its own, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="genfw-attempt-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def campaign_options(doc: str | None, noun: str) -> argparse.Namespace:
    """The options of a campaign's command; makes this process one that can fork.

    Arguments:
        doc: The command's docstring.
        noun: What it tries, in the plural.
    """
    import torch

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"{noun} whose name has this text")
    parser.add_argument("--quick", action="store_true", help="only those that the tests try")
    parser.add_argument("--show", action="store_true", help="print the failures")
    parser.add_argument("--each", action="store_true", help=f"print all {noun}")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    warnings.simplefilter("ignore")
    return given


# -- summaries --------------------------------------------------------------------------------------------------------


@attrs.define
class Tally:
    """Counts outcomes, and keeps the first failure of each kind."""

    counts: dict[str, int] = attrs.field(factory=dict)
    failures: dict[str, tuple[int, str, Outcome]] = attrs.field(factory=dict)
    seconds: float = 0.0
    megabytes: float = 0.0

    def add(self, label: str, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.kind] = self.counts.get(outcome.kind, 0) + 1
        self.seconds, self.megabytes = max(self.seconds, outcome.seconds), max(self.megabytes, outcome.megabytes)
        if not outcome.fine:
            # Numbers, quoted values and places differ from case to case; the words and the function are the kind.
            about = outcome.say if outcome.kind in ("internal error", "without position") else label
            said = re.sub(r"'[^']*'|\"[^\"]*\"|[-\d.,]+", "#", about)
            key = f"{outcome.kind}: {said[:70]}"
            count, first, shown = self.failures.get(key, (0, label, outcome))
            self.failures[key] = (count + 1, first, shown)

    @property
    def total(self) -> int:
        """Attempts so far."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Those that ended as they should not."""
        return sum(count for kind, count in self.counts.items() if kind not in FINE)

    def summary(self, noun: str, always: Iterable[str] = ("internal error",)) -> str:
        """One line on all attempts; the failures in ``always`` are named even where there are none."""
        kinds = [*always, *(kind for kind in self.counts if kind not in FINE and kind not in always)]
        parts = [f"{self.counts.get(kind, 0)} {kind}" for kind in (*FINE, *kinds)]
        worst = f"worst time {self.seconds:.2f} s, worst memory {self.megabytes:.0f} MB"
        return f"{self.total:,} {noun}: {', '.join(parts)}, {worst}"

    def show(self) -> None:
        """Print each distinct failure once."""
        for key, (count, label, outcome) in sorted(self.failures.items(), key=lambda item: -item[1][0]):
            print(f"{count:6} x {key.partition(':')[0]}: {outcome.say[:300]}")
            print(f"         e.g. {label} ({outcome.seconds:.2f} s, {outcome.megabytes:.0f} MB)")
