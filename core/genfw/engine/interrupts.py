"""Signals that stop a run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Turns SIGINT and SIGTERM into a flag that the training loop reads between steps.

    Inside :meth:`deferred` the first signal sets :attr:`requested`, and a second one raises ``KeyboardInterrupt``;
    outside of it every signal raises. Only the main thread can catch signals; in other threads nothing changes.
    """

    def __init__(self) -> None:
        #: Whether a signal has asked the run to stop.
        self.requested = False
        self._deferred = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Catch the signals inside the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {signum: signal.signal(signum, self._on_signal) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the loop finish its step, and save, before it stops."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._deferred and not self.requested:
            self.requested = True
        else:
            raise KeyboardInterrupt
