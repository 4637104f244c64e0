"""StyleGAN and StyleGAN2 as decoder and prior, the encoder that inverts them, and the stage that trains them."""

from genfw.plugins.component import Component, Importer
from genfw.plugins.hookspecs import hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("stylegan")


@hookimpl
def genfw_importers() -> list[Importer]:
    """See :func:`genfw.plugins.hookspecs.genfw_importers`."""
    return [
        Importer(
            "stylegan",
            "genfw_plugins.stylegan.published.read:read",
            "StyleGAN or StyleGAN2 (idinvert .pth, NVIDIA .pkl, rosinality .pt), or idinvert's encoder",
            "https://github.com/NVlabs/stylegan2-ada-pytorch",
            opener="genfw_plugins.stylegan.published.pickles:open_network",
        )
    ]
