"""Progress of a run on stderr: one live bar per stage on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.color import Color
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.style import Style
from rich.text import Text

from genfw.plugins.hookspecs import RunInfo
from genfw.training.tracker import Tracker
from genfw_cli.output import is_live, visible

#: Columns of a row that are not scalars of the stage.
_BOOKKEEPING = ("stage", "name", "step", "time")
#: Scalars to show first; others follow while there is room.
_FIRST = ("energy/gap", "loss", "loss/total")
_SHOWN = 4


class Rate:
    """Steps per second over the newest rows, and the time left at that rate.

    Arguments:
        rows: Count of rows: enough to smooth, few enough to follow a change of pace.
    """

    def __init__(self, rows: int = 10) -> None:
        self._points: deque[tuple[int, float]] = deque(maxlen=rows)

    def add(self, step: int, seconds: float) -> None:
        """Add the time at which ``step`` was completed; a smaller step (a new stage, a rollback) starts over."""
        if self._points and step <= self._points[-1][0]:
            self._points.clear()
        self._points.append((step, seconds))

    @property
    def per_second(self) -> float | None:
        """Steps per second; unknown before there are two rows."""
        (step0, time0), (step1, time1) = (self._points[0], self._points[-1]) if self._points else ((0, 0.0), (0, 0.0))
        return (step1 - step0) / (time1 - time0) if time1 > time0 else None

    def left(self, steps: int) -> float | None:
        """Seconds until ``steps`` more are done."""
        return steps / self.per_second if self.per_second else None


def duration(seconds: float | None) -> str:
    """``1:02:03`` or ``02:03``; ``--:--`` where unknown."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def scalars(row: Mapping[str, Any]) -> str:
    """The row's most important scalars: the energy gap, then losses, then the rest while there is room."""
    values = {
        name: value for name, value in row.items() if name not in _BOOKKEEPING and isinstance(value, (int, float))
    }
    names = [name for name in _FIRST if name in values] + [name for name in values if name not in _FIRST]
    return "  ".join(f"{'gap' if name == 'energy/gap' else name} {values[name]:.4g}" for name in names[:_SHOWN])


def thumbnail(path: Path, columns: int = 64) -> Text:
    """A picture in coloured half blocks, two pixels in each character.

    Arguments:
        path: A PNG.
        columns: Most characters in a line.
    """
    from matplotlib.image import imread

    pixels = (imread(path)[..., :3] * 255).astype(int)
    size = -(-pixels.shape[1] // columns)
    rows, across = pixels.shape[0] // (2 * size) * 2, pixels.shape[1] // size
    mean = pixels[: rows * size, : across * size].reshape(rows, size, across, size, 3).mean((1, 3)).astype(int)
    text = Text()
    for upper, lower in zip(mean[::2], mean[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text


class _Progress(Tracker):
    """Shared by both displays.

    Arguments:
        stream: Stream for lines.
        clock: Seconds, from any origin.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.clock = clock
        self.rate = Rate()
        self._stage = -1
        self._began, self._first_step = clock(), 0
        self.stages: tuple[tuple[str, int], ...] = ()
        #: The run directory, set by :meth:`start`; a resume command needs it.
        self.directory: Path | None = None

    def start(self, run: RunInfo) -> None:
        self.stages, self.directory = run.stages, run.directory
        self._began = self.clock()
        self.say(f"{run.name}: {run.directory}")
        if run.resumed_at is not None:
            stage, step = run.resumed_at
            self._first_step = step
            self.say(f"goes on at stage {stage + 1} of {len(run.stages)}, step {step}")

    def event(self, kind: str, message: str) -> None:
        """Print every event except stage changes and checkpoints, which the display shows."""
        if kind == "stage":
            self._began, self._first_step = self.clock(), 0
        elif kind != "checkpoint":
            self.say(f"{kind}: {message}")

    def say(self, text: str) -> None:
        """Print a line."""
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the run goes on
            print(visible(text), file=self.stream, flush=True)

    def pace(self, row: Mapping[str, Any]) -> tuple[int, int, str, str]:
        """Step, steps of the stage, rate and time left as texts."""
        index, step = int(row["stage"]), int(row["step"])
        steps = self.stages[index][1] if index < len(self.stages) else step
        if index != self._stage:
            # The stage's beginning is the first point, so that its first row has a rate. It was taken by this clock.
            self.rate = Rate()
            self.rate.add(self._first_step, float(row["time"]) - (self.clock() - self._began))
            self._stage = index
        self.rate.add(step, float(row["time"]))
        speed = self.rate.per_second
        return (
            step,
            steps,
            "" if speed is None else f"{speed:.3g} step/s",
            duration(self.rate.left(max(steps - step, 0))),
        )

    def title(self, row: Mapping[str, Any]) -> str:
        """``stage 1/2 elbo``."""
        return f"stage {int(row['stage']) + 1}/{max(len(self.stages), 1)} {row['name']}"


class PlainProgress(_Progress):
    """A line when a stage begins or ends, and every ``interval`` seconds between: for logs and pipes.

    Arguments:
        stream: Stream for lines; stderr by default.
        interval: Least seconds between lines of one stage.
        clock: Seconds, from any origin.
    """

    def __init__(
        self, stream: TextIO | None = None, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, clock)
        self.interval = interval
        self._printed = -float("inf")

    def log(self, row: Mapping[str, Any]) -> None:
        first = row["stage"] != self._stage
        step, steps, speed, left = self.pace(row)
        now = self.clock()
        if now - self._printed >= self.interval or first or step >= steps:
            self._printed = now
            parts = (f"{self.title(row)}: step {step}/{steps}", speed, f"ETA {left}", scalars(row))
            self.say("  ".join(part for part in parts if part))


class _Bars(Progress):
    """Bars with a line of numbers below them."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.numbers:
            yield Text(f"  {self.numbers}", style="dim", no_wrap=True, overflow="ellipsis")


class TerminalProgress(_Progress):
    """A live bar per stage with rate and time left, and the newest numbers below.

    Arguments:
        stream: A terminal; stderr by default.
        console: Console to use instead.
        clock: Seconds, from any origin.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, clock)
        self.bars = _Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("ETA {task.fields[left]}"),
            console=console or Console(file=self.stream),
            refresh_per_second=4,
        )
        self._tasks: dict[int, TaskID] = {}

    def start(self, run: RunInfo) -> None:
        super().start(run)
        self.bars.start()

    def log(self, row: Mapping[str, Any]) -> None:
        step, steps, speed, left = self.pace(row)
        index = int(row["stage"])
        if index not in self._tasks:
            self._tasks[index] = self.bars.add_task(self.title(row), total=steps, speed="", left="")
        self.bars.numbers = scalars(row)
        self.bars.update(self._tasks[index], completed=step, total=steps, speed=speed, left=left)

    def event(self, kind: str, message: str) -> None:
        super().event(kind, message)
        if kind == "sample" and self.directory is not None and self.bars.console.color_system == "truecolor":
            with contextlib.suppress(OSError, ValueError):  # a picture that can't be read is no reason to stop
                self.bars.console.print(thumbnail(self.directory / "samples" / message))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.bars.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def end(self, status: str) -> None:
        self.bars.stop()


def progress(stream: TextIO | None = None) -> PlainProgress | TerminalProgress:
    """The display that fits ``stream`` (stderr by default)."""
    stream = sys.stderr if stream is None else stream
    return TerminalProgress(stream) if is_live(stream) else PlainProgress(stream)
