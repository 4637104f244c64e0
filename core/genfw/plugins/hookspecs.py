"""The plugin contract: every hook that a plugin may implement. Each is optional.

A plugin is a module that imports nothing heavy, named by one entry point in the group ``genfw``::

    from genfw.plugins.hookspecs import hookimpl
    from genfw.plugins.component import Component

    @hookimpl
    def genfw_components():
        return [Component("energy", "quadratic-well", "genfw_quad.energy:QuadraticWell", "E(v) = k |v - c|^2 / 2")]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pluggy

from genfw.plugins.component import Component, Importer


@attrs.frozen
class RunInfo:
    """What a tracker is given when a run starts or resumes.

    Arguments:
        name: The recipe's name.
        directory: The run directory.
        recipe: The resolved recipe, as plain dicts and lists.
        stages: ``(name, steps)`` of each stage.
        resumed_at: ``(stage, step)`` from which a resumed run continues, or ``None``.
    """

    name: str
    directory: Path
    recipe: Mapping[str, Any]
    stages: tuple[tuple[str, int], ...]
    resumed_at: tuple[int, int] | None = None


hookspec = pluggy.HookspecMarker("genfw")
hookimpl = pluggy.HookimplMarker("genfw")


@hookspec
def genfw_components() -> Sequence[Component]:  # type: ignore[empty-body]
    """What the plugin offers. Called once, at loading; targets are strings, so nothing heavy is imported."""


@hookspec
def genfw_recipes() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders of recipes that ``genfw run NAME`` and ``extends`` find by name. Called once, at loading."""


@hookspec
def genfw_models() -> Sequence[Path]:  # type: ignore[empty-body]
    """Folders of saved models, each a folder of its own, that ``genfw sample NAME`` finds. Called once, at loading."""


@hookspec
def genfw_importers() -> Sequence[Importer]:  # type: ignore[empty-body]
    """Published checkpoints that ``genfw import`` reads with the plugin's help. Called once, at loading."""


@hookspec
def genfw_run_start(run: RunInfo) -> None:
    """A run starts or resumes; first process only."""


@hookspec
def genfw_run_log(row: Mapping[str, Any]) -> None:
    """One row of ``metrics.jsonl``."""


@hookspec
def genfw_run_end(status: str) -> None:
    """The run is over: ``finished``, ``interrupted``, ``failed``."""
