"""The lock of a run directory: one writer at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genfw.errors import RunError
from genfw.runs.files import parse_json, write_atomically


@contextlib.contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Lock a run against other processes. A dead process's lock is taken over.

    Arguments:
        run_dir: The run directory.

    Raises:
        RunError: Another process has locked it.
    """
    lock, own = _lock(run_dir), _this_process()
    with _one_at_a_time(run_dir / ".lock-guard"):
        holder = _read_holder(lock)
        if holder is not None and _alive(holder):
            raise RunError(
                f"{run_dir} is in use by process {holder['pid']} on {holder['host']}; wait for it, or stop it "
                f"(if that process is no run of genfw, delete {lock})"
            )
        write_atomically(lock, json.dumps(own))
    try:
        yield
    finally:
        if _read_holder(lock) == own:
            lock.unlink(missing_ok=True)


def is_held(run_dir: Path) -> bool:
    """Whether a living process has locked the run."""
    holder = _read_holder(_lock(run_dir))
    return holder is not None and _alive(holder)


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


def _alive(holder: Mapping[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True  # a process on another host can't be checked
    pid = int(holder["pid"])
    if os.name == "nt":
        return True  # on Windows signal 0 would end the process
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
