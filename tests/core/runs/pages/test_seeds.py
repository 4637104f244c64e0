"""Means over seeds: taken by group and protocol, ranked, with differences within the noise marked."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from genfw.runs.directory import RunDirectory, Status
from genfw.runs.pages.charts import make_band_charts
from genfw.runs.pages.seeds import Mean, compare_sweeps, within_noise
from genfw.runs.pages.sweep import write_sweep_report
from genfw.runs.sweep import Sweep, SweepRun


def record(value, seed, error=None, **protocol):
    facts = {"samples": 100, "seed": seed, "device": "cpu", **protocol}
    return {"name": "fid", "value": value, "error": error, "better": "lower", "unit": "", "protocol": facts}


@pytest.fixture
def sweep(tmp_path):
    """A sweep with one group for each keyword: its values over seeds, or records."""

    def make(name="sweep", **groups):
        runs = []
        for group, values in groups.items():
            for seed, value in enumerate(values):
                run = SweepRun(f"{group}-{seed}", "toy", {"seed": str(seed), "lr": group})
                run_dir = RunDirectory.create(tmp_path, "toy", "name: toy\n", path=tmp_path / name / run.name)
                run_dir.write_status(Status("finished"))
                for step in (10, 20, 30):
                    row = {"stage": 0, "name": "elbo", "step": step, "loss": step + seed, "lonely": 1.0 * step}
                    run_dir.append_metrics(row)
                if value is not None:
                    given = value if isinstance(value, dict) else record(value, seed)
                    run_dir.evaluation.write_text(json.dumps({"format": 1, "results": [given]}))
                runs.append(run)
        made = Sweep(tmp_path / name, runs)
        made.save()
        return made.path

    return make


def test_mean_deviation_and_count_of_each_group(sweep):
    values = {"a": [1.0, 2.0, 4.0], "b": [10.0, 11.0, None], "c": [1.1, 2.3, 4.5]}
    found = compare_sweeps([sweep(**values)])
    assert [group.label for group in found.groups] == ["toy lr=a", "toy lr=b", "toy lr=c"]
    (row,) = found.rows
    for mean, mine in zip(row.means, ([1.0, 2.0, 4.0], [10.0, 11.0], [1.1, 2.3, 4.5]), strict=True):
        assert (mean.mean, mean.count) == (pytest.approx(np.mean(mine)), len(mine))
        assert mean.deviation == pytest.approx(np.std(mine, ddof=1))
    # a and c can't be told apart; b can.
    assert [(mean.rank, mean.tied) for mean in row.means] == [(1, True), (3, False), (1, True)]


def test_means_are_ranked_where_protocols_agree(sweep):
    path = sweep(a=[record(1.0, 0), record(1.1, 1)], b=[record(2.0, 0, samples=50), record(2.1, 1, samples=50)])
    (row,) = compare_sweeps([path]).rows
    assert [(mean.letter, mean.rank) for mean in row.means] == [("A", None), ("B", None)]
    assert "samples is 100 in" in row.reason
    (row,) = compare_sweeps([path], across=["samples"]).rows
    assert [(mean.letter, mean.rank, mean.tied) for mean in row.means] == [("A", 1, False), ("A", 2, False)]
    # Runs of one setting that were measured differently are not averaged together.
    (row,) = compare_sweeps([sweep("other", a=[record(1.0, 0), record(5.0, 1, samples=50)])]).rows
    assert [(mean.mean, mean.count) for mean in row.means] == [(1.0, 1), (5.0, 1)]


def test_noise_is_welchs_test():
    first, second = [1.0, 1.2, 1.4, 0.9], [1.5, 1.9, 1.6, 1.3]

    def mean(values, error=None):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Mean(0, float(np.mean(values)), spread, len(values), error, "A")

    p = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert within_noise(mean(first), mean(second)) == (p > 0.05)
    wide = [value + 2.0 * (value - np.mean(second)) for value in second]
    p = stats.ttest_ind(first, wide, equal_var=False).pvalue
    assert within_noise(mean(first), mean(wide)) == (p > 0.05)
    # Without spread: equal or not. A single run speaks by its standard error, and not at all without one.
    assert within_noise(mean([1.0, 1.0]), mean([1.0, 1.0]))
    assert not within_noise(mean([1.0, 1.0]), mean([1.1, 1.1]))
    assert within_noise(mean([1.0]), mean([9.0]))
    assert not within_noise(mean([1.0], 0.1), mean([9.0], 0.1))
    assert within_noise(mean([1.0], 0.1), mean([1.2], 0.1))


def test_bands_are_one_deviation_around_the_mean():
    runs = [[{"step": step, "loss": level + step} for step in (0, 10)] for level in (1.0, 2.0, 3.0)]
    (chart,) = make_band_charts({"one": runs, "two": runs[:1]})
    one, two = chart.lines
    heights = [[float(pair.split()[1]) for pair in path.strip("MZ").split("L")] for path in (one.path, one.band)]
    (start, end), (upper, upper_end, lower_end, lower) = heights
    assert upper - start == pytest.approx(start - lower, abs=0.11)
    assert upper_end - end == pytest.approx(end - lower_end, abs=0.11)
    # A step of ten in the loss is ten deviations high.
    assert (start - end) / (lower - start) == pytest.approx(10.0, rel=0.05)
    assert math.isfinite(upper)
    upper, _, _, lower = (float(pair.split()[1]) for pair in two.band.strip("MZ").split("L"))
    assert upper == lower


def test_a_page_on_a_sweep(sweep, tmp_path):
    path = sweep(**{"a<b>": [1.0, 2.0], "c": [9.0, 9.5]})
    page = write_sweep_report(path)
    text = page.read_text()
    assert page == path / "report.html"
    assert "a&lt;b&gt;" in text
    assert "a<b>" not in text
    assert text.count('class="band') == 2 * 2  # loss and lonely, for both groups
    assert "n = 2" in text
