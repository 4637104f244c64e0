"""The lock of a run directory: one writer at a time.

The holder touches its lock again and again. Another process of the same host asks the kernel whether the holder lives;
on another host, a lock that has not been touched for a while is a dead process's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genfw.errors import RunError
from genfw.runs.files import parse_json, write_atomically

#: Seconds between touches of a lock, and seconds without one after which another host takes it over.
HEARTBEAT, EXPIRY = 10.0, 60.0


@contextlib.contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Lock a run against other processes. A dead process's lock is taken over.

    Arguments:
        run_dir: The run directory.

    Raises:
        RunError: Another process has locked it.
    """
    lock, own = _lock(run_dir), _this_process()
    _take(run_dir, lock, own)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(lock, own, over), daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        if _read_holder(lock) == own:
            lock.unlink(missing_ok=True)


def is_held(run_dir: Path) -> bool:
    """Whether a living process has locked the run."""
    holder = _read_holder(_lock(run_dir))
    return holder is not None and _alive(holder, _lock(run_dir))


def _take(run_dir: Path, lock: Path, own: Mapping[str, Any]) -> None:
    first, end = _touched(lock), time.monotonic() + EXPIRY
    while True:
        with _one_at_a_time(run_dir / ".lock-guard"):
            holder, touched = _read_holder(lock), _touched(lock)
            # The clocks of hosts and file servers differ, so the time counts in which this process saw no touch.
            silent = touched == first and time.monotonic() >= end
            if holder is None or silent or not _alive(holder, lock):
                write_atomically(lock, json.dumps(own))
                return
        if touched != first or _is_here(holder):
            raise RunError(
                f"{run_dir} is in use by process {holder['pid']} on {holder['host']}; wait for it, or stop it "
                f"(if that process is no run of genfw, delete {lock})"
            )
        time.sleep(min(1.0, HEARTBEAT / 2))


def _touched(lock: Path) -> float | None:
    try:
        return lock.stat().st_mtime
    except OSError:
        return None


def _beat(lock: Path, own: Mapping[str, Any], over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        if _read_holder(lock) == own:  # not one that took the lock over, or a removed one
            with contextlib.suppress(OSError):
                os.utime(lock)


def _lock(run_dir: Path) -> Path:
    return run_dir / "LOCK"


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def _started(pid: int) -> str | None:
    """Start time of a process in kernel ticks; tells it from a later process with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _read_holder(lock: Path) -> dict[str, Any] | None:
    try:
        holder = parse_json(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) and {"pid", "host"} <= holder.keys() else None


def _is_here(holder: Mapping[str, Any]) -> bool:
    """Whether the kernel can say if a holder lives; on Windows signal 0 would end it."""
    return bool(holder["host"] == socket.gethostname()) and os.name != "nt"


def _alive(holder: Mapping[str, Any], lock: Path) -> bool:
    if not _is_here(holder):
        touched = _touched(lock)
        return touched is not None and time.time() - touched < EXPIRY
    pid = int(holder["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started is None or holder.get("started") in (None, started)


@contextlib.contextmanager
def _one_at_a_time(guard: Path) -> Iterator[None]:
    """Guard reading and taking the lock; the kernel releases the guard of a dead process."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(guard, "w") as file:
        with contextlib.suppress(OSError):  # on a file system without locks, the lock file must suffice
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
