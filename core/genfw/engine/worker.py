"""A worker of a run on this machine, which only :class:`genfw.engine.launching.WorkerProcesses` starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time

from genfw.engine.devices import first_device, make_fabric, release, tuned
from genfw.engine.finished import serve_evaluation
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
        order: Arguments of :class:`~genfw.engine.launching.WorkerProcesses` and this process's rank, as JSON.
    """
    given = json.loads(order)
    # Ctrl-C and a scheduler's signal reach the whole process group, but only the first process decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
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
    with tuned(composition.engine, device):
        socket.create_connection(("127.0.0.1", given["ready_port"])).close()  # see WorkerProcesses.wait_until_ready
        fabric = make_fabric(composition.engine, rank=rank, world=world, port=given["port"])
        try:
            if given["task"] == "run":
                Training(composition, fabric, run_dir, Observers(), Interrupts()).train(start)
            serve_evaluation(composition, run_dir)
        except KeyboardInterrupt:
            pass
        finally:
            release()


def _die_with(parent: int) -> None:
    """End with the first process; if that is killed, the worker would wait for its next message for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
