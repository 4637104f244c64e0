"""Smoke runs on the pretended device: ``python -m fake_cuda.recipes FOLDER RECIPE... [--set KEY=VALUE]...``.

Prints a line of JSON for each: its status or error, the waits and the launches by place.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
import warnings

from fake_cuda import findings
from fake_cuda.start import start


def run(recipe: str, folder: str, sets: list[str], unsets: list[str]) -> dict[str, object]:
    """Run one recipe on the device; what was found."""
    from fake_cuda.tensors import pretending
    from genfw.engine.run import run as run_recipe

    findings.clear()
    began = time.monotonic()
    outcome: dict[str, object] = {"recipe": recipe}
    sets = [*sets, "engine.accelerator=cuda", "engine.devices=1", "engine.capture=off"]
    try:
        with pretending():
            result = run_recipe(recipe, root=folder, smoke=True, sets=sets, unsets=unsets)
        outcome["status"] = result.status
        outcome["failed"] = {one.name: one.note for one in result.results if one.value is None and "failed" in one.note}
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fake_cuda/" not in frame.filename]
        lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if "/site-packages/" not in frame.filename]
        outcome |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "at": lines[-5:]}
    outcome["waits"] = [[*wait, count] for wait, count in findings.waits.most_common()]
    outcome["seconds"] = round(time.monotonic() - began, 1)
    outcome["launches"] = dict(findings.launches)
    return outcome


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--unset", action="append", default=[], dest="unsets")
    given = parser.parse_args()
    start()
    warnings.simplefilter("ignore")
    for recipe in given.recipes:
        print(json.dumps(run(recipe, given.folder, given.sets, given.unsets)), flush=True)


if __name__ == "__main__":
    main()
