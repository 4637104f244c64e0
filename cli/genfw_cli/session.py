"""What every command shares: the global options, and the plugins, loaded only when a command asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import typer

from genfw_cli.output import note

if TYPE_CHECKING:
    from genfw.plugins.registry import Registry
    from genfw.recipes.recipe import Recipe

__all__ = ["Session", "open_recipe", "registry_of", "registry_of_run"]


@attrs.define
class Session:
    """The global options of one call.

    Arguments:
        plugins: One-file plugins named by ``--plugin``.
        enabled: False with ``--no-plugins``: built-in plugins alone.
    """

    plugins: tuple[Path, ...] = ()
    enabled: bool = True


def registry_of(ctx: typer.Context) -> Registry:
    """The components there are. Each broken plugin is told of on stderr, and the command goes on."""
    from genfw.plugins import load_plugins

    session = _session(ctx)
    return _told(load_plugins(local=session.plugins, enabled=session.enabled))


def open_recipe(
    ctx: typer.Context, source: str | Path, sets: Sequence[str] | None = None, unsets: Sequence[str] | None = None
) -> tuple[Recipe, Registry]:
    """A recipe as it was read, and the components there are for it: its own local plugins among them."""
    from genfw.recipes.recipe import open_recipe

    session = _session(ctx)
    recipe, registry = open_recipe(
        source, sets=sets or (), unsets=unsets or (), plugins=session.plugins, enabled=session.enabled
    )
    return recipe, _told(registry)


def registry_of_run(ctx: typer.Context, directory: Path) -> Registry:
    """The components there are for a run."""
    from genfw.runs.directory import RunDirectory

    return open_recipe(ctx, RunDirectory.open(directory).resolved)[1]


def _session(ctx: typer.Context) -> Session:
    session = ctx.find_root().obj
    return session if isinstance(session, Session) else Session()


def _told(registry: Registry) -> Registry:
    for broken in registry.broken:
        note(broken.line())
    return registry
