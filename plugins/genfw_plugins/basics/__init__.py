"""Plain parts to start from (standard-normal prior, fully connected networks), and the shipped recipes."""

from pathlib import Path

from genfw import Component, hookimpl
from genfw_plugins import builtin_components, recipes_dir


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("basics")


@hookimpl
def genfw_recipes() -> list[Path]:
    """See :func:`genfw.plugins.hookspecs.genfw_recipes`."""
    return [recipes_dir()]
