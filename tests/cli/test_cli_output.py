"""Results on stdout."""

import json
from pathlib import Path

import attrs
import pytest

from genfw_cli.output import number, plain, show_json, table, unmarked


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
