"""Find plugins and load each on its own.

A broken plugin costs one line on stderr and its own components, never the command. Two plugins may offer the same name:
the bare name is then an error, and ``distribution/name`` is always unique.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy

from genfw.errors import PluginError, one_line, shown
from genfw.plugins import hookspecs
from genfw.plugins.component import Component, Importer
from genfw.plugins.registry import (
    BrokenPlugin,
    PluginRecord,
    Registry,
    canonical,
    new_manager,
    undisturbed,
    where_raised,
)

#: Distribution whose plugins are the built-in ones.
BUILT_IN = "genfw"

#: Packages that make listing slow; ``genfw doctor`` names every plugin module that imports one.
HEAVY = ("torch", "tensorflow", "jax", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "transformers")


#: Most components, recipe folders or importers of one plugin: a generator may have no end.
_MOST = 1_000


@attrs.frozen(eq=False)
class _Source:
    """A plugin before it is loaded."""

    distribution: str
    version: str
    entry: str
    source: str
    value: str
    load: Callable[[], Any]

    @property
    def name(self) -> str:
        return f"{self.distribution}:{self.entry}"


def load_plugins(*, local: Sequence[str | Path] = (), enabled: bool = True, disable: Sequence[str] = ()) -> Registry:
    """Load every installed plugin, and the local ones given.

    Arguments:
        local: One-file plugins, such as ``./quad.py``.
        enabled: ``False`` loads the built-in plugins only.
        disable: Plugins to leave out: ``distribution``, ``distribution:entry`` or ``entry``; the environment variable
            ``GENFW_DISABLE_PLUGINS`` adds to them, separated by commas.

    Raises:
        PluginError: A local plugin's file does not exist.
    """
    unwanted = {canonical(name) for name in (*disable, *os.environ.get("GENFW_DISABLE_PLUGINS", "").split(","))} - {""}
    sources = [*_installed_sources(tuple(sys.path)), *(_local_source(Path(path)) for path in local if enabled)]
    loaded = _Loaded(new_manager())
    for source in sources:
        names = {canonical(name) for name in (source.distribution, source.name, source.entry)}
        if unwanted & names:
            loaded.disabled.append(source.name)
        elif enabled or source.source == "built-in":
            loaded.add(source)
    return Registry(
        loaded.components,
        loaded.plugins,
        loaded.broken,
        loaded.disabled,
        dict.fromkeys(loaded.recipes),
        loaded.manager,
        loaded.importers,
        dict.fromkeys(loaded.models),
    )


@attrs.define(eq=False)
class _Loaded:
    """What has been gathered so far."""

    manager: pluggy.PluginManager
    components: list[Component] = attrs.field(factory=list)
    plugins: list[PluginRecord] = attrs.field(factory=list)
    broken: list[BrokenPlugin] = attrs.field(factory=list)
    disabled: list[str] = attrs.field(factory=list)
    recipes: list[Path] = attrs.field(factory=list)
    models: list[Path] = attrs.field(factory=list)
    importers: list[Importer] = attrs.field(factory=list)

    def add(self, source: _Source) -> None:
        """Load one plugin; all of it, or nothing and a :class:`BrokenPlugin`."""
        before, began = set(sys.modules), time.perf_counter()
        try:
            with undisturbed():
                offered, folders, models, importers, file = _load(source, self.manager, self.components)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self.manager.has_plugin(source.name):
                self.manager.unregister(name=source.name)
            where = where_raised(error, f"entry point {source.entry} = {source.value}")
            record = BrokenPlugin(source.name, source.distribution, source.version, one_line(error), where)
            self.broken.append(record)
            return
        self.components += offered
        self.recipes += folders
        self.models += models
        self.importers += importers
        self.plugins.append(
            PluginRecord(
                name=source.name,
                distribution=source.distribution,
                version=source.version,
                entry=source.entry,
                source=source.source,
                file=file,
                seconds=time.perf_counter() - began,
                heavy=tuple(package for package in HEAVY if package in sys.modules and package not in before),
                components=len(offered),
            )
        )


def _load(
    source: _Source, manager: pluggy.PluginManager, present: Sequence[Component]
) -> tuple[list[Component], list[Path], list[Path], list[Importer], str]:
    plugin = source.load()
    manager.register(plugin, source.name)
    hooks = manager.get_hookcallers(plugin) or []
    strange = [hook.name for hook in hooks if not hook.has_spec()]
    if strange:
        known = [name for name in vars(hookspecs) if name.startswith("genfw_")]
        raise PluginError(f"there is no hook {', '.join(strange)}; the hooks are {', '.join(known)}")
    module = sys.modules.get(source.value.partition(":")[0]) if source.source != "local" else plugin
    file = str(getattr(module, "__file__", None) or "")
    offered: list[Component] = []
    for component in _results(manager, plugin, "genfw_components", Component):
        offered.append(
            attrs.evolve(
                component,
                target=_resolve_target(component.target, source, plugin),
                provider=source.distribution,
                plugin=source.name,
                version=source.version,
                source=source.source,
                file=file,
            )
        )
    _refuse_repeats([c for c in present if c.provider == source.distribution], offered)
    importers: list[Importer] = []
    for importer in _results(manager, plugin, "genfw_importers", Importer):
        importers.append(
            attrs.evolve(
                importer,
                target=_resolve_target(importer.target, source, plugin),
                opener=importer.opener and _resolve_target(importer.opener, source, plugin),
                provider=source.distribution,
                plugin=source.name,
                version=source.version,
            )
        )
    recipes, models = (
        [Path(folder) for folder in _results(manager, plugin, hook, object)]
        for hook in ("genfw_recipes", "genfw_models")
    )
    return offered, recipes, models, importers, file


def _results(manager: pluggy.PluginManager, plugin: Any, name: str, kind: type) -> list[Any]:
    """What a plugin's implementation of the hook ``name`` returns, all of ``kind``; empty without implementation."""
    implementations = getattr(manager.hook, name).get_hookimpls()
    found: list[Any] = []
    for item in (item for hook in implementations if hook.plugin is plugin for item in hook.function()):
        if not isinstance(item, kind):
            raise PluginError(f"{name} returns {kind.__module__}.{kind.__name__} objects, got {item!r:.100}")
        if len(found) == _MOST:
            raise PluginError(f"{name} returns more than {_MOST:,} things")
        found.append(item)
    return found


def _resolve_target(target: str, source: _Source, plugin: Any) -> str:
    """Put a one-file plugin's module name, which shadows nothing, for the file's stem that its targets begin with."""
    module, _, attribute = target.partition(":")
    if source.source == "local" and module == source.entry:
        return f"{plugin.__name__}:{attribute}"
    return target


def _refuse_repeats(present: Sequence[Component], offered: Sequence[Component]) -> None:
    """``distribution/name`` must be unique within a distribution."""
    seen = {(c.kind, name): c for c in present for name in (c.name, *c.aliases)}
    for component in offered:
        for name in dict.fromkeys((component.name, *component.aliases)):
            first = seen.setdefault((component.kind, name), component)
            if first is not component:
                raise PluginError(f"{component.kind} '{name}' is offered twice: {first.target} and {component.target}")


@functools.lru_cache(maxsize=8)
def _installed_sources(path: tuple[str, ...]) -> tuple[_Source, ...]:
    """Every entry point of the group ``genfw``, built-in ones first; ``path`` is ``sys.path``, the cache's key."""
    versions: dict[int, tuple[str, str]] = {}
    sources = []
    for entry in _entry_points():
        distribution = entry.dist
        if distribution is None:
            name, version = "unknown", "0"
        else:
            # Each read of name or version parses the whole metadata file.
            if id(distribution) not in versions:
                versions[id(distribution)] = _name_and_version(distribution)
            name, version = versions[id(distribution)]
        kind = "built-in" if canonical(name) == BUILT_IN else "installed"
        sources.append(_Source(name, version, entry.name, kind, entry.value, entry.load))
    return tuple(sorted(sources, key=lambda source: (source.source != "built-in", source.distribution, source.entry)))


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    """Those of the group ``genfw``; a distribution whose own can't be read takes no other along."""
    try:
        return importlib.metadata.entry_points(group="genfw")
    except Exception:
        found: list[importlib.metadata.EntryPoint] = []
        for distribution in importlib.metadata.distributions():
            with contextlib.suppress(Exception):
                found += distribution.entry_points.select(group="genfw")
        return {(entry.name, entry.value): entry for entry in reversed(found)}.values()


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """What METADATA says; where it is damaged or absent, the plugin is known by its entry point alone."""
    try:
        metadata: Any = distribution.metadata or {}
    except (OSError, TypeError, UnicodeDecodeError):
        metadata = {}
    return metadata.get("Name") or "unknown", metadata.get("Version") or "0"


def _local_source(path: Path) -> _Source:
    path = Path(os.path.expanduser(path)).resolve()
    if not os.path.isfile(path):
        raise PluginError(f"there is no plugin file {shown(str(path), 300)}")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PluginError(f"the plugin file {shown(str(path), 300)} can't be read: {error.strerror}") from error
    # The module's name contains a hash of the text: an edited plugin is loaded again, an unchanged one only once.
    import hashlib  # only local plugins need it, and `genfw list` should not wait for it

    digest = hashlib.sha256(str(path).encode() + b"\0" + text).hexdigest()[:8]
    name = f"genfw_local_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"

    def load() -> ModuleType:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None:
            raise PluginError(f"{path} is not a Python file; a local plugin ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            exec(compile(text, str(path), "exec"), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return _Source(path.name, f"0+{digest}", path.stem, "local", str(path), load)
