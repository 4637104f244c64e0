"""StyleGAN and StyleGAN2 as decoder and prior, the encoder that inverts them, and the stage that trains them."""

from genfw.component import Component
from genfw.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.hookspecs.genfw_components`."""
    return builtin_components("stylegan")
