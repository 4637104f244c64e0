"""What nobody should wait for imports no torch."""

import os
import subprocess
import sys

import pytest

from genfw.recipes.find import shipped_names
from places import ROOT

ASK = """
import sys
from genfw_cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
names = ("torch", "numpy", "scipy", "matplotlib", "sklearn", "arviz_stats", "lightning_fabric")
heavy = [name for name in names if name in sys.modules]
print("imported", *heavy, file=sys.stderr)
"""


def ask(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-c", ASK, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["list", "--json"], ["list", "--recipes"], ["--help"], ["run", "--help"], ["--version"], ["runs"]],
    ids=" ".join,
)
def test_no_torch_after(arguments, tmp_path):
    said = ask(*arguments, cwd=tmp_path)
    assert said.stderr.splitlines()[-1] == "imported"


def test_a_recipe_is_checked_without_what_only_a_run_needs(tmp_path):
    code = ASK.replace('"torch", "numpy", ', '"torchvision", ')
    everything = "for name in sys.argv[1:]: main(['check', name])"
    recipes = shipped_names([ROOT / "recipes"])[::12]  # a check tries a recipe's networks, a second each
    said = subprocess.run(
        [sys.executable, "-c", code.replace("try:\n    main(sys.argv[1:])", f"try:\n    {everything}"), *recipes],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr.splitlines()[-1] == "imported"


@pytest.mark.parametrize(
    ("words", "offer"),
    [
        ("genfw li", "list"),
        ("genfw list sam", "sampler"),
        ("genfw show energy/", "energy/mlp"),
        ("genfw run quick", "quickstart"),
        ("genfw resume la", "latest"),
    ],
)
def test_completion_offers_names_without_torch(words, offer, tmp_path):
    count = str(len(words.split()) - 1)
    said = ask(cwd=tmp_path, _GENFW_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert offer in said.stdout.split()
    assert said.stderr.splitlines()[-1] == "imported"


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    code = "import sys; from genfw_cli.main import main; sys.exit(main(['list', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1
