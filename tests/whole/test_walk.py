"""The walk of `genfw run` in docs/design.md is what a run does, and comes back to no file."""

import re
import sys

from genfw_cli.main import main
from places import ROOT

RECIPE = """
genfw: 1
name: walk
data: {use: gaussian-grid, train: 40, test: 10}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [4]}
encoder: {use: mlp, hidden: [4]}
train: [{use: elbo, steps: 2, batch: 4, optimizer: {use: adam, lr: 1e-3}}]
evaluate: [{use: sampling-speed}]
"""


def walk():
    """``(file, function)`` of each line of the table."""
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("### What happens in `genfw run")[1]
    return re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", section.split("\n## ")[0], re.M)


def test_the_walk_is_short_and_enters_no_file_twice():
    files = [file for file, _ in walk()]
    assert len(files) == len(set(files))
    assert 10 <= len(files) <= 15  # at most 14 hops


def test_a_run_goes_that_way(tmp_path):
    (tmp_path / "walk.yaml").write_text(RECIPE)
    wanted, found = {(str(ROOT / file), name): (file, name) for file, name in walk()}, []

    def watch(frame, event, argument):
        if event == "call":
            line = wanted.get((frame.f_code.co_filename, frame.f_code.co_name))
            if line is not None and line not in found:
                found.append(line)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        code = main(["run", str(tmp_path / "walk.yaml"), "--root", str(tmp_path / "runs")])
    finally:
        sys.setprofile(before)
    assert code == 0
    assert found == walk()
