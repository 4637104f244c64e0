"""``genfw schema``."""

from __future__ import annotations

import json

import typer

from genfw_cli.arguments import Out
from genfw_cli.output import write
from genfw_cli.session import registry_of


def command(ctx: typer.Context, out: Out = None) -> None:
    """Print the JSON Schema of recipes, for editors.

    It covers the installed components.
    """
    from genfw.recipes.schema import export

    write(json.dumps(export(registry_of(ctx)), indent=2) + "\n", out)
