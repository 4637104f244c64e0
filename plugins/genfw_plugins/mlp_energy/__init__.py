"""Fully connected energies, on data or on the latent."""

from genfw.plugins.component import Component, Importer
from genfw.plugins.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("mlp_energy")


@hookimpl
def genfw_importers() -> list[Importer]:
    """See :func:`genfw.plugins.hookspecs.genfw_importers`."""
    return [
        Importer(
            "damc",
            "genfw_plugins.mlp_energy.published:read",
            "the latent energy of a DAMC checkpoint (best.pth.tar)",
            "https://github.com/yuPeiyu98/Diffusion-Amortized-MCMC",
        ),
        Importer(
            "lebm",
            "genfw_plugins.mlp_energy.published:read",
            "the latent energy of an LEBM checkpoint",
            "https://github.com/bpucla/latent-space-EBM-prior",
        ),
    ]
