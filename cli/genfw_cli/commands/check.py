"""``genfw check``."""

from __future__ import annotations

from typing import Annotated

import typer

from genfw.errors import RecipeError
from genfw_cli.arguments import Json, RecipeName, Sets, Unsets
from genfw_cli.output import note, show_json
from genfw_cli.session import open_recipe


def command(
    ctx: typer.Context,
    recipe: RecipeName,
    sets: Sets = None,
    unsets: Unsets = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="As 'genfw run --smoke' would see it.")] = False,
    as_json: Json = False,
) -> None:
    """Find every fault of a recipe in one pass, without running it.

    Builds the networks without their numbers and looks at the headers of the data's files.
    """
    try:
        read, registry = open_recipe(
            ctx, recipe, sets, unsets
        )  # before torch: a text that is not YAML needs none of it
        from genfw.recipes.check import bind
        from genfw.recipes.rehearse import rehearse

        resolved, faults = bind(read, registry, smoke=smoke)
        notes = (*resolved.notes, *rehearse(resolved, faults).notes)
    except RecipeError as error:
        if not as_json:
            raise
        show_json({"recipe": recipe, "ok": False, "faults": error.faults})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        show_json({"recipe": recipe, "ok": True, "faults": [], "notes": notes})
    else:
        for text in notes:
            note(f"note: {text}")
        print(f"{recipe}: ok")
