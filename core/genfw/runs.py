"""Which run a person means."""

from __future__ import annotations

import difflib
from pathlib import Path

from genfw.errors import RunError
from genfw.rundir import list_runs

__all__ = ["find_run"]


def find_run(name: str | Path, root: Path | str = "runs") -> Path:
    """The directory of a run.

    Arguments:
        name: A run directory, as a path or below ``root``; its last part; ``latest``; or a recipe's name, for its
            latest run.
        root: Where run directories lie.

    Raises:
        RunError: No run is called so.
    """
    for path in (Path(name), Path(root) / name):
        if (path / "resolved.yaml").is_file():
            return path
    found = sorted(list_runs(root), key=lambda run: (run.time, run.updated))
    chosen = [run for run in found if str(name) in ("latest", run.name, run.path.name)]
    if chosen:
        return chosen[-1].path
    if not found:
        raise RunError(f"'{name}' is no run directory, and there are no runs in {root}; 'genfw run' makes one")
    names = sorted({run.name for run in found} | {run.path.name for run in found})
    near = difflib.get_close_matches(str(name), names, n=1)
    what = f" - did you mean '{near[0]}'?" if near else "; 'genfw runs' lists the runs there are"
    raise RunError(f"there is no run '{name}' in {root}{what}")
