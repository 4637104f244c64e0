"""One file per command, each imported only when its command is used.

A module is named after its command (``import_``, because ``import`` is a keyword). Typer calls its function
``command``, which imports what is heavy itself, so that ``--help`` and completion never wait for torch.
"""

from __future__ import annotations

import importlib
import keyword
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["NAMES", "Lazy"]

#: Commands in the order of ``genfw --help``; each has a module of its name here.
NAMES = (
    "run",
    "resume",
    "plan",
    "sweep",
    "runs",
    "sample",
    "evaluate",
    "report",
    "board",
    "compare",
    "models",
    "export",
    "push",
    "pull",
    "list",
    "show",
    "init",
    "check",
    "schema",
    "import",
    "new",
    "verify",
    "doctor",
)


class Lazy(TyperGroup):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """See the base class; imports no module."""
        return [*NAMES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See the base class."""
        # An unknown name loads all commands, from which the base class makes its suggestion.
        for name in (cmd_name,) if cmd_name in NAMES else NAMES:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return self.commands.get(cmd_name)


def _command(name: str) -> Any:
    module = importlib.import_module(f"{__name__}.{name}{'_' if keyword.iskeyword(name) else ''}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(module.command)
    return typer.main.get_command(app)
