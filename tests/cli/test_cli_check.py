"""`check`: every fault of a recipe, at its place, in one pass."""

import json


def test_sound_recipe_is_ok(call, tiny):
    said = call("check", tiny)
    assert (said.code, said.out, said.err) == (0, f"{tiny}: ok\n", "")
    assert json.loads(call("check", tiny, "--json").out)["ok"] is True
    assert call("check", tiny, "--smoke").code == 0


def test_all_faults_come_at_once_with_place_line_and_caret(call, faulty):
    said = call("check", faulty)
    assert said.code == 3
    assert said.out == ""
    lines = said.err.splitlines()
    heads = [line for line in lines if "error[GF" in line]
    assert [head.split(": error")[0].removeprefix(str(faulty)) for head in heads] == [":4:31", ":5:16", ":6:29"]
    assert "did you mean 'dim'" in said.err
    assert "did you mean 'mlp'" in said.err
    for line in (head_index for head_index, line in enumerate(lines) if "error[GF2" in line):
        source, caret = lines[line + 1], lines[line + 2]
        column = int(lines[line].split(":")[2])
        assert caret.strip() == "^"
        assert caret.index("^") == 4 + column - 1
        assert source.strip()
    assert "Traceback" not in said.err


def test_json_lists_the_faults(call, faulty):
    said = call("check", faulty, "--json")
    found = json.loads(said.out)
    assert said.code == 3
    assert found["ok"] is False
    assert {fault["code"] for fault in found["faults"]} >= {"GF201", "GF203", "GF205"}
    assert all(fault["line"] > 0 and fault["file"] == str(faulty) for fault in found["faults"])


def test_overrides_are_checked_too(call, tiny):
    said = call("check", tiny, "--set", "train.0.stepps=5")
    assert said.code == 3
    assert "stepps" in said.err
    assert call("check", tiny, "--set", "train.0.steps=5", "--unset", "sample").code == 0


def test_unknown_recipe_is_a_recipe_error(call):
    said = call("check", "quikstart")
    assert said.code == 3
    assert "did you mean 'quickstart'" in said.err


def test_recipe_may_name_its_own_plugin(call, write, tiny):
    write(
        "part.py",
        """
        from genfw.plugins.component import Component
        from genfw.plugins.hookspecs import hookimpl

        @hookimpl
        def genfw_components():
            return [Component("energy", "flat", "part:Flat", "E(v) = 0")]

        def __getattr__(name):
            from torch import nn
            from genfw.interfaces import Energy

            class Flat(Energy):
                "The energy that is zero."
                on = "data"

                def __init__(self) -> None:
                    super().__init__()

                def forward(self, v):
                    return 0.0 * v.flatten(1).sum(1)

            if name == "Flat":
                return Flat
            raise AttributeError(name)
        """,
    )
    path = write("own.yaml", tiny.read_text() + "plugins: [./part.py]\nenergy: {use: flat}\n")
    assert call("check", path).code == 0
    assert call("check", write("other.yaml", tiny.read_text() + "energy: {use: flat}\n")).code == 3
