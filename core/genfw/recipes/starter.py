"""``genfw init``: a recipe to start from, with what an editor needs to complete and check it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

from genfw.errors import Fault, RecipeError
from genfw.plugins.registry import Registry
from genfw.recipes.find import find_recipe
from genfw.recipes.schema import export

#: The file beside the recipe that editors read.
SCHEMA = "recipe.schema.json"


def new_recipe(path: Path | str, source: str, registry: Registry) -> Path:
    """Write a recipe that begins as a copy of another, and beside it the JSON Schema of the installed components.

    Arguments:
        path: The file to write; its stem becomes the recipe's name.
        source: A recipe to copy: a file, or a shipped recipe's name.
        registry: Registry of the installed components.

    Returns:
        The file.

    Raises:
        RecipeError: The file exists, its stem can't name a recipe, or there is no such source.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        path = path.with_name(f"{path.name}.yaml")
    if path.exists():
        raise RecipeError(Fault("GF100", f"{path} exists; give another name"))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
        message = f"'{path.stem}' can't name a recipe: begin with a letter or digit, and use only those, '-', '_', '.'"
        raise RecipeError(Fault("GF100", message))
    lines = find_recipe(source, registry.recipe_dirs()).read_text(encoding="utf-8").splitlines()
    # The head of the source, what it cost and what its paper found are not about the new recipe.
    body = list(itertools.dropwhile(lambda line: line.startswith("#") or not line.strip(), lines))
    text = "\n".join(_without(("name", "tried", "paper", "description"), body)).strip()
    head = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# From {source}. 'genfw check {path.name}' finds mistakes, 'genfw show KIND/NAME' says what you can set.",
    ]
    text = text.replace("genfw: 1", f"genfw: 1\nname: {path.stem}", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*head, text]) + "\n", encoding="utf-8")
    path.with_name(SCHEMA).write_text(json.dumps(export(registry), indent=1) + "\n", encoding="utf-8")
    return path


def _without(sections: tuple[str, ...], lines: list[str]) -> list[str]:
    """The lines of a recipe without some of its sections."""
    kept, leaving = [], False
    for line in lines:
        if re.match(r"[A-Za-z]", line):
            leaving = line.partition(":")[0] in sections
        if not leaving:
            kept.append(line)
    return kept
