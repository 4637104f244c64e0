"""Signals that stop a run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

#: Ctrl-C, a scheduler's end, and a scheduler's warning before the end (``#SBATCH --signal=USR1@120``).
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Interrupts:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a flag that the training loop reads between steps.

    Inside :meth:`deferred` the first signal sets :attr:`requested`, and a second one raises ``KeyboardInterrupt``;
    outside of it every signal raises. Only the main thread can catch signals; in other threads nothing changes.
    """

    def __init__(self) -> None:
        #: Whether a signal has asked the run to stop.
        self.requested = False
        #: Whether that signal was SIGUSR1: the job's time is nearly over.
        self.warned = False
        self._deferred = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Catch the signals inside the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {signum: signal.signal(signum, self._on_signal) for signum in _SIGNALS}
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

    def requeue(self) -> None:
        """After a warning, have SLURM start the job again, where this is one of SLURM's.

        SLURM itself starts a preempted job again, which got SIGTERM; and nobody wants a cancelled one back.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if self.warned and job:
            said = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
            if said.returncode:
                print(f"genfw: SLURM does not start job {job} again: {said.stderr.strip()}", file=sys.stderr)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.warned = self.warned or signum == getattr(signal, "SIGUSR1", None)
        if self._deferred and not self.requested:
            self.requested = True
        else:
            raise KeyboardInterrupt
