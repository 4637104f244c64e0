"""Amortizer by denoising diffusion, DAMC's."""

from genfw.plugins.component import Component, Importer
from genfw.plugins.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("ddpm")


@hookimpl
def genfw_importers() -> list[Importer]:
    """See :func:`genfw.plugins.hookspecs.genfw_importers`."""
    return [
        Importer(
            "damc",
            "genfw_plugins.ddpm.published:read",
            "the amortizer of a DAMC checkpoint (best.pth.tar)",
            "https://github.com/yuPeiyu98/Diffusion-Amortized-MCMC",
        ),
    ]
