"""A recipe: sections of plain values, each with its place, read from YAML and laid over the recipes it extends.

Reading order: the file, the recipes under ``extends`` below it, ``--set`` and ``--unset``, and last ``${...}``. The
binder checks values against components later.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from genfw.errors import Fault, did_you_mean, shown
from genfw.plugins.loading import load_plugins
from genfw.plugins.registry import Registry
from genfw.recipes.faults import FaultList, Mark
from genfw.recipes.find import find_recipe, locate, shipped_names
from genfw.recipes.overlay import apply_sets, apply_unsets, merge, resolve_references
from genfw.recipes.yaml_nodes import BAD, LARGEST, Node, read_yaml

#: Version of the format that this genfw reads and writes.
FORMAT = 1

#: Section -> the form of its value, in the order of writing. Only resolved recipes have ``smoke`` and ``components``.
SECTIONS: dict[str, str] = {
    "genfw": "int",
    "name": "str",
    "description": "str",
    "tried": "map",
    "extends": "names",
    "seed": "int",
    "smoke": "bool",
    "vars": "map",
    "plugins": "names",
    "requires": "map",
    "data": "block",
    "prior": "block",
    "decoder": "block",
    "encoder": "block",
    "energy": "block",
    "amortizer": "block",
    "train": "list",
    "sample": "map",
    "evaluate": "list",
    "trackers": "list",
    "engine": "map",
    "health": "map",
    "paper": "map",
    "components": "map",
}

_FORMS: dict[str, str] = {
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "names": "a text or a list of texts",
    "map": "a mapping",
    "list": "a list of blocks such as [{use: NAME}]",
}

#: Sections that ``extends`` does not inherit.
_OWN = ("name", "description", "tried")
#: Most recipes below one, and most of them in one chain.
_MOST_FILES, _LONGEST_CHAIN = 500, 100
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@attrs.frozen
class Recipe:
    """A recipe as read, with ``extends``, overrides and ``${...}`` applied.

    Arguments:
        root: The sections.
        path: The file, or ``None`` for a recipe from text.
        text: The file's text.
        faults: Faults of reading; empty unless the recipe was read with ``strict=False``.
        notes: Notes for the user: keys that a change of ``use`` dropped.
    """

    root: Node
    path: Path | None
    text: str
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name; by default its file's."""
        node = self.root.child("name")
        if node is not None and isinstance(node.value, str):
            return node.value
        return "recipe" if self.path is None else self.path.stem

    @property
    def seed(self) -> int:
        """Source of all randomness of a run; 0 by default."""
        node = self.root.child("seed")
        return node.value if node is not None and isinstance(node.value, int) else 0

    @property
    def smoke(self) -> bool:
        """Whether this is the resolved recipe of a smoke run."""
        node = self.root.child("smoke")
        return node is not None and node.value is True

    @property
    def resolved(self) -> bool:
        """Whether genfw has written this recipe, with all defaults and with paths that are final."""
        return self.root.child("components") is not None

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The local plugin files under ``plugins:``, each relative to the recipe that names it."""
        node = self.root.child("plugins")
        return tuple(_plugin_path(item) for item in _items(node) if isinstance(item.value, str))

    def plain(self) -> dict[str, Any]:
        """The sections as plain values."""
        plain: dict[str, Any] = self.root.plain()
        return plain

    def get(self, path: str) -> Node | None:
        """The value at a path such as ``train.0.steps``, or ``None``."""
        return self.root.get(path.split("."))


def folder(mark: Mark) -> Path:
    """The folder for relative paths written at ``mark``: its file's; the working directory for overrides."""
    return Path() if mark.file in ("--set", "--unset") or mark.file.startswith("<") else Path(mark.file).parent


def _plugin_path(item: Node) -> Path:
    # Path's own expanduser raises for a user who is not there.
    return folder(item.mark).joinpath(os.path.expanduser(item.value))


def _why_unreadable(path: Path) -> str:
    """Why a plugin file can't be read; empty where it can."""
    if not os.path.isfile(path):
        return "there is none"
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return str(error.strerror)
    return ""


# -- reading ----------------------------------------------------------------------------------------------------------


def open_recipe(
    source: str | Path,
    *,
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    enabled: bool = True,
    disable: Sequence[str] = (),
    registry: Registry | None = None,
) -> tuple[Recipe, Registry]:
    """Find and read a recipe, and load its plugins: the installed ones, and the local files it names.

    The recipe keeps faults that do not prevent reading; :func:`genfw.recipes.check.check` reports all at once.

    Arguments:
        source: A file, or the name of a shipped recipe.
        sets: Overrides ``path=VALUE``.
        unsets: Paths to remove.
        plugins: Further local plugin files.
        enabled: Load plugins other than the built-in ones.
        disable: Plugins to leave out.
        registry: Registry to use; plugins are loaded again only if the recipe names local files that it does not have.

    Raises:
        RecipeError: The recipe can't be read at all.
    """
    known = registry or load_plugins(local=plugins, enabled=enabled, disable=disable)
    search = known.recipe_dirs()
    recipe = load_recipe(find_recipe(source, search), sets=sets, unsets=unsets, search=search, strict=False)
    loaded = [Path(plugin.file).resolve() for plugin in known.plugins if plugin.source == "local"]
    own = [path for path in recipe.plugins if not _why_unreadable(path) and path.resolve() not in loaded]
    if own and enabled:
        known = load_plugins(local=[*loaded, *own], disable=[*disable, *known.disabled])
    return recipe, known


def load_recipe(
    source: str | Path,
    *,
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
    search: Sequence[Path] = (),
    strict: bool = True,
) -> Recipe:
    """Read a recipe from a file, or a shipped recipe by its name.

    Arguments:
        source: The file, or the name of a shipped recipe.
        sets: Overrides ``path=VALUE``.
        unsets: Paths to remove.
        search: Folders of shipped recipes.
        strict: Raise every fault now. Otherwise :attr:`Recipe.faults` keeps faults that do not prevent reading, and
            :func:`genfw.recipes.check.check` reports them together with its own.

    Raises:
        RecipeError: With all faults.
    """
    path = find_recipe(source, search)
    faults = FaultList()
    text = _read_text(path, faults)
    faults.raise_any()
    return _assemble(text, str(path), path, sets, unsets, search, strict)


def parse_recipe(
    text: str,
    *,
    file: str = "<recipe>",
    sets: Sequence[str] = (),
    unsets: Sequence[str] = (),
    search: Sequence[Path] = (),
    strict: bool = True,
) -> Recipe:
    """Read a recipe from text. See :func:`load_recipe`; paths are relative to the working directory."""
    return _assemble(text, file, None, sets, unsets, search, strict)


def _read_text(path: Path, faults: FaultList) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(4 * LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.add("GF101", f"not UTF-8: byte {error.start} is {error.object[error.start]:#04x}", Mark(str(path), 1, 1))
    except OSError as error:
        faults.add("GF106", f"can't be read: {error.strerror}", Mark(str(path), 1, 1))
    return ""


def _assemble(
    text: str,
    file: str,
    path: Path | None,
    sets: Sequence[str],
    unsets: Sequence[str],
    search: Sequence[Path],
    strict: bool,
) -> Recipe:
    faults, notes = FaultList(), list[str]()
    root = _Extender(search, faults, notes).read(text, file, path, ())
    if root is None:
        faults.raise_any()
    assert root is not None  # an unreadable root is a fault
    root = apply_sets(root, sets, faults, notes)
    root = apply_unsets(root, unsets, faults)
    late = root.child("extends")
    if late is not None:
        faults.add("GF114", "'extends' is followed before overrides; it can't be set by one", late.entry_mark)
    root = resolve_references(root, faults)
    _check_sections(root, faults)
    for item in _items(root.child("plugins")):
        if isinstance(item.value, str) and (why := _why_unreadable(_plugin_path(item))):
            place = f"the plugin file '{shown(item.value)}' in {folder(item.mark).resolve()}"
            faults.add("GF115", f"{place} can't be read: {why}", item.mark)
    if strict:
        faults.raise_any()
    return Recipe(root, path, text, faults.ordered(), tuple(notes))


class _Extender:
    """Reads a file and lays it over the recipes it extends, in order."""

    def __init__(self, search: Sequence[Path], faults: FaultList, notes: list[str]) -> None:
        self.search, self.faults, self.notes = search, faults, notes
        #: What each file gives, so that one which several recipes extend is read once.
        self.known: dict[Path, Node | None] = {}

    def read(self, text: str, file: str, path: Path | None, open_files: tuple[Path, ...]) -> Node | None:
        root = read_yaml(text, file, self.faults)
        if root is None:
            return None
        if not root.is_map:
            self.faults.add("GF109", "a recipe is a mapping of sections such as 'data:' and 'train:'", root.mark)
            return None
        if path is not None:
            open_files = (*open_files, path.resolve())
        own = attrs.evolve(root, value={key: node for key, node in root.value.items() if key != "extends"})
        extends = root.child("extends")
        if extends is not None and extends.is_map:
            self.faults.add("GF109", f"'extends' is {_FORMS['names']}", extends.mark)
        below: Node | None = None
        names = [item.value for item in _items(extends)]
        for number, item in enumerate(_items(extends)):
            if item.value in names[:number]:
                self.faults.add("GF107", f"'extends' names '{shown(item.value)}' twice", item.mark)
                continue
            parent = self._parent(item, open_files)
            if parent is not None:
                below = parent if below is None else merge(below, parent, self.notes)
        return own if below is None else merge(below, own, self.notes)

    def _parent(self, item: Node, open_files: tuple[Path, ...]) -> Node | None:
        if not isinstance(item.value, str):
            self.faults.add("GF107", f"'extends' takes names of recipes, got {item.shown()}", item.mark)
            return None
        path = locate(item.value, folder(item.mark), self.search)
        if not isinstance(path, Path):
            here = [] if item.mark.file.startswith("<") else folder(item.mark).glob("*.yaml")
            known = [*sorted(path.stem for path in here), *shipped_names(self.search)]
            message = path or f"there is no recipe '{shown(item.value)}'{did_you_mean(item.value, known)}"
            self.faults.add("GF107", message, item.mark)
            return None
        if path.resolve() in open_files:
            chain = " -> ".join(file.name for file in (*open_files, path))
            self.faults.add("GF107", f"'extends' leads back to where it began: {chain}", item.mark)
            return None
        if path.resolve() not in self.known:
            if len(open_files) >= _LONGEST_CHAIN or len(self.known) >= _MOST_FILES:
                say = f"'extends' leads to more than {_LONGEST_CHAIN} recipes in a chain, or {_MOST_FILES} in all"
                self.faults.add("GF107", say, item.mark)
                return None
            self.known[path.resolve()] = self._inherited(path, open_files)
        return self.known[path.resolve()]

    def _inherited(self, path: Path, open_files: tuple[Path, ...]) -> Node | None:
        local = FaultList()
        text = _read_text(path, local)
        self.faults.take(local.faults)
        root = None if local else self.read(text, str(path), path, open_files)
        if root is None:
            return None
        return attrs.evolve(root, value={key: node for key, node in root.value.items() if key not in _OWN})


def _items(node: Node | None) -> tuple[Node, ...]:
    if node is None or node.value is None or node.value is BAD or node.is_map:
        return ()
    return node.value if isinstance(node.value, tuple) else (node,)


# -- the form of sections ---------------------------------------------------------------------------------------------


def _check_sections(root: Node, faults: FaultList) -> None:
    for key, node in root.value.items():
        form = SECTIONS.get(key)
        if form is None:
            known = [name for name in SECTIONS if name not in ("smoke", "components")]
            faults.add("GF108", f"recipes have no section '{shown(key)}'{did_you_mean(key, known)}", node.entry_mark)
        elif node.value is not None and node.value is not BAD and not _fits(node, form):
            faults.add("GF109", f"'{key}' is {_FORMS[form]}", node.mark)
        elif key == "genfw" and node.value not in (None, BAD, FORMAT):
            faults.add(
                "GF109",
                f"format version {shown(node.value)} can't be read; this genfw reads version {FORMAT}",
                node.mark,
            )
        elif key == "name" and isinstance(node.value, str) and not _SAFE_NAME.fullmatch(node.value):
            faults.add(
                "GF109",
                f"the name '{shown(node.value)}' can't name a folder: use letters, digits, '-', '_', '.'",
                node.mark,
            )
        elif key == "tried":
            _check_tried(node, faults)
        elif key == "seed" and isinstance(node.value, int) and not 0 <= node.value < 2**63:
            faults.add("GF109", f"'seed' is a whole number from 0 to 2^63 - 1, got {node.shown()}", node.mark)


def _check_tried(node: Node, faults: FaultList) -> None:
    plain = node.plain() if node.is_map else {}
    hours = plain.get("hours")
    real = isinstance(hours, (int, float)) and not isinstance(hours, bool) and 0 < hours < math.inf
    if plain and (set(plain) != {"hardware", "hours"} or not isinstance(plain["hardware"], str) or not real):
        form = "{hardware: TEXT, hours: NUMBER}, what a run to the end took"
        faults.add("GF109", f"'tried' is {form}, got {node.shown()}", node.mark)


def _fits(node: Node, form: str) -> bool:
    value = node.value
    match form:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "str":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "names":
            return all(isinstance(item.value, str) or item.value is BAD for item in _items(node)) and not node.is_map
        case "map":
            return node.is_map
        case "block":
            return True  # the binder checks blocks
        case _:
            return node.is_list
