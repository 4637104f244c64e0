"""Recipes by name: the search path of shipped recipes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import Fault, RecipeError, did_you_mean, quoted, shown
from genfw.recipes.faults import FaultList
from genfw.recipes.yaml_nodes import read_yaml

_SUFFIXES = (".yaml", ".yml")


def find_recipe(name: str | Path, search: Sequence[Path] = ()) -> Path:
    """The file of a recipe.

    Arguments:
        name: A path that exists; or a shipped recipe's name, with or without its folder and ``.yaml``.
        search: Folders of shipped recipes.

    Raises:
        RecipeError: No recipe has that name, or several have it.
    """
    found = locate(str(name), Path(), search)
    if isinstance(found, Path):
        return found
    message = found or f"there is no recipe '{shown(str(name))}'{did_you_mean(str(name), shipped_names(search))}"
    raise RecipeError(Fault("GF106", message, hint="genfw list --recipes"))


def locate(name: str, base: Path, search: Sequence[Path]) -> Path | str | None:
    """A recipe's file by its name; ``None`` if no recipe has that name, or a message if several have it.

    Arguments:
        name: A path from ``base``; a path below a folder of ``search``; or the stem of one file anywhere below it.
        base: Folder for relative paths.
        search: Folders of shipped recipes; the first with a match decides.
    """
    # A bare name is a shipped recipe even if a file of that name (without suffix) exists.
    whole = name.endswith(_SUFFIXES) or "/" in name
    for root, shipped in ((base, False), *((folder, True) for folder in search)):
        if not shipped or whole:
            for path in (root / (name + suffix) for suffix in (("",) if whole else ()) + _SUFFIXES):
                if os.path.isfile(path):  # Path's own method raises where a name is too long
                    return path
        hits = _below(root, name.removesuffix(".yaml")) if shipped and "/" not in name else []
        if len(hits) > 1:
            names = (path.relative_to(root).with_suffix("").as_posix() for path in hits)
            return f"'{shown(name)}' is the name of {len(hits)} recipes: {quoted(names)}; write one of them in full"
        if hits:
            return hits[0]
    return None


def _below(root: Path, stem: str) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES and path.stem == stem)


def shipped_names(search: Iterable[Path]) -> list[str]:
    """Names of the recipes in some folders: the file's stem, or ``folder/name`` where several files share it."""
    return sorted({name for root in search for name, _ in _named(root)})


def _named(root: Path) -> Iterator[tuple[str, Path]]:
    files = [path for path in root.rglob("*") if path.suffix in _SUFFIXES]
    stems = [path.stem for path in files]
    for path in files:
        yield path.stem if stems.count(path.stem) == 1 else path.relative_to(root).with_suffix("").as_posix(), path


@attrs.frozen
class ShippedRecipe:
    """A recipe that ``genfw run`` finds by name.

    Arguments:
        name: Its name on the command line.
        description: The first line of its description.
        path: Its file.
        data: Name of its data set, also where a recipe below it says so; empty where it has none.
        hardware: What a run to the end ran on; empty where nobody has run it to the end.
        hours: What that took.
    """

    name: str
    description: str
    path: Path
    data: str = ""
    hardware: str = ""
    hours: float | None = None


def shipped_recipes(search: Iterable[Path]) -> Iterator[ShippedRecipe]:
    """Every recipe in some folders, by name; unreadable recipes have no description.

    Arguments:
        search: The folders of :meth:`~genfw.plugins.registry.Registry.recipe_dirs`; the first with a name decides.
    """
    found: dict[str, Path] = {}
    search = tuple(search)
    for root in search:
        for name, path in _named(root):
            found.setdefault(name, path)
    for name, path in sorted(found.items()):
        own = _read(path)
        tried = own.get("tried")
        tried = tried if isinstance(tried, dict) else {}
        hours = tried.get("hours")
        yield ShippedRecipe(
            name,
            str(own.get("description") or "").strip().partition("\n")[0],
            path,
            _data_of(path, search),
            str(tried.get("hardware") or ""),
            float(hours) if isinstance(hours, (int, float)) else None,
        )


def _read(path: Path) -> dict[str, Any]:
    node = read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path), FaultList())
    return node.plain() if node is not None and node.is_map else {}


def _data_of(path: Path, search: Sequence[Path], above: tuple[Path, ...] = ()) -> str:
    """The data set's name in a recipe, or in the last of those it extends that has one."""
    own = _read(path)
    data = own.get("data")
    if isinstance(data, dict) and data.get("use"):
        return str(data["use"])
    below = own.get("extends") or []
    for name in reversed([below] if isinstance(below, str) else below):
        parent = locate(str(name), path.parent, search)
        if isinstance(parent, Path) and parent not in above and (found := _data_of(parent, search, (*above, path))):
            return found
    return ""
