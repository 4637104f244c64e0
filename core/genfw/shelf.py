"""The shipped recipes, as ``genfw list --recipes`` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from genfw.faults import FaultList
from genfw.nodes import read_yaml
from genfw.recipe import find_recipe, shipped_names

__all__ = ["ShippedRecipe", "shipped_recipes"]


@attrs.frozen
class ShippedRecipe:
    """A recipe that ``genfw run`` finds by name.

    Arguments:
        name: What it is called on the command line.
        description: The first line of its description.
        path: Its file.
    """

    name: str
    description: str
    path: Path


def shipped_recipes(folders: Iterable[Path]) -> Iterator[ShippedRecipe]:
    """Every recipe in some folders, by name; one that can't be read has no description.

    Arguments:
        folders: As :meth:`~genfw.registry.Registry.recipe_dirs` gives them.
    """
    folders = list(folders)
    for name in shipped_names(folders):
        path = find_recipe(f"{name}.yaml", folders)
        root = read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path), FaultList())
        node = root.child("description") if root is not None and root.is_map else None
        text = node.value if node is not None and isinstance(node.value, str) else ""
        yield ShippedRecipe(name, text.strip().partition("\n")[0], path)
