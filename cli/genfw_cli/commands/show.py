"""``genfw show``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from genfw_cli import complete
from genfw_cli.arguments import Json
from genfw_cli.output import heading, lines, show_json, table, unmarked
from genfw_cli.session import open_recipe, registry_of

if TYPE_CHECKING:
    from genfw.plugins.help import ComponentHelp, Setting


def command(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="COMPONENT|RECIPE",
            help="A component (mlp, energy/mlp, genfw/mlp), or a recipe's path or name.",
            autocompletion=complete.recipes_and_components,
        ),
    ],
    fill: Annotated[
        bool, typer.Option("--fill", help="Recipe: with all defaults. Component: a block to paste, with all defaults.")
    ] = False,
    origin: Annotated[
        bool, typer.Option("--origin", help="Recipe: the file and line that each value comes from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a component with its parameters, or a recipe."""
    from genfw.plugins.help import component_help, components_named
    from genfw.recipes.find import shipped_names

    registry = registry_of(ctx)
    is_file = name.endswith((".yaml", ".yml"))
    if is_file or (name in shipped_names(registry.recipe_dirs()) and not registry.search(name)):
        _show_recipe(ctx, name, fill, origin, as_json)
        return
    components = [component_help(component, registry) for component in components_named(name, registry)]
    if as_json:
        show_json(components)
    elif fill:
        lines(shown.block() for shown in components)
    else:
        for shown in components:
            _show_component(shown)


def _show_component(shown: ComponentHelp) -> None:
    component = shown.component
    heading(f"{component.kind}/{component.name}")
    print(f"{component.summary}\n")
    if shown.doc:
        print(f"{unmarked(shown.doc)}\n")
    facts = [
        ("from", f"{component.provider} {component.version} ({component.source}, plugin {component.plugin})"),
        ("class", component.target),
        ("reference", component.reference),
        ("tags", ", ".join(component.tags)),
        ("also called", ", ".join(component.aliases)),
        ("status", "" if component.status == "stable" else component.status),
        ("needs", "; ".join(f"{package} ({install})" for package, install in component.needs.items())),
    ]
    lines(f"{name}: {value}" for name, value in facts if value)
    print()
    primary = [setting for setting in shown.settings if setting.primary]
    others = [setting for setting in shown.settings if not setting.primary]
    _settings_table(primary)
    if primary and others:
        print("\nFurther parameters:\n")
    _settings_table(others)


def _settings_table(settings: Sequence[Setting]) -> None:
    if settings:
        table(
            ["parameter", "type", "default", "what it is"],
            [
                (
                    setting.name,
                    setting.type,
                    "must be given" if setting.required else setting.default,
                    unmarked(setting.description),
                )
                for setting in settings
            ],
        )


def _show_recipe(ctx: typer.Context, name: str, fill: bool, origin: bool, as_json: bool) -> None:
    from genfw.recipes.check import check
    from genfw.recipes.yaml_nodes import dump

    recipe, registry = open_recipe(ctx, name)
    if not (fill or origin):
        if as_json:
            show_json(recipe.plain())
        else:
            # The file's head says what was run to the end, and what it cost.
            head = itertools.takewhile(lambda line: line.startswith("#"), recipe.text.splitlines())
            lines(line for line in head if not line.startswith("# yaml-language-server:"))
            print(dump(recipe.plain()), end="")
        return
    resolved = check(recipe, registry)
    if origin:
        leaves = [(path, value, where) for path, value, where in resolved.origins()]
        if as_json:
            show_json([{"path": path, "value": value, "origin": where} for path, value, where in leaves])
        else:
            table(["value", "is", "from"], [(path, json.dumps(value), where) for path, value, where in leaves])
    elif as_json:
        show_json(resolved.plain())
    else:
        print(resolved.dump(), end="")
