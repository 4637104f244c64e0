"""What the loaded plugins offer: who supplies which component, by name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import attr
import attrs
import pluggy

from genfw.errors import NoSuchComponentError, PluginError, article, did_you_mean, one_line, quoted, shown
from genfw.plugins import hookspecs
from genfw.plugins.component import KINDS, Component, Importer


@attrs.frozen
class PluginRecord:
    """A plugin that loaded.

    Arguments:
        name: ``distribution:entry``, unique.
        distribution: Installed distribution, or the file's name for a local plugin.
        version: Its version; for a local plugin ``0+`` and a hash of its text.
        entry: Name of the entry point.
        source: ``built-in``, ``installed`` or ``local``.
        file: Where its module lies.
        seconds: Time that loading took.
        heavy: Packages (torch, numpy, ...) that loading it imported and that make every command slow.
        components: Count of components it offers.
    """

    name: str
    distribution: str
    version: str
    entry: str
    source: str
    file: str
    seconds: float
    heavy: tuple[str, ...]
    components: int


@attrs.frozen
class BrokenPlugin:
    """A plugin that did not load; nothing of it is registered.

    Arguments:
        name: ``distribution:entry``.
        distribution: Installed distribution, or the file's name for a local plugin.
        version: Its version.
        error: Type and text of its exception, on one line.
        where: ``file:line`` of the plugin's own code that failed, or its entry point where none of its code ran.
    """

    name: str
    distribution: str
    version: str
    error: str
    where: str

    def line(self) -> str:
        """The line for stderr."""
        return (
            f"genfw: plugin {self.name} {self.version} is left out: {self.error} ({self.where}); "
            f"GENFW_DISABLE_PLUGINS={self.name} silences this"
        )


class Registry:
    """What the loaded plugins offer.

    Arguments:
        components: Every component, its provider filled in.
        plugins: Plugins that loaded.
        broken: Plugins that did not.
        disabled: Names of plugins that were found and left out on request.
        recipes: Folders of shipped recipes.
        manager: Holds the plugins' other hooks.
        importers: Published checkpoints that can be read.
        models: Folders of shipped models.
    """

    def __init__(
        self,
        components: Iterable[Component] = (),
        plugins: Iterable[PluginRecord] = (),
        broken: Iterable[BrokenPlugin] = (),
        disabled: Iterable[str] = (),
        recipes: Iterable[Path] = (),
        manager: pluggy.PluginManager | None = None,
        importers: Iterable[Importer] = (),
        models: Iterable[Path] = (),
    ) -> None:
        self.components: tuple[Component, ...] = tuple(components)
        self.plugins: tuple[PluginRecord, ...] = tuple(plugins)
        self.broken: tuple[BrokenPlugin, ...] = tuple(broken)
        self.disabled: tuple[str, ...] = tuple(disabled)
        self.importers: tuple[Importer, ...] = tuple(importers)
        self.manager = manager or new_manager()
        self._recipes: tuple[Path, ...] = tuple(recipes)
        self._models: tuple[Path, ...] = tuple(models)
        self._classes: dict[str, type] = {}

    def find(self, kind: str, name: str) -> Component:
        """The one component that a recipe means.

        Arguments:
            kind: One of :data:`~genfw.plugins.component.KINDS`.
            name: A name or alias, or ``distribution/name``.

        Raises:
            NoSuchComponentError: There is none, or the bare name is offered by several distributions.
        """
        if kind not in KINDS:
            raise PluginError(f"there is no kind of component '{kind}'; the kinds are {quoted(KINDS)}")
        found = [component for component in self.search(name) if component.kind == kind]
        if len(found) == 1:
            return found[0]
        if found:
            offers = quoted(f"{_full(component)} (version {component.version})" for component in found)
            several = f"{kind} '{name}' is offered by {len(found)} plugins: {offers}; write one of them in full"
            raise NoSuchComponentError("GF215", several)
        other = dict.fromkeys(article(component.kind) for component in self.search(name))
        if other:
            raise NoSuchComponentError("GF202", f"'{shown(name)}' is {' and '.join(other)}, not {article(kind)}")
        raise NoSuchComponentError("GF201", self._unknown(kind, name))

    def search(self, name: str) -> tuple[Component, ...]:
        """Every component of any kind that answers to ``name`` (a name, an alias, or ``distribution/name``)."""
        provider, _, bare = name.rpartition("/")
        return tuple(
            component
            for component in self.components
            if bare in (component.name, *component.aliases)
            and (not provider or canonical(provider) == canonical(component.provider))
        )

    def find_importers(self, name: str) -> tuple[Importer, ...]:
        """The importers of one distribution that have this name, one for each part of the checkpoint.

        Arguments:
            name: Their name, or ``distribution/name``.

        Raises:
            PluginError: There is none, or several distributions have one.
        """
        provider, _, bare = name.rpartition("/")
        named = [importer for importer in self.importers if importer.name == bare]
        found = tuple(i for i in named if not provider or canonical(provider) == canonical(i.provider))
        providers = sorted({f"{_full(importer)} (version {importer.version})" for importer in found})
        if len(providers) > 1:
            raise PluginError(
                f"importer '{name}' is offered by {len(providers)} distributions: {', '.join(providers)}; write one of "
                "them in full"
            )
        if found:
            return found
        names = sorted({importer.name for importer in self.importers})
        raise PluginError(f"there is no importer '{shown(name)}'{did_you_mean(name, names)}")

    def _unknown(self, kind: str, name: str) -> str:
        of_kind = [component for component in self.components if component.kind == kind]
        names = [option for component in of_kind for option in (component.name, *component.aliases)]
        if "/" in name:
            names = [_full(component) for component in of_kind]
        text = f"there is no {kind} '{shown(name)}'{did_you_mean(name, names) or f'; no plugin offers any {kind}'}"
        if self.broken:
            text += f" (plugins that did not load: {quoted(broken.name for broken in self.broken)})"
        if self.disabled:
            text += f" (plugins that are disabled: {quoted(self.disabled)})"
        return text

    def load_class(self, component: Component, *, check_needs: bool = True) -> type:
        """Import the class of a component.

        Arguments:
            component: One of :attr:`components`.
            check_needs: Refuse a component whose further packages are absent; ``False`` imports its class if it can.

        Raises:
            PluginError: It can't be imported, is not of its kind, or needs a package that is absent.
        """
        key = component.target
        if check_needs:
            self._check_needs(component)
        if key not in self._classes:
            self._classes[key] = self._import(component)
        return self._classes[key]

    def _check_needs(self, component: Component) -> None:
        missing = [package for package in component.needs if not _installed(package)]
        if missing:
            hints = "; ".join(component.needs[package] for package in missing)
            raise PluginError(
                f"{component.kind} '{component.name}' needs {', '.join(missing)}, which is not installed: {hints}"
            )

    def _import(self, component: Component) -> type:
        provider = component.provider or "this program"
        label = f"{component.kind} '{component.name}' of {provider} {component.version}".rstrip()
        module_name, _, attribute = component.target.partition(":")
        try:
            with undisturbed():
                cls = getattr(importlib.import_module(module_name), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._check_needs(component)
            where = where_raised(error, component.target)
            raise PluginError(f"{label} can't be imported: {one_line(error)} ({where})") from error
        interface_module, _, interface_name = KINDS[component.kind].partition(":")
        interface = getattr(importlib.import_module(interface_module), interface_name)
        if not (isinstance(cls, type) and issubclass(cls, interface)):
            raise PluginError(f"{label}: {component.target} is not a subclass of {interface_module}.{interface_name}")
        if inspect.isabstract(cls):
            left = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            raise PluginError(f"{label}: {component.target} does not define {left}")
        return cls

    def recipe_dirs(self) -> tuple[Path, ...]:
        """Folders in which recipes are found by name, built-in ones first."""
        return self._recipes

    def model_dirs(self) -> tuple[Path, ...]:
        """Folders in which saved models are found by name, built-in ones first."""
        return self._models


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let a plugin's module run: it prints on stderr, as programs read stdout, and folder and hook stay."""
    hook = sys.excepthook
    try:
        folder = os.getcwd()
    except OSError:  # it is gone
        folder = ""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.excepthook = hook
        with contextlib.suppress(OSError):
            if folder and os.getcwd() != folder:
                os.chdir(folder)


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows genfw's hooks and no plugin."""
    manager = pluggy.PluginManager("genfw")
    manager.add_hookspecs(hookspecs)
    return manager


def _installed(package: str) -> bool:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    # A mere folder of that name on the path is a namespace package, which has no origin.
    return spec is not None and spec.origin is not None


def where_raised(error: BaseException, fallback: str) -> str:
    """``file:line`` of the innermost frame that is neither genfw's own nor the import machinery's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    others = tuple(str(Path(module.__file__ or "").parent) for module in (hookspecs, importlib, pluggy, attr))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        # The backport, once imported, replaces the standard library's finder of entry points.
        if not frame.filename.startswith(("<", *others)) and "importlib_metadata" not in Path(frame.filename).parts:
            return f"{frame.filename}:{frame.lineno}"
    return fallback


def canonical(name: str) -> str:
    """A distribution's name for comparison: lower case, ``-`` for ``_`` and ``.``."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def _full(offer: Component | Importer) -> str:
    return f"{offer.provider}/{offer.name}"
