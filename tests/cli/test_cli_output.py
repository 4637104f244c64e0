"""Results on stdout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from genfw_cli.output import formula, heading, lines, note, number, plain, show_json, table, unmarked


@attrs.frozen
class Record:
    path: Path
    values: tuple
    _hidden: int = 1


def test_json_is_strict(capsys):
    show_json({"record": Record(Path("a/b"), (1, float("nan"), True)), "none": None})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "record": {"path": "a/b", "values": [1, None, True]},
        "none": None,
    }
    assert plain(range(2)) == [0, 1]


def test_piped_cells_hold_no_tab_or_line_break(capsys):
    table(["a", "b"], [("one\ttwo", "three\nfour")])
    assert capsys.readouterr().out == "one two\tthree four\n"


def test_empty_tables_say_so_on_stderr(capsys):
    table(["a"], [], empty="nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nothing\n")


def test_markup_on_a_terminal_is_text(capsys, terminal):
    table(["a"], [("[bold]",)])
    assert "[bold]" in capsys.readouterr().out


def test_numbers_have_their_error_beside_them():
    assert number(None) == "-"
    assert number(-1.16234) == "-1.162"
    assert number(-1.16234, 0.0123) == "-1.162 ± 0.012"


def test_docstring_markup_is_dropped():
    assert unmarked("Energy :math:`E(v)` of ``v``, see :meth:`~a.b.Energy.penalty`.") == (
        "Energy E(v) of v, see a.b.Energy.penalty."
    )
    assert unmarked("Law:\n\n.. math:: x = 1\n") == "Law:\n\n    x = 1\n"


def test_control_characters_are_shown_and_not_obeyed(capsys, terminal):
    table(["a"], [("red \x1b[31m",)])
    lines(["bell \x07", "line\tfeed"])
    note("clear \x1b[2J")
    heading("title \x9b0m")
    said = capsys.readouterr()
    assert "red \\x1b[31m" in said.out
    assert "bell \\x07\nline\tfeed\n" in said.out
    assert "title \\x9b0m" in said.out
    assert said.err == "clear \\x1b[2J\n"


GENFW = "import sys; from genfw_cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
@pytest.mark.parametrize("command", [["list"], ["show", "energy/mlp"], ["list", "--recipes"]])
def test_a_stdout_without_these_characters_or_none_at_all(command, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    call = [sys.executable, "-c", GENFW, *command]
    said = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (said.returncode, said.stderr) == (0, b"")
    assert len(said.stdout.decode("ascii").splitlines()) > 5
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *call], cwd=tmp_path, capture_output=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_stderr(tiny, tmp_path):
    call = [sys.executable, "-c", GENFW, "run", str(tiny), "--dir", "r", "--json"]
    with subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stderr.close()
        said = json.loads(run.stdout.read())
    assert run.returncode == 0
    assert said["status"] == "finished"


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"|\epsilon|^2/2", "|ϵ|^2/2"),
        (r"e^{-E(x)} q(x)", "e^(-E(x)) q(x)"),
        (r"\tfrac{a + b}{2}\, x", "(a + b)/2 x"),
        (r"x \leftarrow x - h \nabla U + \sqrt{2h}\, \xi", "x ← x - h ∇ U + √(2h) ξ"),
        (r"z_{<g}", "z_(<g)"),
    ],
)
def test_formulas_read_without_latex(latex, plain):
    assert formula(latex) == plain
    assert unmarked(f"A :math:`{latex}`.") == f"A {plain}."


def test_no_formula_of_a_component_is_left_in_latex():
    from genfw.plugins import load_plugins
    from genfw.plugins.help import component_help

    registry = load_plugins(enabled=False)
    shown = [component_help(component, registry) for component in registry.components]
    described = [text for each in shown for text in (each.doc, *(setting.description for setting in each.settings))]
    texts = [unmarked(text) for text in described]
    assert [text for text in texts if re.search(r"\\[a-zA-Z]{2}|:math:", text)] == []
