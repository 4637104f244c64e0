"""Observers of a run beyond the ones that are always there (metrics.jsonl, the progress display)."""

from genfw import Component, hookimpl
from genfw_plugins import builtin_components


@hookimpl
def genfw_components() -> list[Component]:
    """See :func:`genfw.plugins.hookspecs.genfw_components`."""
    return builtin_components("trackers")
