"""What no recipe needs is refused soon, at its place, in a message that somebody reads."""

import pytest

from genfw.errors import Fault, RecipeError
from genfw.recipes.recipe import load_recipe, parse_recipe


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "code", "line", "says"),
    [
        ("vars: {a: " + "x" * 2_000_000 + "}", "GF104", 1, "larger than 2,000,000 characters"),
        ("vars:\n  a: [" + "x, " * 100_000 + "]", "GF104", 2, "more than 20000 values"),
        (
            "vars:\n" + "".join(f'  v{n}: "${{vars.v{n + 1}}}"\n' for n in range(1_500)),
            "GF104",
            211,
            "follow one another",
        ),
        (
            "vars: {v0: 1, " + ", ".join(f'v{n + 1}: {{a: "${{vars.v{n}}}"}}' for n in range(60)) + "}",
            "GF104",
            1,
            "nest",
        ),
        ("extends: " + "x" * 5_000, "GF107", 1, "there is no recipe 'xxx"),
        ("extends: [quickstart, quickstart]", "GF107", 1, "names 'quickstart' twice"),
        ("plugins: [~nobody-here/x.py]", "GF115", 1, "can't be read: there is none"),
        ("plugins: [" + "x" * 5_000 + ".py]", "GF115", 1, "can't be read: there is none"),
    ],
)
def test_what_is_too_much_is_refused_at_its_place(text, code, line, says):
    error = refused(text)
    found = [fault for fault in error.faults if fault.code == code and says in fault.message]
    assert (found[0].line, len(str(error)) < 60_000) == (line, True)


def test_a_message_has_the_first_50_of_at_most_200_faults():
    error = refused("".join(f"key{n}: 1\n" for n in range(9_000)))
    assert len(error.faults) == 200
    assert str(error).count("GF108") == 50
    assert str(error).endswith("... and at least 150 more faults")


def test_a_long_line_is_shown_around_its_fault():
    shown = str(Fault("GF100", "x", "a.yaml", 1, 5_001, "a" * 5_000 + "B" + "c" * 5_000)).splitlines()
    assert shown[1][shown[2].index("^")] == "B"
    assert len(shown[1]) < 250


def test_a_recipe_that_many_extend_is_read_once(tmp_path):
    """Each of 25 levels names two files of the next: 33 million files, were each read for itself."""
    for level in range(25):
        for name in "ab":
            below = f"[a{level + 1}.yaml, b{level + 1}.yaml]" if level < 24 else "[]"
            (tmp_path / f"{name}{level}.yaml").write_text(f"extends: {below}\nseed: {level}\n")
    assert load_recipe(tmp_path / "a0.yaml").seed == 0


def test_a_chain_of_recipes_has_an_end(tmp_path):
    for number in range(1_100):
        (tmp_path / f"r{number}.yaml").write_text(f"extends: r{number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="more than 100 recipes in a chain") as caught:
        load_recipe(tmp_path / "r0.yaml")
    assert caught.value.faults[0].code == "GF107"
