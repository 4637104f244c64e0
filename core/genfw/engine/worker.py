"""A worker of a run on this machine, which only :class:`genfw.engine.launching.WorkerProcesses` starts."""

from __future__ import annotations

import json
import os
import signal
import sys

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from genfw.engine.devices import first_device, make_fabric, release, tuned
from genfw.engine.finished import open_evaluation
from genfw.engine.interrupts import Interrupts
from genfw.engine.loop import Training
from genfw.engine.observers import Observers
from genfw.engine.saved import open_saved
from genfw.plugins import load_plugins
from genfw.recipes.compose import compose
from genfw.recipes.recipe import open_recipe
from genfw.runs.directory import RunDirectory


def main(order: str) -> None:
    """Train and evaluate with the first process, or only evaluate.

    Arguments:
        order: Arguments of :func:`~genfw.engine.launching.launched`, the store's port and this process's rank, as JSON.
    """
    given = json.loads(order)
    # A scheduler's signal reaches all processes, but only the first one decides when to stop. Only that one prints.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Where the first process is killed, this connection and all others break, and this process fails with them.
    store = TCPStore("127.0.0.1", given["port"])
    rank, world = given["rank"], given["world"]
    run_dir = RunDirectory.open(given["directory"])
    device = first_device(given["accelerator"], rank)
    if run_dir.weights.is_file():
        composition = open_saved(run_dir, load_plugins(local=given["plugins"]), str(device))
    else:
        recipe, registry = open_recipe(run_dir.resolved, plugins=given["plugins"])
        composition = compose(recipe, registry, device=device)
    composition.engine.accelerator = given["accelerator"]
    start = None if given["checkpoint"] is None else run_dir.checkpoints.find(given["checkpoint"])
    with tuned(composition.engine, device, folder=run_dir.path, alone=False):
        store.add("ready", 1)
        fabric = make_fabric(composition.engine, rank=rank, world=world, store=store)
        try:
            if given["task"] == "run":
                Training(composition, fabric, run_dir, Observers(), Interrupts()).train(start)
            with open_evaluation(composition, fabric, run_dir):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            release()


if __name__ == "__main__":
    main(sys.argv[1])
