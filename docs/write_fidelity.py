"""Write docs/fidelity.md from docs/fidelity.yaml.

python docs/write_fidelity.py
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
PAGE = FOLDER / "fidelity.md"
WIDTH = 100

VERDICTS = {
    "exact": "as the paper says, or as its published code does where the paper is silent",
    "otherwise": "genfw is other on purpose; the row says why, and what gives the published way",
    "quoted": "numbers and models of other papers",
    "beyond": "described in the paper, which runs no experiment with it",
}
TITLES = {
    "VAEBM": "VAEBM (arXiv 2010.00654)",
    "DAMC": "DAMC (arXiv 2310.03218)",
    "code": "What the published code does and the papers do not say",
}
INTRODUCTION = """\
# How faithfully genfw implements the two papers

<!-- Written by `python docs/write_fidelity.py` from `docs/fidelity.yaml`; do not edit. -->

Each row is a claim, a setting, a table or a figure of a paper, with where it stands there, what
it is in genfw, and the verdict. Line numbers and scripts are of the published repositories:
`NVlabs/VAEBM`, `NVlabs/NVAE` and `yuPeiyu98/Diffusion-Amortized-MCMC`.

A row marked ✓ is held by a test: `tests/whole/test_fidelity.py` reads the effective values of the
recipes and compares them with the row's `check`. Whether the numbers themselves are met is
another question: [results.md](results.md) has what was measured.
"""


def rows() -> dict[str, list[dict[str, Any]]]:
    """The rows of each part."""
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load((FOLDER / "fidelity.yaml").read_text(encoding="utf-8"))
    return found


def text() -> str:
    """The page, in Markdown."""
    parts = rows()
    lines = [INTRODUCTION, "| verdict | meaning | " + " | ".join(TITLES[part].split(" (")[0] for part in parts) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(parts))
    counts = {part: Counter(row["verdict"] for row in found) for part, found in parts.items()}
    for verdict, meaning in VERDICTS.items():
        numbers = " | ".join(str(counts[part][verdict]) for part in parts)
        lines.append(f"| {verdict} | {meaning} | {numbers} |")
    for part, found in parts.items():
        lines += ["", f"## {TITLES[part]}", ""]
        lines += [_row(row) for row in found]
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> str:
    claim = _plain(row["claim"]).rstrip(".")
    where = f" ({_plain(row['paper'])})" if row["paper"] != "-" else ""
    held = " ✓" if "check" in row else ""
    said = f"**{row['id']}** {claim}{where}. *{row['verdict']}*{held}"
    if row["genfw"] != "-":
        said += f": {_plain(row['genfw'])}"
    said = said.rstrip(".") + "."
    if note := _plain(row.get("note", "")):
        said += f" {note[0].upper()}{note[1:].rstrip('.')}."
    return textwrap.fill(
        said, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _plain(text: str) -> str:
    """Text in which Markdown sees no markup but code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*|<>\[\]]|\b_|_\b)", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
