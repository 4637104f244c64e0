"""Data: toy densities, scikit-learn's digits, idx files, folders of images, torchvision's and Hugging Face's sets."""

from genfw import Component, hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("datasets")
