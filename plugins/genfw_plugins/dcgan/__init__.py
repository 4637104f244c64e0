"""Convolutional decoder and encoder of LEBM and DAMC."""

from genfw.plugins.component import Component, Importer
from genfw.plugins.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("dcgan")


@hookimpl
def genfw_importers() -> list[Importer]:
    """See :func:`genfw.plugins.hookspecs.genfw_importers`."""
    return [
        Importer(
            "damc",
            "genfw_plugins.dcgan.published:read",
            "the generator of a DAMC checkpoint (best.pth.tar)",
            "https://github.com/yuPeiyu98/Diffusion-Amortized-MCMC",
        ),
        Importer(
            "lebm",
            "genfw_plugins.dcgan.published:read",
            "the generator of an LEBM checkpoint",
            "https://github.com/bpucla/latent-space-EBM-prior",
        ),
    ]
