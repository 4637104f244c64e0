"""Write docs/cli.md from the help texts of the commands.

python docs/write_cli.py
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from genfw_cli.commands import NAMES
from genfw_cli.main import main

PAGE = Path(__file__).parent / "cli.md"


def text() -> str:
    """The page, in Markdown."""
    parts = ["# The command line\n", "<!-- Written by `python docs/write_cli.py`; do not edit. -->\n", _block([])]
    for name in NAMES:
        parts += [f"## genfw {name}\n", _block([name])]
    return "\n".join(parts)


def _block(words: list[str]) -> str:
    out = io.StringIO()
    os.environ["COLUMNS"] = "80"
    with contextlib.redirect_stdout(out):
        main([*words, "--help"])
    return f"```text\n{out.getvalue().rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
