"""A sweep of 2 values and 3 seeds, one of whose workers is killed, beside the same runs left alone."""

import os
import signal

from genfw.engine import run as engine
from genfw.engine.sweep import plan_sweep, run_sweep
from genfw.plugins import load_plugins
from genfw.runs.directory import RunDirectory
from run_toys import assert_same, final_state

OVER = ["seed=0..2", "train.0.optimizer.lr=1e-3,2e-3"]
SETS = ["train.0.steps=800", "engine.checkpoint_every=50", "engine.log_every=50"]


def end_as_undisturbed(recipe, folder, **how):
    """Run the sweep, kill a worker in the middle, and compare the six ends bit for bit.

    Arguments:
        recipe: A recipe with one stage, ``elbo``.
        folder: An empty folder.
        how: See ``run_sweep``.
    """
    registry = load_plugins()
    calm, disturbed = (plan_sweep([str(recipe)], OVER, registry, sets=SETS, directory=folder / name) for name in "ab")
    killed = []

    def kill_one(sweep):
        for run in sweep.runs:
            status = sweep.directory(run).status()
            if not killed and status.state == "running" and status.stage == "elbo" and status.step >= 50:
                killed.append(run.name)
                os.kill(status.pid, signal.SIGKILL)

    run_sweep(disturbed, interval=0.05, watch=kill_one, **how)
    assert len(killed) == 1
    assert [row.state for row in disturbed.rows()] == ["finished"] * 6
    assert any(row["kind"] == "resume" for row in RunDirectory(disturbed.path / killed[0]).read_events())
    for run in calm.runs:
        assert engine.resume(calm.path / run.name).status == "finished"
        assert_same(final_state(calm.path / run.name), final_state(disturbed.path / run.name))
