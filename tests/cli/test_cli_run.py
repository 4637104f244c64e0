"""A run's whole life: `run`, `runs`, `resume`, `sample`, `evaluate`, `report`."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genfw.engine import run as engine
from genfw.errors import DivergenceError, RunError
from genfw.plugins.hookspecs import RunInfo
from genfw.runs.directory import find_run


@pytest.fixture
def done(call, tiny):
    """A finished run of the tiny recipe, as `run --json` told of it."""
    said = call("run", tiny, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_run_prints_directory_and_report_and_progress_apart(call, tiny):
    said = call("run", tiny, "--set", "train.0.steps=6")
    assert said.code == 0, said.err
    results = {row[0]: row[1] for row in said.rows}
    assert Path(results["run"]).parent == Path.cwd() / "runs" / "tiny"
    assert Path(results["report"]).is_file()
    assert "stage 1/1 elbo: step 6/6" in said.err
    assert "stage" not in said.out


def test_json_of_a_run_says_where_everything_is(done):
    assert done["status"] == "finished"
    assert Path(done["run"]).is_dir()
    assert Path(done["report"]).parent == Path(done["run"])
    assert done["results"] == []


def test_root_and_dir_choose_the_place(call, tiny, tmp_path):
    assert call("run", tiny, "--root", "elsewhere").code == 0
    assert len(list((tmp_path / "elsewhere" / "tiny").iterdir())) == 1
    assert call("run", tiny, "--dir", "here").code == 0
    assert (tmp_path / "here" / "resolved.yaml").is_file()
    again = call("run", tiny, "--dir", "here")
    assert again.code == 1
    assert "genfw resume" in again.err


def test_smoke_run_of_a_shipped_recipe(call):
    said = call("run", "quickstart", "--smoke", "--unset", "evaluate", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["status"] == "finished"


def test_keys_that_an_override_drops_are_told(call, tiny):
    said = call("run", tiny, "--set", "train.0.optimizer.use=sgd")
    assert said.code == 0, said.err
    assert any(line.startswith("note: ") and "lr" in line for line in said.err.splitlines())


def test_faulty_recipe_writes_nothing(call, faulty, tmp_path):
    assert call("run", faulty).code == 3
    assert not (tmp_path / "runs").exists()


def test_runs_are_listed_with_status(call, done):
    (row,) = call("runs").rows
    assert Path("runs", row[0]).absolute() == Path(done["run"])
    assert row[1] == "finished"
    assert find_run(row[0]) == Path("runs", row[0])
    (record,) = json.loads(call("runs", "--json").out)
    assert record["path"] == done["run"]
    empty = call("runs", "--root", "nowhere")
    assert (empty.code, empty.out) == (0, "")
    assert "there are no runs in nowhere" in empty.err


def test_a_run_is_named_by_path_latest_recipe_or_its_own_name(call, tiny, done, tmp_path):
    second = Path(json.loads(call("run", tiny, "--set", "seed=1", "--json").out)["run"])
    first, root = Path(done["run"]), tmp_path / "runs"
    assert find_run(first, root) == first
    assert find_run("latest", root) == second
    assert find_run("tiny", root) == second
    assert find_run(first.name, root) == first
    with pytest.raises(RunError, match="did you mean 'tiny'"):
        find_run("tinny", root)
    with pytest.raises(RunError, match="there are no runs"):
        find_run("latest", tmp_path / "nowhere")


def test_sample_writes_where_it_says(call, done, tmp_path):
    said = call("sample", "tiny", "--count", 3, "--seed", 5)
    assert said.code == 0, said.err
    folder = Path(said.out.strip())
    assert folder.is_relative_to(done["run"])
    assert {path.suffix for path in folder.iterdir()} >= {".png", ".safetensors"}
    assert call("sample", "latest", "--count", 3, "--out", "mine").out == f"{tmp_path / 'mine'}\n"
    assert (tmp_path / "mine").is_dir()
    for part in ("0/2", "3/2", "two"):
        wrong = call("sample", "latest", "--share", part)
        assert wrong.code == 2
        assert "a share is written K/N" in wrong.err
    empty = call("sample", "latest", "--share", "2/2", "--out", "none")
    assert (empty.code, (tmp_path / "none").exists()) == (1, False)
    assert "share 2 of 2 is empty: 4 samples in batches of 500 make 1 shares at most" in empty.err


def test_evaluate_and_report_work_on_a_finished_run(call, done):
    said = call("evaluate", "latest", "--json")
    assert (said.code, json.loads(said.out)) == (0, [])
    assert "no metrics" in call("evaluate", "latest").err
    report = Path(done["report"])
    report.unlink()
    assert call("report", "latest").out == f"{report}\n"
    assert report.is_file()


def test_processes_are_handed_on(call, done, monkeypatch):
    from genfw.engine import finished

    asked = []
    monkeypatch.setattr(finished, "sample_run", lambda *_, processes, **__: asked.append(processes) or "here")
    monkeypatch.setattr(finished, "evaluate_run", lambda *_, processes, **__: asked.append(processes) or [])
    for command in ("sample", "evaluate"):
        assert call(command, "latest", "--processes", 3).code == call(command, "latest").code == 0
        assert call(command, "latest", "--processes", 0).code == 2
    assert asked == [3, 1, 3, 1]


def test_resume_of_a_finished_run_gives_its_results(call, done):
    said = call("resume", "latest", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == done


def test_unknown_run_is_told_apart(call):
    for command in ("resume", "sample", "evaluate", "report"):
        said = call(command, "latest")
        assert said.code == 1
        assert "there are no runs" in said.err


def _begun(directory, error):
    def run(*_, trackers, **__):
        trackers[0].start(RunInfo("tiny", directory, {}, (("elbo", 4),)))
        raise error

    return run


def test_interrupted_run_prints_how_to_go_on(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "run", _begun(tmp_path / "r", KeyboardInterrupt()))
    said = call("run", tiny)
    assert said.code == 130
    assert f"genfw resume {tmp_path / 'r'}" in said.err


def test_failed_run_exits_1_and_says_where_it_lies(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "run", _begun(tmp_path / "r", DivergenceError("the energy gap grew beyond 100 nats")))
    said = call("run", tiny)
    assert said.code == 1
    assert "error: the energy gap grew beyond 100 nats" in said.err
    assert str(tmp_path / "r") in said.err


def test_interrupted_run_goes_on(call, tiny, monkeypatch):
    from genfw.engine.loop import Training

    log_row, calls = Training._log_row, []

    def interrupt(self, progress):
        calls.append(progress.step)
        if len(calls) == 1:
            self.interrupts.requested = True
        return log_row(self, progress)

    monkeypatch.setattr(Training, "_log_row", interrupt)
    said = call("run", tiny)
    assert said.code == 130
    resumed = call("resume", "latest", "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["status"] == "finished"
    assert "goes on at stage 1 of 1, step 2" in resumed.err


def test_a_signal_stops_the_run_and_leaves_the_command_that_goes_on(tiny, tmp_path):
    code = "import sys; from genfw_cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["run", str(tiny), "--dir", "r", "--set", "train.0.steps=1000000"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if line.startswith("stage 1/1"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert f"go on with: genfw resume {tmp_path / 'r'}" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "r" / "STATUS").read_text())["state"] == "interrupted"


def test_a_run_that_lacks_numbers_says_so_everywhere(call, tiny):
    wild = ("--set", "energy={use: mlp, on: data, hidden: [4]}")
    kernel = ("--set", "sample.sampler={use: langevin, step_size: 1e14, steps: 20}")
    said = call("run", tiny, *wild, *kernel, "--set", "evaluate=[{use: sample-grid}]", "--dir", "runs/a")
    assert said.code == 6
    assert "sample-grid\tfailed\t'sample:' gives" in said.out
    assert "1 of 1 results could not be measured: sample-grid" in said.err
    assert "no samples were drawn" in said.err
    ((_, state, _, headline, numbers),) = call("runs").rows
    assert "finished, 1 failed, no samples were drawn" in state
    assert (headline, numbers) == ("", "sample-grid failed")
    assert call("resume", "runs/a").code == 6
    page = (Path("runs/a") / "report.html").read_text()
    assert "Something is missing" in page
    assert "failed</span>" in page


def test_a_run_is_listed_with_its_headline(call, done):
    def told(**values):
        records = [{"name": name.replace("_", "-"), **record} for name, record in values.items()]
        Path(done["run"], "evaluation.json").write_text(json.dumps({"results": records}))
        return call("runs").rows[0][3:]

    grid, mse = {"value": None}, {"value": 0.25, "doubt": "few rows"}
    assert told(sample_grid=grid, mse=mse, auroc={"value": 0.5}) == ["mse 0.25 ?", "auroc 0.5"]
    fid = {"value": 66.74}
    assert told(sample_grid=grid, mse=mse, fid=fid, auroc={"value": 0.5}) == ["fid 66.74", "mse 0.25 ?, auroc 0.5"]
    papers = {"value": -0.8, "paper": -0.7}
    assert told(fid=fid, score=papers, ood={"failed": True}) == ["score -0.8", "fid 66.74, ood failed"]
    assert told(mse=mse, fid={"value": "much"}, auroc={"value": 1}) == ["mse 0.25 ?", "auroc 1"]


def test_a_smoke_run_is_marked(call, tiny):
    said = call("run", tiny, "--smoke", "--dir", "runs/a")
    assert (said.code, "its numbers mean nothing" in said.err) == (0, True)
    assert call("runs").rows[0][1] == "finished, smoke"


def test_numbers_that_one_must_not_rely_on_show_in_the_exit_code(call, write):
    recipe = write(
        "stuck.yaml",
        """
        genfw: 1
        name: stuck
        data: {use: pinwheel}
        prior: {use: standard-normal, dim: 3}
        decoder: {use: mlp, hidden: [4], sigma: 0.2}
        energy: {use: mlp, on: data, hidden: [4]}
        train:
          - use: contrastive
            steps: 1
            batch: 4
            optimizer: {use: adam, lr: 1e-3}
            negatives: {sampler: {use: langevin, step_size: 1e-3, steps: 1}, start: {use: noise}}
        sample: {count: 4, sampler: {use: hmc, step_size: 1e5, adapt: false, steps: 2}}
        evaluate: [{use: chain-diagnostics, chains: 4, steps: 20, show: 0}]
        """,
    )
    said = call("run", recipe, "--dir", "runs/a")
    assert said.code == 6
    assert "do not rely on r-hat, ess-bulk, acceptance" in said.err
    assert call("run", recipe, "--dir", "runs/b", "--smoke").code == 0
