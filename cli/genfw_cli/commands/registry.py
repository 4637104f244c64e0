"""``genfw registry``: for those who work on genfw itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genfw_cli.arguments import Json, Out
from genfw_cli.output import lines, note, show_json, write
from genfw_cli.session import registry_of

app = typer.Typer(
    name="registry",
    add_completion=False,
    rich_markup_mode=None,
    help="Check the built-in components; write their catalogue.",
)


@app.command("check")
def check(
    ctx: typer.Context,
    tests: Annotated[Path, typer.Option("--tests", metavar="PATH", help="Folder of tests.")] = Path("tests"),
    recipes: Annotated[Path, typer.Option("--recipes", metavar="PATH", help="Folder of recipes.")] = Path("recipes"),
    as_json: Json = False,
) -> None:
    """Prove every line of registry.yaml; to be run in a checkout.

    Each component must import, have the right interface, be annotated and documented, and have a test and a recipe.
    """
    for folder, option in ((tests, "--tests"), (recipes, "--recipes")):
        if not folder.is_dir():
            raise typer.BadParameter(f"there is no folder {folder}; run this in a checkout of genfw", param_hint=option)
    from genfw.plugins.catalogue import registry_check

    problems = registry_check(registry_of(ctx), tests, recipes)
    if as_json:
        show_json({"ok": not problems, "problems": problems})
    else:
        lines(problems)
    if problems:
        note(f"error: {len(problems)} problems in the registry")
        raise typer.Exit(5)


@app.command("docs")
def docs(ctx: typer.Context, out: Out = None) -> None:
    """Write the catalogue of built-in components, as Markdown."""
    from genfw.plugins.catalogue import registry_docs

    write(registry_docs(registry_of(ctx)), out)
