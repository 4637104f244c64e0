"""docs/cli.md says what `--help` says."""

import runpy

from genfw_cli.commands import NAMES
from places import ROOT

DOCS = ROOT / "docs"


def test_page_is_current(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    written = runpy.run_path(str(DOCS / "write_cli.py"))["text"]()
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == written, "run: python docs/write_cli.py"
    assert written.count("Usage: genfw") == 1 + len(NAMES)
