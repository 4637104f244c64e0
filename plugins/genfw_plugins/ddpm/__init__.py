"""Amortizer by denoising diffusion, DAMC's."""

from genfw.component import Component
from genfw.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.hookspecs.genfw_components`."""
    return builtin_components("ddpm")
