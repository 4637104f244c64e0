"""docs/results.md against the result files: who changes one writes the page anew."""

import json
import runpy

import pytest

from places import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "write_results.py"))
FILES = sorted((ROOT / "results").glob("*.json"))


def test_the_page_is_that_of_the_result_files():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == SCRIPT["text"](), "run: python docs/write_results.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_result_file_says_what_a_number_needs(file):
    run = json.loads(file.read_text(encoding="utf-8"))
    assert file.stem == f"{run['recipe']}-s{run['seed']}"
    if not any(word.startswith("vars.run=") for word in run["settings"]):  # else its weights are another run's
        assert run["minutes"] > 0
        assert run["steps"]
    assert all(run[key] for key in ("commit", "date", "hardware", "numbers"))
    assert all(number["protocol"] for number in run["numbers"].values())


def test_a_cell_is_the_mean_over_seeds_with_its_deviation():
    seeds = {0: {"numbers": {"fid": 10.0}}, 1: {"numbers": {"fid": 14.0}}, 2: {"numbers": {"mse": 1.0}}}
    cell = SCRIPT["_cell"]
    assert cell({"number": "fid", "digits": 1}, seeds) == "12.0 ± 2.8 (2)"
    assert cell({"number": "mse", "digits": 2}, seeds) == "1.00 (1)"
    assert cell({"number": "auroc", "digits": 2}, seeds) == ""


def test_a_column_may_show_a_number_of_other_recipes():
    columns = [
        {"number": "auprc", "name": f"digit-{n}", "of": f"-d{n}", "better": "higher", "digits": 2} for n in (1, 4)
    ]
    table = {"columns": columns, "rows": [{"label": "DAMC", "recipe": "damc", "paper": {"digit-4": 0.9}}]}
    known = {f"damc-d{n}": {0: {"numbers": {"auprc": n / 10}}} for n in (1, 4)}
    assert SCRIPT["_table"](table, known) == [
        "| | digit-1 ↑ | digit-4 ↑ |",
        "| --- | --- | --- |",
        "| DAMC | 0.10 (1) | 0.40 (1) |",
        "| *paper* |  | *0.9* |",
    ]
    assert SCRIPT["_sources"](table, known) == ""
