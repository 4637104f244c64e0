"""`sweep`: its words, its table, its exit codes. What it does is tested in tests/core/engine/test_sweep.py."""

import json
import sys

import pytest

from genfw.engine import executors

FAKE = """
import json, pathlib, sys
run = pathlib.Path(json.loads(sys.argv[1])["directory"])
(run / "STATUS").write_text(json.dumps({"state": "failed" if "seed=1" in run.name else "finished", "reason": "so"}))
"""


@pytest.fixture(autouse=True)
def jobs_of_a_moment(monkeypatch):
    monkeypatch.setattr(executors, "COMMAND", (sys.executable, "-S", "-c", FAKE))


def test_a_table_of_all_runs_and_the_exit_code_of_one_that_failed(call, tiny):
    said = call("sweep", tiny, "--over", "seed=0..2", "--jobs", "3", "--dir", "many")
    assert said.code == 1
    assert said.rows == [
        ["seed=0", "finished", "4 steps", ""],
        ["seed=1", "failed", "0/4", "so"],
        ["seed=2", "finished", "4 steps", ""],
    ]
    assert "3 runs in " in said.err
    assert "compare them: genfw compare " in said.err
    facts = json.loads(call("sweep", tiny, "--over", "seed=0,2", "--dir", "few", "--json").out)
    assert [(run["name"], run["state"], run["settings"]) for run in facts["runs"]] == [
        ("seed=0", "finished", {"seed": "0"}),
        ("seed=2", "finished", {"seed": "2"}),
    ]


def test_several_recipes_follow_the_option(call, tiny):
    said = call("sweep", "--recipes", tiny, "quickstart", "--smoke")
    assert said.code == 0
    assert [row[0] for row in said.rows] == ["tiny", "quickstart"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "cloud"], "--on is local or slurm, got 'cloud'"),
        (["--over", "seed=0..1", "--slurm", "partition"], "--slurm reads NAME=VALUE"),
        ([], "a sweep has several runs"),
        (["--over", "seed"], "--over reads path=VALUES"),
    ],
)
def test_what_is_wrong_is_said(call, tiny, words, message):
    said = call("sweep", tiny, *words)
    assert said.code != 0
    assert message in " ".join(said.err.split())


def test_a_plan_says_what_runs_cost(call, tiny):
    said = call("plan", tiny, "--over", "seed=0..2", "--seconds", "0.1", "--json")
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    (only,) = facts["plans"]  # runs that differ in their seed alone are timed once
    assert (facts["runs"], only["runs"], only["plan"]["stages"][0]["steps"]) == (3, 3, 4)
    assert facts["seconds"] == pytest.approx(3 * (only["training_seconds"] + only["evaluation_seconds"]))
    rows = call("plan", tiny, "--seconds", "0.1").rows
    assert [row[0] for row in rows if row[0] in ("training", "evaluation", "run", "elbo")][:2] == ["elbo", "training"]
