"""What nobody should wait for imports no torch."""

import json
import subprocess
import sys

import pytest

#: Runs each command in turn, and says what it printed and which heavy packages are imported by then.
ASK = """
import contextlib, io, json, os, sys
from genfw_cli.main import main
answers = []
for environment, arguments in json.loads(sys.argv[2]):
    os.environ.update(environment)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(arguments)
    for name in environment:
        del os.environ[name]
    answers.append([printed.getvalue(), [name for name in sys.argv[1].split() if name in sys.modules]])
print(json.dumps(answers))
"""
HEAVY = "torch numpy scipy matplotlib sklearn arviz_stats lightning_fabric"
#: Nothing here needs torch; the last are the shell's questions, and what it must be offered.
COMMANDS = [["list"], ["list", "--json"], ["list", "--recipes"], ["--help"], ["run", "--help"], ["--version"], ["runs"]]
OFFERS = {
    "genfw li": "list",
    "genfw list sam": "sampler",
    "genfw show energy/": "energy/mlp",
    "genfw run quick": "quickstart",
    "genfw resume la": "latest",
}


def ask(questions, folder, heavy=HEAVY):
    said = subprocess.run(
        [sys.executable, "-c", ASK, heavy, json.dumps(questions)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Of one process: it would be told by each command after the one that imports torch."""
    questions = [({}, arguments) for arguments in COMMANDS]
    for words in OFFERS:
        count = str(len(words.split()) - 1)
        questions.append(({"_GENFW_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}, []))
    found = ask(questions, tmp_path_factory.mktemp("empty"))
    return dict(zip([*map(" ".join, COMMANDS), *OFFERS], found, strict=True))


@pytest.mark.parametrize("words", [*map(" ".join, COMMANDS), *OFFERS])
def test_no_torch_after(words, answers):
    _, imported = answers[words]
    assert imported == []


@pytest.mark.parametrize(("words", "offer"), OFFERS.items())
def test_completion_offers_names(words, offer, answers):
    printed, _ = answers[words]
    assert offer in printed.split()


def test_a_text_that_is_no_recipe_is_refused_before_torch(tmp_path):
    (tmp_path / "broken.yaml").write_text("name: [x\n")
    questions = [["check", "broken.yaml", "--json"], ["run", "broken.yaml"]]
    (checked, _), (_, imported) = ask([({}, question) for question in questions], tmp_path)
    assert "GF101" in checked
    assert imported == []


def test_a_recipe_is_checked_without_what_only_a_run_needs(tmp_path):
    # Of each kind of model and of metrics; a check tries a recipe's networks, and these are small.
    recipes = ["quickstart", "damc-mnist-anomaly-small", "vae-svhn", "vaebm-fashion"]
    checked = ask([({}, ["check", name]) for name in recipes], tmp_path, HEAVY.replace("torch numpy", "torchvision"))
    assert [imported for _, imported in checked] == [[]] * len(recipes)
    assert all(printed for printed, _ in checked)


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    code = "import sys; from genfw_cli.main import main; sys.exit(main(['list', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1
