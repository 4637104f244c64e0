"""NVAE (arXiv 2007.03898): a deep hierarchical variational autoencoder, the generator of VAEBM."""

from genfw.plugins.component import Component, Importer
from genfw.plugins.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("nvae")


@hookimpl
def genfw_importers() -> list[Importer]:
    """See :func:`genfw.plugins.hookspecs.genfw_importers`."""
    return [
        Importer(
            "nvae",
            "genfw_plugins.nvae.published:read",
            "prior, decoder and encoder of an NVAE (checkpoint.pt)",
            "https://github.com/NVlabs/NVAE",
        )
    ]
