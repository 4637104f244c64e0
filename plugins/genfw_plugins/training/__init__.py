"""Training algorithms and optimisers."""

from genfw import Component, hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("training")
