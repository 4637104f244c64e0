"""How long the commands take that nobody should wait for.

    python benchmarks/speed/cli_startup.py [REPEATS]

Prints milliseconds per command: the median and the least of REPEATS runs (default 15), each in a fresh process, taken
in turn so that another program's load falls on all alike. The first row is the interpreter alone. `genfw list` is meant
to stay under 250 ms.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

GENFW = "import sys; from genfw_cli.main import main; sys.exit(main(sys.argv[1:]))"
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "python alone": (["-c", "pass"], {}),
    "import typer": (["-c", "import typer"], {}),
    "genfw --version": (["-c", GENFW, "--version"], {}),
    "genfw --help": (["-c", GENFW, "--help"], {}),
    "genfw list": (["-c", GENFW, "list"], {}),
    "genfw list --json": (["-c", GENFW, "list", "--json"], {}),
    "genfw runs": (["-c", GENFW, "runs"], {}),
    "completion: genfw li<TAB>": (
        ["-c", GENFW],
        {"_GENFW_COMPLETE": "complete_bash", "COMP_WORDS": "genfw li", "COMP_CWORD": "1"},
    ),
    "completion: genfw show <TAB>": (
        ["-c", GENFW],
        {"_GENFW_COMPLETE": "complete_bash", "COMP_WORDS": "genfw show ", "COMP_CWORD": "2"},
    ),
}


def main(repeats: int) -> None:
    """Time every command ``repeats`` times."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, (arguments, environment) in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=False
            )
            times[name].append((time.perf_counter() - began) * 1e3)
    print(f"{'command':32} {'median ms':>10} {'least ms':>10}")
    for name, taken in times.items():
        print(f"{name:32} {statistics.median(taken):10.0f} {min(taken):10.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
