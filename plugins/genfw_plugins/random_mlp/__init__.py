"""A generator that nobody trains: a random, fixed network as likelihood, and the data it makes."""

from genfw import Component, hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("random_mlp")
