"""Shell completion. Nothing here imports torch, and errors give no completions instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from genfw.plugins.component import KINDS


def _quiet(offers: Callable[[typer.Context], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return sorted({offer for offer in offers(ctx) if offer.startswith(incomplete)})
        except Exception:
            return []

    return complete


def _component_names(ctx: typer.Context) -> Iterable[str]:
    from genfw.plugins import load_plugins

    return (f"{component.kind}/{component.name}" for component in load_plugins().components)


def _importer_names(ctx: typer.Context) -> Iterable[str]:
    from genfw.plugins import load_plugins

    return (importer.name for importer in load_plugins().importers)


def _recipe_names(ctx: typer.Context) -> Iterable[str]:
    from genfw.plugins import load_plugins
    from genfw.recipes.find import shipped_names

    yield from shipped_names(load_plugins().recipe_dirs())
    yield from (path.as_posix() for path in Path().glob("*.yaml"))


def _run_names(ctx: typer.Context) -> Iterable[str]:
    from genfw.runs.directory import list_runs

    yield "latest"
    for run in list_runs(Path("runs")):
        yield run.name
        yield run.path.as_posix()


def _model_names(ctx: typer.Context) -> Iterable[str]:
    from genfw.plugins import load_plugins
    from genfw.runs.cards import shipped_models

    return (model.name for model in shipped_models(load_plugins().model_dirs()))


kinds = _quiet(lambda ctx: KINDS)
components = _quiet(_component_names)
importers = _quiet(_importer_names)
recipes = _quiet(_recipe_names)
recipes_and_components = _quiet(lambda ctx: [*_component_names(ctx), *_recipe_names(ctx)])
runs = _quiet(_run_names)
models = _quiet(_model_names)
trained = _quiet(lambda ctx: [*_run_names(ctx), *_model_names(ctx)])
