"""Who supplies what: the plugin contract, discovery, and a constructor as the schema of its component.

Read ``component``, ``hookspecs``, ``loading``, ``registry``, ``signature`` in this order; ``help`` and ``scaffold``
serve ``genfw show`` and ``genfw new``. Nothing here imports torch, so that every command starts at once.
"""

from genfw.plugins.component import Component, Importer, Settings
from genfw.plugins.hookspecs import hookimpl
from genfw.plugins.loading import load_plugins
from genfw.plugins.registry import BrokenPlugin, PluginRecord, Registry

__all__ = [
    "BrokenPlugin",
    "Component",
    "Importer",
    "PluginRecord",
    "Registry",
    "Settings",
    "hookimpl",
    "load_plugins",
]
