"""What a person sees while a run goes on."""

import io
from pathlib import Path

import attrs
import numpy as np
import pytest
from rich.console import Console

from genfw.plugins.hookspecs import RunInfo
from genfw_cli.progress import PlainProgress, Rate, TerminalProgress, duration, progress, scalars, thumbnail

INFO = RunInfo("tiny", Path("runs/tiny/1"), {}, (("elbo", 100), ("contrastive", 50)))


def row(stage, step, time, **values):
    return {"stage": stage, "name": INFO.stages[stage][0], "step": step, "time": time, **values}


def test_rate_is_steps_over_time_of_the_newest_rows():
    rate = Rate(rows=3)
    assert rate.per_second is None
    assert rate.left(10) is None
    for step, seconds in ((0, 0.0), (10, 10.0), (20, 12.0), (30, 14.0)):
        rate.add(step, seconds)
    assert rate.per_second == pytest.approx(20 / 4)
    assert rate.left(50) == pytest.approx(10.0)
    rate.add(5, 20.0)  # rolled back
    assert rate.per_second is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "--:--"), (0, "00:00"), (61.4, "01:01"), (3599.6, "1:00:00"), (7325, "2:02:05")]
)
def test_durations_read_as_clocks(seconds, text):
    assert duration(seconds) == text


def test_gap_comes_first_and_bookkeeping_never():
    text = scalars(row(1, 5, 1.0, kl=1.0, loss=2.0, note="x", a=1.0, b=1.0, **{"energy/gap": 0.25}))
    assert text == "gap 0.25  loss 2  kl 1  a 1"


def test_plain_lines_come_at_intervals_and_at_both_ends_of_a_stage():
    stream, now = io.StringIO(), [0.0]
    shown = PlainProgress(stream, interval=10.0, clock=lambda: now[0])
    shown.start(INFO)
    shown.event("stage", "stage 0 'elbo' begins: 100 steps")
    now[0] = 10.0
    for step in range(10, 101, 10):
        shown.log(row(0, step, float(step), loss=1.0 / step))
        now[0] += 4.0
    shown.event("stage", "stage 1 'contrastive' begins: 50 steps")
    now[0] += 5.0
    shown.log(row(1, 10, 107.0, **{"energy/gap": 0.5}))
    shown.event("checkpoint", "stage1-step10")
    shown.event("warning", "the gap grows")
    lines = stream.getvalue().splitlines()
    steps = [line.split("step ")[1].split("/")[0] for line in lines if line.startswith("stage 1/2")]
    assert steps == ["10", "40", "70", "100"]
    assert "1 step/s  ETA 01:30" in lines[1], "the first row of a stage has a rate"
    assert "1 step/s  ETA 01:00  loss 0.025" in lines[2]
    assert lines[-2:] == ["stage 2/2 contrastive: step 10/50  2 step/s  ETA 00:20  gap 0.5", "warning: the gap grows"]
    assert "\033" not in stream.getvalue()


def test_a_resumed_stage_counts_from_where_it_resumed():
    stream, now = io.StringIO(), [0.0]
    shown = PlainProgress(stream, clock=lambda: now[0])
    shown.start(RunInfo(INFO.name, INFO.directory, {}, INFO.stages, resumed_at=(1, 30)))
    now[0] = 5.0
    shown.log(row(1, 40, 1_000.0))
    assert "step 40/50  2 step/s  ETA 00:05" in stream.getvalue()


def test_terminal_shows_stage_step_rate_eta_and_gap():
    stream = io.StringIO()
    now = [0.0]
    console = Console(file=stream, force_terminal=True, width=120)
    shown = TerminalProgress(stream, console, clock=lambda: now[0])
    shown.start(INFO)
    now[0] = 1.0
    shown.log(row(1, 10, 1.0))
    shown.log(row(1, 20, 2.0, **{"energy/gap": 0.5}))
    shown.event("rollback", "to step 10 [again]")
    shown.end("finished")
    text = stream.getvalue()
    for part in ("stage 2/2 contrastive", "20/50", "10 step/s", "ETA 00:03", "gap 0.5", "rollback: to step 10 [again]"):
        assert part in text


@pytest.mark.parametrize("colours", ["truecolor", "256", None])
def test_samples_are_seen_where_the_terminal_has_all_colours(tmp_path, colours):
    from matplotlib.image import imsave

    run = attrs.evolve(INFO, directory=tmp_path)
    (tmp_path / "samples").mkdir()
    picture = np.zeros((8, 8, 3))
    picture[:4] = 1.0  # white above black
    imsave(tmp_path / "samples" / "stage0-step5.png", picture)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=colours, width=100)
    shown = TerminalProgress(stream, console)
    shown.start(run)
    shown.event("sample", "stage0-step5.png")
    shown.event("sample", "gone.png")
    shown.end("finished")
    text = stream.getvalue()
    assert text.count("▀") == (8 * 4 if colours == "truecolor" else 0)
    assert ("38;2;255;255;255;48;2;255;255;255" in text) == (colours == "truecolor")
    assert thumbnail(tmp_path / "samples" / "stage0-step5.png", columns=2).plain == "▀▀\n"


def test_display_fits_the_stream(monkeypatch):
    stream = io.StringIO()
    assert isinstance(progress(stream), PlainProgress)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert isinstance(progress(stream), TerminalProgress)
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # a command in a notebook's cell
    assert isinstance(progress(stream), PlainProgress)


def test_resumed_run_says_where_it_goes_on():
    stream = io.StringIO()
    shown = PlainProgress(stream)
    shown.start(RunInfo("tiny", Path("r"), {}, INFO.stages, resumed_at=(1, 20)))
    assert "goes on at stage 2 of 2, step 20" in stream.getvalue()
    assert shown.directory == Path("r")
