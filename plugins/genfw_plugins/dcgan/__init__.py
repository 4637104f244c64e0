"""Convolutional decoder and encoder of LEBM and DAMC."""

from genfw.component import Component
from genfw.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.hookspecs.genfw_components`."""
    return builtin_components("dcgan")
