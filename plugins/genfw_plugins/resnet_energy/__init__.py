"""Residual energies on images: VAEBM's, with weight norm and Swish, and IGEBM's, with spectral norm."""

from genfw.plugins.component import Component, Importer
from genfw.plugins.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("resnet_energy")


@hookimpl
def genfw_importers() -> list[Importer]:
    """See :func:`genfw.plugins.hookspecs.genfw_importers`."""
    return [
        Importer(
            "vaebm-energy",
            "genfw_plugins.resnet_energy.published:read",
            "the residual energy of VAEBM (EBM_*.pth)",
            "https://github.com/NVlabs/VAEBM",
        )
    ]
