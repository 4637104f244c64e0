"""Runs side by side: ranked where they were measured alike, told apart where they were not, on a page of its own."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imsave

from genfw.errors import RunError
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.pages.compare import compare_runs
from genfw.runs.pages.comparison import write_comparison
from genfw.runs.pages.report import write_report

NASTY = "<script>alert('x')</script> & \"quoted\""
PROTOCOL = {
    "samples": 1000,
    "sampler": "langevin(steps=10)",
    "chain_steps": 10,
    "decoder": "sample",
    "data": "mnist(size=32)",
    "seed": 0,
    "device": "cpu",
    "torch": "2.11",
}


def record(value, name="fid", better="lower", error=None, failed=False, note="", **protocol):
    return {
        "name": name,
        "metric": name,
        "value": value,
        "error": error,
        "unit": "",
        "better": better,
        "failed": failed,
        "note": note,
        "protocol": {key: value for key, value in (PROTOCOL | protocol).items() if value is not None},
    }


@pytest.fixture
def run(tmp_path):
    def make(name, *records, paper=None, smoke=False, description="", evaluated=True):
        recipe = {"genfw": 1, "name": name, "description": description, "paper": paper or {}}
        text = json.dumps(recipe)
        place = RunDirectory.create(tmp_path / "runs", name.replace("/", "-")[:20], text, text)
        place.write_status(Status("finished", "elbo", 1))
        if evaluated:
            place.evaluation.write_text(json.dumps({"format": 1, "smoke": smoke, "results": list(records)}))
        return place.path

    return make


def ranks(row):
    return [(one.group, one.rank, one.tied) for one in row.numbers]


def row_of(*paths, name="fid", **options):
    return next(row for row in compare_runs(paths, **options).rows if row.name == name)


def test_numbers_taken_alike_are_ranked(run):
    row = row_of(
        run("a", record(12.0)), run("b", record(9.0, seed=7, torch="2.13", device="cuda:0")), run("c", record(30))
    )
    assert ranks(row) == [("A", 2, False), ("A", 1, False), ("A", 3, False)]
    assert row.reason == ""
    # Other seeds and versions are told, and bar nothing.
    assert [(one.key, one.bars) for one in row.differences] == [("seed", False), ("device", False), ("torch", False)]
    higher = row_of(
        run("d", record(1.0, name="is", better="higher")), run("e", record(2.0, name="is", better="higher")), name="is"
    )
    assert ranks(higher) == [("A", 2, False), ("A", 1, False)]


def test_the_mean_and_a_sample_of_the_decoder_are_not_ranked_and_the_reason_is_said(run):
    row = row_of(run("a", record(12.0, decoder="mean")), run("b", record(9.0, decoder="sample")))
    assert ranks(row) == [("A", None, False), ("B", None, False)]
    assert row.reason == "protocols differ: decoder is mean in a, sample in b"
    assert [(one.key, one.values, one.bars) for one in row.differences] == [("decoder", ("mean", "sample"), True)]


def test_those_that_agree_are_ranked_among_themselves(run):
    runs = [
        run("a", record(5.0, samples=1000)),
        run("b", record(4.0, samples=50_000)),
        run("c", record(6.0, samples=1000)),
        run("d", record(3.0, samples=50_000, extractor="inception")),
    ]
    row = row_of(*runs)
    assert ranks(row) == [("A", 1, False), ("B", None, False), ("A", 2, False), ("C", None, False)]
    assert "samples is 1000 in a and c, 50000 in b and d" in row.reason
    assert "extractor is not said in a and b and c, inception in d" in row.reason


def test_what_the_runs_are_compared_in_can_be_said(run):
    paths = run("a", record(5.0)), run("b", record(4.0, sampler="none", chain_steps=None))
    assert ranks(row_of(*paths)) == [("A", None, False), ("B", None, False)]
    across = row_of(*paths, across=["sampler", "chain_steps"])
    assert ranks(across) == [("A", 2, False), ("A", 1, False)]
    assert {one.key: one.bars for one in across.differences} == {"sampler": False, "chain_steps": False}
    with pytest.raises(
        RunError, match="no protocol of these runs has a key chain; there are chain_steps, data, decoder"
    ):
        compare_runs(paths, across=["chain"])


@pytest.mark.parametrize(
    ("data", "alike"),
    [
        ("mnist(root=/home/me/mnist, size=32)", True),
        ("mnist(root=/home/me/mnist, download=True, size=32, flip=0.0)", True),
        ("mnist(size=32, flip=0.5, download=true)", True),
        ("mnist(size=28)", False),
        ("mnist(classes=[0, 1], size=32)", False),
        ("fashion-mnist(size=32)", False),
    ],
)
def test_where_data_lie_does_not_matter_and_what_they_are_does(run, data, alike):
    row = row_of(run("a", record(1.0)), run("b", record(2.0, data=data)))
    assert (row.reason == "") is alike


def test_arguments_of_the_data_may_be_said_in_any_order(run):
    said = "stacked(source=mnist(size=28, classes=[0, 1], root=/data), train=100, seed=1)"
    again = "stacked(train=100, source=mnist(flip=0.5, classes=[0, 1], size=28), seed=1)"
    other = "stacked(train=100, source=mnist(size=28, classes=[1, 0]), seed=1)"
    row = row_of(*(run(name, record(1.0, data=data)) for name, data in (("a", said), ("b", again), ("c", other))))
    assert [group for group, _, _ in ranks(row)] == ["A", "A", "B"]


def test_a_time_depends_on_the_device(run):
    row = row_of(
        run("a", record(5.0, name="speed", hardware="H200", device="cuda:0")),
        run("b", record(6.0, name="speed", hardware="H200", device="cpu")),
        name="speed",
    )
    assert "device is cuda:0 in a, cpu in b" in row.reason


def test_equal_within_their_errors_shares_a_rank(run):
    values = [(1.00, 0.05), (1.08, 0.05), (1.30, 0.05), (2.0, None)]
    row = row_of(*(run(name, record(value, error=error)) for name, (value, error) in zip("abcd", values, strict=True)))
    assert ranks(row) == [("A", 1, True), ("A", 1, True), ("A", 3, False), ("A", 4, False)]


def test_smoke_failures_and_gaps_are_ranked_nowhere(run):
    failed = record(None, failed=True, note="no weights")
    row = row_of(
        run("a", record(5.0)),
        run("s", record(1.0), smoke=True),
        run("f", failed),
        run("g", evaluated=False),
        run("b", record(6.0)),
    )
    assert ranks(row) == [("A", 1, False), ("", None, False), ("", None, False), ("A", 2, False)]
    assert [one.note for one in row.numbers] == ["", "a smoke run: its numbers mean nothing", "no weights", ""]
    assert row.reason == ""
    picture = record(None, name="sample-grid")
    assert compare_runs([run("p", picture)]).rows == ()


def test_without_a_better_side_nothing_is_ranked(run):
    row = row_of(run("a", record(1.0, better="")), run("b", record(2.0, better="")))
    assert ranks(row) == [("A", None, False), ("A", None, False)]
    assert row.reason == ""


def test_papers_numbers_stand_beside_them_and_have_no_rank(run):
    paper = {"id": "DAMC", "table": "1", "expect": {"fid": 57.72, "mse": 0.015}}
    row = row_of(run("a", record(60.0), paper=paper), run("b", record(61.0), paper=paper))
    assert [(one.source, one.value, one.runs) for one in row.papers] == [("DAMC, table 1", 57.72, (0, 1))]


def test_a_run_that_measured_something_twice_has_both(run):
    row = row_of(run("a", record(5.0, extractor="x"), record(6.0, extractor="y")), run("b", record(4.0, extractor="y")))
    assert [(one.run, one.group, one.rank) for one in row.numbers] == [(0, "A", None), (0, "B", 2), (1, "B", 1)]


def test_runs_of_one_recipe_are_told_apart(run):
    first, second = run("same", record(1.0)), run("same", record(2.0))
    second = second.rename(second.parent / f"20200101-000000-{first.name[16:]}")
    other = run("same", record(3.0), description="another recipe")
    # By the recipe's hash where that tells them apart, else by the whole name of the folder.
    labels = [one.label for one in compare_runs([first, second, other]).runs]
    assert labels == [f"same {first.name}", f"same {second.name}", f"same {other.name[16:]}"]
    with pytest.raises(RunError, match="is named twice"):
        compare_runs([first, first])


def test_damaged_files_are_no_traceback(run):
    path = run("a", record(1.0))
    RunDirectory.open(path).evaluation.write_text("{")
    comparison = compare_runs([path])
    assert (comparison.rows, comparison.runs[0].evaluated) == ((), False)


def test_comparing_imports_no_torch():
    code = "import sys, genfw.runs.pages.compare, genfw.runs.pages.comparison; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_page_is_whole_by_itself_and_escapes_everything(run, tmp_path):
    nasty = record(1.5, extractor=NASTY, note=NASTY, error=0.1)
    paper = {"id": NASTY, "expect": {"fid": 3.25}}
    first = run("first " + NASTY, nasty, description="About " + NASTY, paper=paper)
    second = run("second", record(2.5, extractor="inception"), record(None, name="kid", failed=True, note=NASTY))
    third = run("third", record(1.0), smoke=True)
    for number, path in enumerate((first, second)):
        RunDirectory.open(path).samples.mkdir(exist_ok=True)
        imsave(RunDirectory.open(path).samples / "model.png", np.full((4, 6, 3), 0.3 * number))
    page = write_comparison([first, second, third], tmp_path / "new" / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("data:image/png;base64,") == 2
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "url(" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "Not ranked together: protocols differ in extractor." in said
    assert "Smoke runs among them." in said
    assert "3.25" in said
    assert "failed" in said
    # Tags are closed in order.
    stack = []
    for closing, tag in re.findall(r"<(/?)([a-z0-9]+)", text.split("<body>", 1)[1].split("</body>", 1)[0]):
        if tag in ("img", "br"):
            continue
        if closing:
            assert stack.pop() == tag
        else:
            stack.append(tag)
    assert stack == []


def test_pages_share_one_look(run, tmp_path):
    path = run("a", record(1.0))
    styles = [
        re.search(r"<style>(.*?)</style>", page.read_text(encoding="utf-8"), re.DOTALL).group(1)
        for page in (write_report(path, tmp_path / "one.html"), write_comparison([path], tmp_path / "two.html"))
    ]
    assert styles[0] == styles[1]
    assert "--page: #ffffff" in styles[0]
