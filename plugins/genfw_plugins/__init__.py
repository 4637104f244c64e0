"""The built-in plugins, each a folder shaped like a third party's; their list is ``registry.yaml``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from genfw.plugins.component import Component

__all__ = ["builtin_components", "models_dir", "recipes_dir", "registry_file"]


def _root() -> Path:
    """The checkout's top folder where this is a checkout (its files are the newest), else this package's own folder."""
    package = Path(__file__).resolve().parent
    top = package.parent.parent
    return top if package.parent.name == "plugins" and (top / "pyproject.toml").is_file() else package


def registry_file() -> Path:
    """Where the list of built-in components lies."""
    return _root() / "registry.yaml"


def recipes_dir() -> Path:
    """Where the shipped recipes lie."""
    return _root() / "recipes"


def models_dir() -> Path:
    """Where the shipped models lie."""
    return _root() / "models"


@functools.lru_cache(maxsize=2)
def _sections(path: Path, _changed: int) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(path.read_bytes(), loader) or {})


def builtin_components(plugin: str) -> list[Component]:
    """The components that ``registry.yaml`` lists under ``plugin``.

    Raises:
        ValueError: A line of the section is malformed, or there is no such section.
    """
    path = registry_file()
    sections = _sections(path, path.stat().st_mtime_ns)
    if plugin not in sections:
        raise ValueError(f"{path} has no section '{plugin}'")
    components = []
    for line in sections[plugin] or []:
        try:
            components.append(Component(**line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, section {plugin}, {line!r}: {error}") from error
    return components
