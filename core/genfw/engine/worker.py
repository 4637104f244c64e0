"""A further process of a run on this machine; started by :class:`genfw.engine.launching.Workers`, never by hand."""

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
from genfw.recipes.compose import compose
from genfw.recipes.recipe import open_recipe
from genfw.runs.directory import RunDirectory

__all__ = ["main"]


def main(order: str) -> None:
    """Train along with the first process, help it to evaluate, or both.

    Arguments:
        order: JSON of what :class:`~genfw.engine.launching.Workers` is told, and of this process's rank.
    """
    given = json.loads(order)
    # The first process decides when to stop; Ctrl-C, and a scheduler's signal, reach the whole group of processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    rank, world = given["rank"], given["world"]
    run = RunDirectory.open(given["directory"])
    recipe, registry = open_recipe(run.resolved, plugins=given["plugins"])
    composition = compose(recipe, registry, device=first_device(given["accelerator"], rank))
    composition.engine.accelerator = given["accelerator"]
    start = None if given["checkpoint"] is None else run.checkpoints.find(given["checkpoint"])
    with tuned(composition.engine):
        socket.create_connection(("127.0.0.1", given["door"])).close()  # see Workers.gather
        fabric = make_fabric(composition.engine, rank=rank, world=world, port=given["port"])
        try:
            if given["task"] == "run":
                Training(composition, fabric, run, Observers(), Interrupts()).train(start)
            serve_evaluation(composition, run)
        except KeyboardInterrupt:
            pass
        finally:
            release()


def _die_with(parent: int) -> None:
    """A worker whose first process was killed would wait for its next message for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
