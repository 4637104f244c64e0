"""Shared by all commands: the global options, and the plugins, which are loaded only when a command needs them."""

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


@attrs.define
class Session:
    """The global options of one call.

    Arguments:
        plugins: One-file plugins named by ``--plugin``.
        enabled: False with ``--no-plugins``: only built-in plugins.
    """

    plugins: tuple[Path, ...] = ()
    enabled: bool = True


def registry_of(ctx: typer.Context) -> Registry:
    """The registry. Broken plugins are reported on stderr, and the command continues."""
    from genfw.plugins import load_plugins

    session = _session(ctx)
    return _reported(load_plugins(local=session.plugins, enabled=session.enabled))


def open_recipe(
    ctx: typer.Context, source: str | Path, sets: Sequence[str] | None = None, unsets: Sequence[str] | None = None
) -> tuple[Recipe, Registry]:
    """A recipe as read, and the registry with its local plugins."""
    from genfw.recipes.recipe import open_recipe

    session = _session(ctx)
    recipe, registry = open_recipe(
        source, sets=sets or (), unsets=unsets or (), plugins=session.plugins, enabled=session.enabled
    )
    return recipe, _reported(registry)


def registry_of_run(ctx: typer.Context, directory: Path) -> Registry:
    """The registry of a run."""
    from genfw.runs.directory import RunDirectory

    return open_recipe(ctx, RunDirectory.open(directory).resolved)[1]


def find_directory(ctx: typer.Context, name: str, root: Path) -> Path:
    """The directory of a run, or the folder of a saved model; for a run no plugin is loaded."""
    from genfw.errors import RunError
    from genfw.runs.cards import find_trained
    from genfw.runs.directory import find_run

    try:
        return find_run(name, root)
    except RunError:
        return find_trained(name, root, registry_of(ctx).model_dirs())


def find_trained(ctx: typer.Context, name: str, root: Path) -> tuple[Path, Registry]:
    """The directory of a run or the folder of a saved model, and the registry for it."""
    from genfw.runs.directory import RunDirectory

    directory = find_directory(ctx, name, root)
    if RunDirectory(directory).weights.is_file():  # of a saved model no Python file is loaded
        return directory, registry_of(ctx)
    return directory, registry_of_run(ctx, directory)


def _session(ctx: typer.Context) -> Session:
    session = ctx.find_root().obj
    return session if isinstance(session, Session) else Session()


def _reported(registry: Registry) -> Registry:
    for broken in registry.broken:
        note(broken.line())
    return registry
