"""Keep the numbers of finished runs as files: results/RECIPE-sSEED.json, which docs/write_results.py reads.

    python benchmarks/results/collect.py runs/*                    # finished runs, as they stand

A file has what a reader needs to judge a number: its protocol, the seed, the commit, the minutes and the machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path
from typing import Any

import yaml

from genfw.runs.directory import RunDirectory
from genfw.runs.environment import overrides

FOLDER = Path(__file__).parents[2] / "results"
#: Of a protocol: what is the same in every number of a run, and stands in the file once.
_COMMON = ("data", "seed", "device", "genfw", "torch")


def collect(directory: Path) -> dict[str, Any]:
    """One run's file."""
    run = RunDirectory.open(directory)
    resolved = yaml.safe_load(run.resolved.read_text(encoding="utf-8"))
    environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    rows, events = run.read_metrics(), run.read_events()
    ended = dt.datetime.fromtimestamp(events[-1]["time"], dt.UTC)
    hardware = environment["hardware"]
    numbers = {}
    common: dict[str, Any] = {}
    for record in evaluation["results"]:
        if record["value"] is None:
            continue
        protocol = dict(record["protocol"])
        common |= {key: protocol.pop(key) for key in _COMMON if key in protocol}
        numbers[record["name"]] = {
            "value": record["value"],
            **({} if record["error"] is None else {"error": record["error"]}),
            "protocol": protocol,
        }
    return {
        "recipe": resolved["name"],
        "seed": resolved["seed"],
        "commit": environment["git"]["commit"][:7] if environment.get("git") else None,
        "date": ended.date().isoformat(),
        "minutes": round(rows[-1]["time"] / 60.0, 1) if rows else 0.0,
        "hardware": f"{hardware['processor']}, {hardware['threads']} thread of {hardware['cores']} shared cores",
        "settings": [
            word.replace(str(directory.resolve().parent), "runs")
            for _, word in overrides(environment)
            if not word.startswith(("seed=", "engine.threads="))
        ],
        "steps": {f"{row['stage']} {row['name']}": row["step"] for row in rows},
        "common": common,
        "numbers": numbers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for directory in parser.parse_args().runs:
        if not (directory / "evaluation.json").exists():
            print(f"{directory}: not evaluated, left out")
            continue
        found = collect(directory)
        file = FOLDER / f"{found['recipe']}-s{found['seed']}.json"
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{file.name}: {', '.join(found['numbers'])}")


if __name__ == "__main__":
    main()
