"""The report: self-contained, escaped, honest about what is missing, and made from files alone."""

import base64
import hashlib
import html
import itertools
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imsave

from genfw.errors import RunError
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.pages.charts import make_charts, short, ticks
from genfw.runs.pages.report import write_report

NASTY = "<script>alert('x')</script> & \"quoted\""
RECIPE = f"""
genfw: 1
name: {json.dumps("toy " + NASTY)}
description: {json.dumps("About " + NASTY)}
seed: 3
data: {{use: gaussian-grid}}
energy: {{use: mlp, on: data, hidden: [32, 32]}}
train: [{{use: elbo, steps: 100, batch: 8}}]
paper: {{id: {json.dumps("P " + NASTY)}}}
"""


def record(name="log-likelihood", value=-1.152, **extra):
    return {
        "name": name,
        "metric": "log-likelihood-2d",
        "value": value,
        "error": 0.011,
        "unit": "nats",
        "better": "higher",
        "paper": -1.5,
        "difference": 0.348,
        "note": "A note " + NASTY,
        "failed": False,
        "protocol": {"count": 10_000, "split": "test", "key " + NASTY: NASTY, "full": True},
        "settings": {"use": NASTY},
        "figures": [],
        "metric_seconds": 1.5,
    } | extra


def make_run(root, *, results=(), state="finished", reason="", rows=60, resolved=RECIPE):
    run = RunDirectory.create(root, "toy", resolved, RECIPE)
    run.write_status(Status(state, "elbo", 60, reason))
    run.environment.write_text(json.dumps({"genfw": "0.1.0", "python": "3.11", "packages": {"torch": NASTY}}))
    run.append_event("stage", "stage 0 begins " + NASTY, stage=0, step=0)
    for step in range(rows):
        run.append_metrics({
            "stage": 0, "name": "elbo", "step": step, "time": 0.1 * step, "loss": 50.0 / (1 + step), "lr": 0.001,
            "energy/data": -0.1 * step, "energy/negatives": -0.09 * step, NASTY: float(step % 7),
        })  # fmt: skip
    if results:
        run.evaluation.write_text(json.dumps({"format": 1, "results": list(results)}))
    return run


class Page(HTMLParser):
    """Collects tags, attributes and ids; complains of tags that are not closed."""

    void = frozenset(["meta", "img", "line", "rect", "path", "br", "input", "link"])

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def page(run):
    text = write_report(run.path).read_text()
    parsed = Page(text)
    assert parsed.open == []
    return text, parsed


def test_nothing_from_a_recipe_or_plugin_becomes_markup(tmp_path):
    run = make_run(tmp_path, results=[record("name " + NASTY)], state="failed", reason="reason " + NASTY)
    text, parsed = page(run)
    # Its own script is the only one, and by its hash the only one that a browser runs.
    assert parsed.tags.count("script") == 1
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "alert" not in script
    assert text.count("<script") == 1
    assert text.count(html.escape("<script>", quote=False)) >= 12
    assert not [key for _, key, _ in parsed.attributes if key.startswith("on")]


def test_the_page_loads_nothing(tmp_path):
    run = make_run(tmp_path, results=[record(figures=[{"path": "figures/a.png", "title": "A", "caption": ""}])])
    (run.path / "figures").mkdir()
    imsave(run.path / "figures" / "a.png", np.zeros((4, 6, 3), dtype=np.uint8), dpi=96)
    text, parsed = page(run)
    targets = [value for _, key, value in parsed.attributes if key in ("src", "href", "action", "data", "srcset")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in targets)
    assert any(value.startswith("data:") for value in targets)
    assert "default-src 'none'" in text
    assert "url(http" not in text
    assert "@import" not in text
    assert ("img", "width", "6") in parsed.attributes
    assert ("img", "height", "4") in parsed.attributes


def test_every_anchor_and_label_leads_somewhere(tmp_path):
    _, parsed = page(make_run(tmp_path, results=[record()]))
    ids = [value for _, key, value in parsed.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    wanted = [value[1:] for _, key, value in parsed.attributes if key == "href"]
    wanted += [value for _, key, value in parsed.attributes if key == "aria-labelledby"]
    assert set(wanted) <= set(ids)
    assert all(alt for tag, key, alt in parsed.attributes if tag == "img" and key == "alt")


def test_numbers_stand_beside_the_papers_with_their_protocol(tmp_path):
    text, _ = page(make_run(tmp_path, results=[record(), record("same", -1.49), record("bare", 2.0, paper=None)]))
    assert "−1.152" in text
    assert "0.348 better" in text
    assert "equal within 2 standard errors" in text
    assert "<dt>count</dt><dd>10,000</dd>" in text
    assert "<dt>full</dt><dd>yes</dd>" in text


@pytest.mark.parametrize(("better", "words"), [("lower", "0.348 worse"), ("", "differs by 0.348")])
def test_the_verdict_follows_the_direction(tmp_path, better, words):
    text, _ = page(make_run(tmp_path, results=[record(better=better)]))
    assert words in text


def test_a_failed_metric_says_why(tmp_path):
    failed = record("fid", None, failed=True, note="the weights of Inception are absent", paper=None, error=None)
    text, _ = page(make_run(tmp_path, results=[failed]))
    assert '<span class="badge bad">failed</span>' in text
    assert "the weights of Inception are absent" in text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("failed", "The run failed"),
        ("interrupted", "genfw resume"),
        ("running", "The run was killed"),
        ("finished", "None have been taken"),
    ],
)
def test_unfinished_runs_have_a_page_too(tmp_path, state, words):
    run = make_run(tmp_path, state=state)
    if state == "running":
        run.write_status(Status("running", "elbo", 60, pid=2**22 + 1))
    text, _ = page(run)
    assert words in text


def test_writing_the_report_is_the_last_step_of_a_finished_run(tmp_path):
    run = make_run(tmp_path)
    run.write_status(Status("running", "report"))
    text, _ = page(run)
    assert '<span class="badge good">finished</span>' in text


def test_an_almost_empty_directory_is_enough(tmp_path):
    (tmp_path / "resolved.yaml").write_text("name: bare\n")
    text, _ = page(RunDirectory(tmp_path))
    assert "Nothing has been logged" in text
    assert "<h1>bare</h1>" in text


def test_damaged_files_do_not_stop_the_page(tmp_path):
    run = make_run(tmp_path, results=[record(figures=[{"path": "figures/gone.png"}, {"path": "figures/bad.png"}, "?"])])
    (run.path / "figures").mkdir()
    (run.path / "figures" / "bad.png").write_bytes(b"not a picture")
    run.environment.write_text("{")
    with open(run.metrics, "a") as file:
        file.write('{"stage": 0, "step": 99, "lo')
    text, parsed = page(run)
    assert "Not recorded." in text
    assert "img" not in parsed.tags


def test_figures_outside_the_run_are_not_shown(tmp_path):
    imsave(tmp_path / "secret.png", np.zeros((4, 4, 3), dtype=np.uint8))
    run = make_run(
        tmp_path / "runs", results=[record(figures=[{"path": "../../../secret.png", "title": "x", "caption": ""}])]
    )
    assert (run.path / "../../../secret.png").is_file()
    _, parsed = page(run)
    assert "img" not in parsed.tags


def test_no_run_no_report(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        write_report(tmp_path)


def test_warnings_are_counted_and_shown(tmp_path):
    run = make_run(tmp_path)
    run.append_event("rollback", "the energy gap is 300 nats", stage=0, step=40)
    text, _ = page(run)
    assert "1 warning or intervention of" in text
    assert "the energy gap is 300 nats" in text


def test_snapshots_are_thinned_and_in_order(tmp_path):
    run = make_run(tmp_path)
    run.samples.mkdir()
    for step in range(100, 3100, 100):
        imsave(run.samples / f"stage0-step{step:06d}.png", np.zeros((2, 2, 3), dtype=np.uint8))
    text, parsed = page(run)
    shown = [int(step.replace(",", "")) for step in re.findall(r"<figcaption>stage 1, step ([\d,]+)<", text)]
    assert len(shown) == parsed.tags.count("img") == 12
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (100, 3000)


def test_a_long_run_stays_small_and_quick(tmp_path):
    run = make_run(tmp_path, rows=0)
    rows = [{"stage": 0, "name": "elbo", "step": step, "loss": np.sin(step / 50) + step % 3} for step in range(20_000)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    began = time.perf_counter()
    text, _ = page(run)
    assert time.perf_counter() - began < 5
    assert len(text) < 60_000


# -- curves -----------------------------------------------------------------------------------------------------------


def test_charts_pair_data_and_negatives_and_leave_constants_out():
    rows = [
        {"stage": 0, "step": s, "time": s, "loss": 1.0 / (s + 1), "energy/data": s, "energy/negatives": -s, "lr": 0.5}
        for s in range(30)
    ]
    charts, constant = make_charts(rows)
    assert [chart.title for chart in charts] == ["loss", "energy"]
    assert [line.name for line in charts[1].lines] == ["energy/data", "energy/negatives"]
    assert constant == [("lr", "0.5")]
    assert charts[1].zero is not None
    assert charts[0].zero is None


def test_a_line_goes_from_left_to_right_and_up_is_more():
    (chart,), _ = make_charts([{"step": s, "loss": 2.0 * s} for s in range(5)])
    places = [tuple(map(float, pair.split())) for pair in chart.lines[0].path[1:].split("L")]
    assert places == sorted(places)
    assert all(a[1] > b[1] for a, b in itertools.pairwise(places))
    assert places[0][0] == pytest.approx(46)


def test_values_that_are_no_numbers_leave_gaps():
    rows = [
        {"step": s, "loss": None if s == 3 else float("nan") if s == 4 else s * 1.0, "flag": True} for s in range(9)
    ]
    (chart,), constant = make_charts(rows)
    assert chart.lines[0].path.count("L") == 6
    assert constant == []


def test_a_spike_survives_thinning():
    rows = [{"step": s, "loss": 100.0 if s == 4321 else s % 2 + 0.001 * s} for s in range(10_000)]
    (chart,), _ = make_charts(rows)
    assert chart.lines[0].path.count("L") <= 400
    assert "100" in chart.cut


def test_a_wild_beginning_does_not_flatten_the_rest():
    (chart,), _ = make_charts([{"step": s, "loss": 1e6 if s < 3 else 2.0 + 0.1 * (s % 5)} for s in range(100)])
    assert "1,000,000" in chart.cut
    assert max(float(tick.text) for tick in chart.y_ticks) < 3


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.3, 8.1), (-940, -100), (1e-7, 3e-7), (999, 1001), (-1e9, 1e9)])
def test_ticks_are_round_and_inside(low, high):
    marks = ticks(low, high, 4)
    assert 2 <= len(marks) <= 5
    assert all(low - 1e-9 * abs(low) <= mark <= high * (1 + 1e-9) for mark in marks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-1.15234, "−1.152"),
        (12000.0, "12,000"),
        (1e-7, "1.00e−07"),
        (21409.2, "21,409"),
        (1.5e9, "1.50e+09"),
        (0.5, "0.5"),
    ],
)
def test_numbers_in_few_characters(value, text):
    assert short(value) == text


def test_the_runs_own_samples_are_shown_where_no_metric_shows_any(tmp_path):
    run = make_run(tmp_path)
    run.samples.mkdir()
    imsave(run.samples / "samples.png", np.zeros((8, 8, 3)))
    page = write_report(run.path).read_text()
    assert "Drawn from the finished model, as the recipe&#39;s section" in page
