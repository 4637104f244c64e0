"""NVAE (arXiv 2007.03898): a deep hierarchical variational autoencoder, the generator of VAEBM."""

from genfw.component import Component
from genfw.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.hookspecs.genfw_components`."""
    return builtin_components("nvae")
