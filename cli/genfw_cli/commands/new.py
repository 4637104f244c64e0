"""``genfw new``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw.plugins.component import KINDS
from genfw_cli import complete
from genfw_cli.output import note, wrote


def command(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", autocompletion=complete.kinds)],
    name: Annotated[str, typer.Argument(help="The component's name: lower-case words joined by '-'.")],
    directory: Annotated[Path, typer.Option("--dir", help="Folder for the package's folder.")] = Path(),
) -> None:
    """Write a plugin package with one component.

    The package has the hook, the class and its tests.
    """
    if kind not in KINDS:
        raise typer.BadParameter(f"there is no kind '{kind}'; the kinds are {', '.join(KINDS)}", param_hint="KIND")
    from genfw.plugins.scaffold import new_plugin

    folder = new_plugin(kind, name, directory)
    wrote(folder)
    note(f"next: pip install -e {folder}; genfw show {kind}/{name}; genfw verify {kind}/{name}")
