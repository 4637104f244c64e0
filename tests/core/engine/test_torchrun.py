"""Two agents of torchrun on this machine: one run of two processes, killed and gone on with, bit for bit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fit_plugin import write
from genfw.runs.directory import RunDirectory
from ports import free_port
from run_toys import assert_same

pytestmark = pytest.mark.slow

#: Tells the number of its process, and what files under the run it writes.
WATCH = """

import atexit
import os
import pathlib
import sys

NOTES, RUN = pathlib.Path(os.environ["TEST_NOTES"]), os.environ["TEST_RUN"] + "/"
RANK = os.environ.get("RANK", "0")
written = set()


def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(RUN) and not os.path.isdir(arguments[0]):
        if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.add(arguments[0])
    elif event in ("os.mkdir", "os.remove", "os.rename", "shutil.rmtree") and str(arguments[0]).startswith(RUN):
        written.add(str(arguments[0]))


sys.addaudithook(watch)
atexit.register(lambda: (NOTES / f"written-{RANK}").write_text("\\n".join(sorted(written))))
(NOTES / f"pid-{RANK}").write_text(str(os.getpid()))
"""


class Torchrun:
    """Agents of one job, each with a node of its own."""

    def __init__(self, folder, nodes, name="run", **options):
        self.folder, self.run = folder, RunDirectory(folder / name)
        self.notes = folder / f"{name}-notes"
        self.notes.mkdir(exist_ok=True)
        for note in self.notes.iterdir():
            note.unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "job"]
        for option, value in options.items():
            command += [f"--{option.replace('_', '-')}", str(value)]
        command += ["-m", "genfw_cli.main", "run", str(folder / "fit.yaml"), "--dir", str(self.run.path), "--resume"]
        environment = {**os.environ, "TEST_NOTES": str(self.notes), "TEST_RUN": str(self.run.path)}
        self.agents = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(nodes)
        ]

    def end(self):
        said = [agent.communicate(timeout=600)[0].decode() for agent in self.agents]
        return [agent.returncode for agent in self.agents], "\n".join(said)

    def worker(self, rank):
        """Number of a worker, once the run has a checkpoint past its beginning."""
        end = time.monotonic() + 600
        while time.monotonic() < end:
            if any(checkpoint.step >= 100 for checkpoint in self.run.checkpoints.all()):
                return int((self.notes / f"pid-{rank}").read_text())
            time.sleep(0.02)
        raise AssertionError("there was no checkpoint in time")


def agent_of(job, pid):
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return next(agent for agent in job.agents if agent.pid == parent)


def states(run):
    last = run.checkpoints.find("best")
    assert last.world == 2
    return [run.checkpoints.load(last, rank=rank) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("torchrun")
    engine = "engine: {accelerator: cpu, threads: 1, log_every: 50, checkpoint_every: 50}"
    stage = "steps: 1000, noise: 1.0, optimizer: {use: adam, lr: 1e-3}"
    write(path, stage, f"sample: {{count: 4}}\n{engine}\n", WATCH)
    return path


@pytest.fixture(scope="module")
def whole(folder):
    job = Torchrun(folder, 2, "whole")
    codes, said = job.end()
    assert codes == [0, 0], said
    assert job.run.status().state == "finished"
    return job


def test_two_nodes_make_one_run_and_the_second_writes_only_what_is_its_own(whole):
    first, second = states(whole.run)
    assert_same(first["model"], second["model"])
    assert len(whole.run.read_metrics()) == 1000 // 50
    written = (whole.notes / "written-1").read_text().split("\n")
    names = {Path(path).name.lstrip(".").partition(".")[0] for path in written}
    assert names == {"rank1"}, written


def test_a_killed_node_is_resumed_bit_for_bit(folder, whole):
    job = Torchrun(folder, 2)
    worker = job.worker(1)
    agent_of(job, worker).kill()
    os.kill(worker, signal.SIGKILL)
    codes, said = job.end()
    assert 0 not in codes, said
    assert job.run.status().state in ("failed", "killed", "interrupted")
    again = Torchrun(folder, 2)
    codes, said = again.end()
    assert codes == [0, 0], said
    assert any(row["kind"] == "resume" for row in again.run.read_events())
    for resumed, undisturbed in zip(states(again.run), states(whole.run), strict=True):
        assert_same(resumed, undisturbed)


def test_torchrun_starts_again_by_itself(folder, whole):
    job = Torchrun(folder, 1, "again", nproc_per_node=2, max_restarts=1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(job.worker(1), signal.SIGKILL)
    codes, said = job.end()
    assert codes == [0], said
    assert job.run.status().state == "finished"
    assert any(row["kind"] == "resume" for row in job.run.read_events())
    for resumed, undisturbed in zip(states(job.run), states(whole.run), strict=True):
        assert_same(resumed, undisturbed)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on(folder, before, after):
    """It says that it is not the same run bit for bit; a process that joins draws numbers of its own."""
    name = f"{before}-to-{after}"
    job = Torchrun(folder, before, name)
    assert job.worker(before - 1)
    for agent in job.agents:
        agent.send_signal(signal.SIGTERM)
    job.end()
    assert job.run.status().state != "finished"
    again = Torchrun(folder, after, name)
    codes, said = again.end()
    assert codes == [0] * after, said
    last = again.run.checkpoints.find("best")
    assert last.world == after
    told = [row["message"] for row in again.run.read_events() if row["kind"] == "warning"]
    assert any(f"{before} process(es) began this run and {after} go on" in message for message in told)
    ends = [again.run.checkpoints.load(last, rank=rank) for rank in range(after)]
    assert_same(ends[0]["model"], ends[-1]["model"])
    assert len({str(end["generator"].tolist()) for end in ends}) == after
