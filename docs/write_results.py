"""Write docs/results.md from the result files of the repository.

python docs/write_results.py
"""

from __future__ import annotations

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"
WIDTH = 100
INTRODUCTION = """\
# Results

`python docs/write_results.py` writes this page from the result files in `results/`; nothing here
is written by hand. `benchmarks/results/collect.py` makes a result file of a finished run, with
the protocol of every number, the seed, the commit, the minutes and the machine. Numbers of
earlier sessions, whose run directories are gone, stand in `results/earlier.yaml` with the commit
that wrote them down.

A cell is the mean over seeds, ± the standard deviation where there are several, and the count of
seeds in brackets. The paper's number stands below it in *italics*. [fidelity.md](fidelity.md)
says how faithful the settings are.
"""


def runs() -> dict[str, dict[int, dict[str, Any]]]:
    """Recipe -> seed -> what was measured; a run that is kept as a file goes before an earlier session's."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for group in yaml.safe_load((FOLDER / "earlier.yaml").read_text(encoding="utf-8")):
        for run in group["runs"]:
            facts = {"commit": group["commit"], "date": str(group["date"]), "earlier": True}
            found.setdefault(run["recipe"], {})[run["seed"]] = {**run, **facts}
    for file in sorted(FOLDER.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        numbers = {name: number["value"] for name, number in run["numbers"].items()}
        seeds = found.setdefault(run["recipe"], {})
        before = seeds.get(run["seed"], {"numbers": {}})["numbers"]
        seeds[run["seed"]] = {**run, "numbers": {**before, **numbers}}
    return found


def text() -> str:
    """The page, in Markdown."""
    known, tables = runs(), yaml.safe_load((FOLDER / "tables.yaml").read_text(encoding="utf-8"))
    lines = [INTRODUCTION]
    for table in tables:
        lines += [f"## {table['title']}", "", _wrapped(table["caption"]), ""]
        if table["rows"]:
            lines += [*_table(table, known), ""]
        if "verdict" in table:
            lines += [_wrapped(f"**Verdict.** {table['verdict']}"), ""]
        if said := _sources(table, known):
            lines += [_wrapped(said), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(table: dict[str, Any], known: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    columns = table["columns"]
    arrows = {"lower": " ↓", "higher": " ↑", "": ""}
    lines = ["| | " + " | ".join(_name(column) + arrows[column["better"]] for column in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for row in table["rows"]:
        cells = [_cell(column, known.get(_recipe(row, column), {})) for column in columns]
        if not any(cells):
            cells = [row.get("why", "not run"), *[""] * (len(columns) - 1)]
        lines.append(f"| {row['label']} | " + " | ".join(cell or "–" for cell in cells) + " |")
        paper = _paper(row.get("paper"))
        quoted = [paper.get(_name(column)) for column in columns]
        if any(each is not None for each in quoted):
            lines.append("| *paper* | " + " | ".join("" if each is None else f"*{each:g}*" for each in quoted) + " |")
    return lines


def _name(column: dict[str, Any]) -> str:
    """What a column is called: its number, unless it says otherwise."""
    return str(column.get("name", column["number"]))


def _recipe(row: dict[str, Any], column: dict[str, Any]) -> str:
    """The recipe of a cell: the row's, or one of several whose names end as the column says."""
    return str(row.get("recipe", "")) + str(column.get("of", ""))


def _cell(column: dict[str, Any], seeds: dict[int, dict[str, Any]]) -> str:
    found = [run["numbers"][column["number"]] for run in seeds.values() if column["number"] in run["numbers"]]
    if not found:
        return ""
    digits = column["digits"]
    if len(found) == 1:
        return f"{found[0]:.{digits}f} (1)"
    return f"{statistics.fmean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f} ({len(found)})"


def _paper(paper: str | dict[str, float] | None) -> dict[str, Any]:
    """The paper's numbers: as they stand, or those that a recipe quotes."""
    if not isinstance(paper, str):
        return paper or {}
    (file,) = (ROOT / "recipes").rglob(f"{paper}.yaml")
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    expected: dict[str, Any] = recipe["paper"]["expect"]
    return expected


def _sources(table: dict[str, Any], known: dict[str, dict[int, dict[str, Any]]]) -> str:
    if any("of" in column for column in table["columns"]):  # its runs are those of other tables, where they are listed
        return ""
    used = [run for row in table["rows"] for run in known.get(row.get("recipe", ""), {}).values()]
    if not used:
        return ""
    files = [f"{run['recipe']}-s{run['seed']}.json" for run in used if not run.get("earlier")]
    commits = sorted({run["commit"] for run in used if run.get("earlier")})
    parts = []
    if files:
        parts.append("Run files: " + ", ".join(f"`results/{file}`" for file in files) + ".")
    if commits:
        parts.append("From an earlier session: " + ", ".join(f"`{commit}`" for commit in commits) + ".")
    minutes = sum(run["minutes"] for run in used)
    return " ".join([*parts, f"{minutes / 60:.1f} hours of one busy core in all."])


def _wrapped(words: str) -> str:
    return textwrap.fill(" ".join(words.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
