"""One run of a sweep as a job: in a process of this machine (``python -m genfw.engine.job``), or on a cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import attrs

from genfw.engine.run import resume
from genfw.errors import GenfwError
from genfw.plugins import load_plugins


@attrs.frozen
class Job:
    """Begin a run whose directory is there, or go on with it.

    Arguments:
        directory: The run directory.
        plugins: Files of local plugins that its recipe does not name.
    """

    directory: str
    plugins: tuple[str, ...] = ()

    def __call__(self) -> str:
        """Run to the end; returns the run's state."""
        return resume(self.directory, registry=load_plugins(local=[Path(file) for file in self.plugins])).status

    def checkpoint(self) -> Any:
        """What submitit is to submit where the job is preempted: the same, as the run has checkpoints of its own."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def main(words: str) -> int:
    """Do the job that JSON describes; returns the exit code."""
    try:
        Job(**json.loads(words))()
    except KeyboardInterrupt:
        return 130
    except GenfwError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
