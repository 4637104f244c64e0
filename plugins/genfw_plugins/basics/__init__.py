"""Plain parts to start from (standard-normal prior, fully connected networks); the shipped recipes and models."""

from pathlib import Path

from genfw import Component, hookimpl
from genfw_plugins import builtin_components, models_dir, recipes_dir


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("basics")


@hookimpl
def genfw_recipes() -> list[Path]:
    """See :func:`genfw.plugins.hookspecs.genfw_recipes`."""
    return [recipes_dir()]


@hookimpl
def genfw_models() -> list[Path]:
    """See :func:`genfw.plugins.hookspecs.genfw_models`."""
    return [models_dir()]
