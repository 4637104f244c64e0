"""Where the host waits for the pretended device, and how many kernels it is given."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

#: Functions of genfw that give a finding its place: end of the file's path, function -> place.
PLACES = {
    ("models/chains.py", "run_chain"): "chain",
    ("engine/loop.py", "_on_device"): "batch",
    ("engine/loop.py", "_log_row"): "row",
    ("engine/loop.py", "_weights_finite"): "checkpoint",
    ("engine/loop.py", "_draw_snapshot"): "snapshot",
    ("engine/recovery.py", "save"): "checkpoint",
    ("engine/loop.py", "_steps"): "step",
    ("evaluation/measure.py", "measure"): "metric",
}
#: Sources of which a finding names the line.
_WATCHED = ("/genfw/", "/genfw_plugins/", "/fake_cuda/faults.py")


class Wait(NamedTuple):
    """What the host waits for, the line that asks for it, and the place of that line in a run."""

    operation: str
    line: str
    place: str


#: How often the host waited.
waits: Counter[Wait] = Counter()
#: Kernels launched, by place.
launches: Counter[str] = Counter()

_place_of: dict[object, str | None] = {}


def clear() -> None:
    """Forget what was found so far."""
    waits.clear()
    launches.clear()


def note_wait(operation: str) -> None:
    """Count a wait at the place that led to it."""
    line = "?"
    for frame in _frames():
        name = frame.f_code.co_filename
        if any(part in name for part in _WATCHED) and "/site-packages/" not in name:
            line = f"{'/'.join(Path(name).parts[-3:])}:{frame.f_lineno}"
            break
    waits[Wait(operation, line, _place())] += 1


def note_launch() -> None:
    """Count a kernel at the place that led to it."""
    launches[_place()] += 1


def _frames() -> Iterator[FrameType]:
    """The frames that led here, innermost first; after those of autograd's thread, those of the main thread."""
    at: FrameType | None = sys._getframe(1)
    while at is not None:
        yield at
        at = at.f_back
    if threading.current_thread() is not threading.main_thread():
        at = sys._current_frames().get(threading.main_thread().ident or 0)
        while at is not None:
            yield at
            at = at.f_back


def _place() -> str:
    for frame in _frames():
        code = frame.f_code
        if code not in _place_of:
            named = (place for (file, name), place in PLACES.items() if _is(code, file, name))
            _place_of[code] = next(named, None)
        place = _place_of[code]
        if place is not None:
            return place
    return "elsewhere"


def _is(code: object, file: str, name: str) -> bool:
    return code.co_name == name and code.co_filename.endswith(file)  # type: ignore[attr-defined]
