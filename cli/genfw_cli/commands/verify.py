"""``genfw verify``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from genfw.errors import PluginError
from genfw.plugins.component import Component
from genfw_cli import complete
from genfw_cli.arguments import Json
from genfw_cli.output import note, show_json, table
from genfw_cli.session import registry_of


def command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMPONENT|PLUGIN]...",
            help="Components (energy/quad), or distributions (genfw-quad) for all of theirs; by default all installed "
            "components that are not built in.",
            autocompletion=complete.components,
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Argument for the constructors; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test installed components against their interfaces.

    Runs the tests of genfw.testing that need no more than the component's constructor.
    """
    from genfw.plugins.help import components_named
    from genfw.testing.verify import verify

    registry = registry_of(ctx)
    arguments = _arguments(sets or [])
    if names:
        chosen: list[Component] = []
        for name in names:
            supplied = [item for item in registry.components if name in (item.provider, item.plugin)]
            broken = [item for item in registry.broken if name in (item.distribution, item.name)]
            if broken and not supplied:
                raise PluginError(broken[0].line())
            chosen += supplied or components_named(name, registry)
    else:
        chosen = [component for component in registry.components if component.source != "built-in"]
    checks = [check for component in chosen for check in verify(component, registry, arguments)]
    failed = [check for check in checks if check.outcome == "failed"]
    if as_json:
        show_json({"ok": not failed, "checks": checks})
    else:
        table(
            ["outcome", "component", "law", "why"],
            [(check.outcome, check.component, check.law, check.message) for check in checks],
            empty="there are no components but the built-in ones; name those to verify",
        )
    if failed:
        note(f"error: {len(failed)} of {len(checks)} checks failed")
        raise typer.Exit(5)


def _arguments(sets: list[str]) -> dict[str, Any]:
    from genfw.recipes.faults import FaultList
    from genfw.recipes.yaml_nodes import read_yaml

    faults = FaultList()
    arguments = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--set")
        node = read_yaml(value, "--set", faults)
        faults.raise_any()
        arguments[name] = None if node is None else node.plain()
    return arguments
