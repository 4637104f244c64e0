"""`compare`, and `report` of several runs."""

import json
from pathlib import Path

import pytest

from genfw.engine.sweep import plan_sweep
from genfw.plugins import load_plugins
from genfw.runs.directory import RunDirectory


@pytest.fixture
def runs(call, tiny):
    """Two runs of one recipe: one shows the decoder's mean, the other draws from it."""
    made = []
    for mean in ("true", "false"):
        sets = ["--set", f"sample.mean={mean}", "--set", "evaluate=[{use: sampling-speed, batch: 4, repeats: 1}]"]
        said = call("run", tiny, *sets, "--json")
        assert said.code == 0, said.err
        made.append(json.loads(said.out)["run"])
    return made


def test_mean_against_sample_is_not_ranked_and_the_reason_is_said(call, runs):
    said = call("compare", *runs)
    assert said.code == 0
    rows = [row for row in said.rows if row[0] == "samples-per-second" and len(row) == 6]
    assert [row[4] for row in rows] == ["A", "B"]
    (names, why) = said.rows[-1]
    assert "samples-per-second" in names.split(", ")
    assert why.startswith("protocols differ: decoder is mean in tiny ")
    assert ", sample in tiny " in why
    # The same for a program, and over runs that are to be compared in just that.
    facts = json.loads(call("compare", *runs, "--json", "--across", "decoder").out)
    assert [run["name"] for run in facts["runs"]] == ["tiny", "tiny"]
    (row,) = [row for row in facts["rows"] if row["name"] == "samples-per-second"]
    assert sorted(number["rank"] for number in row["numbers"]) == [1, 2]
    assert [one["bars"] for one in row["differences"] if one["key"] == "decoder"] == [False]


def test_a_page_on_several_runs_and_a_table_for_a_person(call, runs, tmp_path, terminal):
    said = call("report", *runs)
    assert (said.code, said.out) == (0, f"{tmp_path / 'runs' / 'comparison.html'}\n")
    assert "Not ranked together" in call("compare", *runs).out
    assert "protocols differ in decoder" in (tmp_path / "runs" / "comparison.html").read_text()
    said = call("report", *runs, "--out", "other.html")
    assert (tmp_path / "other.html").is_file()
    alone = call("report", runs[0], "--out", "one.html")
    assert (alone.out, (tmp_path / "one.html").is_file()) == (f"{tmp_path / 'one.html'}\n", True)
    assert "comparison" not in (tmp_path / "one.html").read_text()[:3000]


def test_a_run_without_numbers_is_told(call, runs, tmp_path):
    recipe = "{genfw: 1, name: bare}"
    path = RunDirectory.create(tmp_path / "runs", "bare", recipe, recipe).path
    said = call("compare", runs[0], path)
    assert said.code == 0
    assert "bare has no numbers; 'genfw evaluate' takes them" in said.err


def test_nothing_to_compare_is_said(call, tmp_path):
    assert call("compare", "absent").code == 1
    recipe = "{genfw: 1, name: bare}"
    path = RunDirectory.create(tmp_path / "runs", "bare", recipe, recipe).path
    said = call("compare", path)
    assert (said.code, said.out) == (0, "")
    assert "none of these runs has been evaluated" in said.err
    unknown = call("compare", path, "--across", "decoder")
    assert unknown.code == 1
    assert "has a key decoder; there are none" in unknown.err


def test_a_sweep_is_compared_by_its_settings(call, tiny, tmp_path):
    over = ["seed=0..1", "sample.mean=true,false"]
    sweep = plan_sweep([str(tiny)], over, load_plugins(), directory=tmp_path / "many")
    for run in sweep.runs:
        rate = {"name": "rate", "value": 1.0 + len(run.settings["sample.mean"]), "better": "higher", "protocol": {}}
        sweep.directory(run).evaluation.write_text(json.dumps({"results": [rate]}))
    said = call("compare", "many")
    assert said.code == 0, said.err
    assert [row[:4] + row[5:6] for row in said.rows] == [
        ["rate", "tiny sample.mean=false", "6 ± 0", "2", "1"],
        ["rate", "tiny sample.mean=true", "5 ± 0", "2", "2"],
    ]
    facts = json.loads(call("compare", "many", "--json").out)
    assert [(mean["count"], mean["rank"]) for mean in facts["rows"][0]["means"]] == [(2, 2), (2, 1)]
    assert call("report", "many").out == f"{Path('many/report.html').absolute()}\n"
