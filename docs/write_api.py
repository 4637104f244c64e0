"""Write docs/api.md: every public name of ``genfw``, by the room that it lives in. Sphinx fills in the docstrings.

python docs/write_api.py
"""

from __future__ import annotations

import importlib
from pathlib import Path

import genfw
import genfw.interfaces
import genfw.plugins
import genfw.testing

PAGE = Path(__file__).parent / "api.md"

#: Room -> the heading of its names, in the order of the page.
ROOMS = {
    "engine": "Runs",
    "recipes": "Recipes",
    "models": "Models, targets and chains",
    "interfaces": "Interfaces of a model's parts and of its sampling",
    "nn": "Parts of networks",
    "training": "Interfaces of training",
    "evaluation": "Interfaces of evaluation",
    "plugins": "Plugins",
    "weights": "Trained models and weights",
    "errors": "Errors",
}
#: Packages whose own public names have a section each.
PACKAGES = {"genfw.testing": "The conformance kit"}
#: Public modules: their names are on the page under ``genfw`` where that has them, and here where it has not.
MODULES = ("genfw.interfaces", "genfw.plugins", "genfw.errors")


def text() -> str:
    """The page, in Markdown."""
    parts = [
        "# Python names\n",
        "<!-- Written by `python docs/write_api.py` from `genfw.__all__`; do not edit. -->\n",
        "You import all of these from `genfw`, unless the name says more. `import genfw` imports no torch; a name is\n"
        "imported when you first use it.\n",
    ]
    if lost := {_room(name) for name in public()} - ROOMS.keys():
        raise SystemExit(f"give these rooms a heading: {', '.join(sorted(lost))}")
    for room, heading in ROOMS.items():
        names = [f"genfw.{name}" for name in sorted(public()) if _room(name) == room]
        names += [name for name in sorted(_only_in_modules()) if name.split(".")[1] == room]
        if names:
            parts.append(_section(heading, names))
    for package, heading in PACKAGES.items():
        module = importlib.import_module(package)
        parts.append(_section(heading, [f"{package}.{name}" for name in sorted(module.__all__)]))
    return "\n".join(parts)


def public() -> list[str]:
    """The public names of ``genfw`` but for its modules and its version."""
    return list(genfw._EXPORTS)


def _only_in_modules() -> list[str]:
    found: list[str] = []
    for package in MODULES:
        module = importlib.import_module(package)
        own = getattr(module, "__all__", [name for name, value in vars(module).items() if _is_error(value)])
        found += [f"{package}.{name}" for name in own if name not in genfw.__all__]
    return found


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception) and value.__module__ == "genfw.errors"


def _room(name: str) -> str:
    return genfw._EXPORTS[name].split(".")[1]


def _section(heading: str, names: list[str]) -> str:
    entries = "\n".join(f"   {name}" for name in names)
    return f"## {heading}\n\n```{{eval-rst}}\n.. autosummary::\n   :toctree: api\n   :nosignatures:\n\n{entries}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
