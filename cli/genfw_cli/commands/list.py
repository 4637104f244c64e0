"""``genfw list``."""

from __future__ import annotations

from typing import Annotated

import typer

from genfw.plugins.component import KINDS, Component
from genfw_cli import complete
from genfw_cli.arguments import Json
from genfw_cli.output import show_json, table
from genfw_cli.session import registry_of


def command(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="Only this kind.", autocompletion=complete.kinds)
    ] = None,
    search: Annotated[
        str,
        typer.Option(
            "--search", "-s", metavar="TEXT", help="Only where name, summary, tags or reference have this text."
        ),
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="Only with this tag; repeatable.")
    ] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the shipped recipes instead.")] = False,
    as_json: Json = False,
) -> None:
    """List every component, and who supplies it."""
    if recipes:
        _list_recipes(ctx, search.lower(), as_json)
        return
    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"there is no kind '{kind}'; the kinds are {', '.join(KINDS)}", param_hint="KIND")
    found = [
        component
        for component in registry_of(ctx).components
        if kind in (None, component.kind) and set(tag or ()) <= set(component.tags) and _has(component, search.lower())
    ]
    found.sort(key=lambda component: (list(KINDS).index(component.kind), component.name))
    if as_json:
        show_json(found)
        return
    table(
        ["kind", "name", "what it is", "from"],
        [
            (
                component.kind,
                component.name,
                component.summary if component.status == "stable" else f"{component.summary} ({component.status})",
                f"{component.provider} {component.version}".strip(),
            )
            for component in found
        ],
        empty="no component fits; 'genfw list' shows them all",
        grouped=True,
    )


def _list_recipes(ctx: typer.Context, text: str, as_json: bool) -> None:
    from genfw.recipes.find import shipped_recipes

    found = [
        recipe
        for recipe in shipped_recipes(registry_of(ctx).recipe_dirs())
        if text in f"{recipe.name} {recipe.description}".lower()
    ]
    if as_json:
        show_json(found)
    else:
        table(
            ["recipe", "data", "run to its end", "what it is"],
            [
                (
                    recipe.name,
                    recipe.data,
                    "-" if recipe.hours is None else f"{_span(recipe.hours)}, {recipe.hardware}",
                    recipe.description,
                )
                for recipe in found
            ],
            empty="no recipe fits",
        )


def _span(hours: float) -> str:
    return f"{hours:.2g} h" if hours >= 1 else f"{max(round(hours * 60), 1)} min"


def _has(component: Component, text: str) -> bool:
    return (
        text
        in " ".join(
            (component.name, component.summary, component.reference, *component.tags, *component.aliases)
        ).lower()
    )
