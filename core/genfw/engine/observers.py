"""The observers of a run: trackers and plugin hooks. Their failures do not stop it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from genfw.errors import one_line
from genfw.plugins.hookspecs import RunInfo
from genfw.plugins.registry import Registry
from genfw.training.tracker import Tracker


class Observers:
    """Trackers, called in order; one that raises is reported once on stderr and dropped.

    Arguments:
        trackers: The trackers.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = list(trackers)

    def start(self, run: RunInfo) -> None:
        """Start every tracker."""
        self._tell(lambda tracker: tracker.start(run))

    def log(self, row: Mapping[str, Any]) -> None:
        """Give every tracker its own copy of a row."""
        self._tell(lambda tracker: tracker.log(dict(row)))

    def event(self, kind: str, message: str) -> None:
        """Give every tracker an event."""
        self._tell(lambda tracker: tracker.event(kind, message))

    def rewind(self, stage: int, step: int) -> None:
        """Tell every tracker that the run goes on from an earlier step."""
        self._tell(lambda tracker: tracker.rewind(stage, step))

    def end(self, status: str) -> None:
        """End every tracker."""
        self._tell(lambda tracker: tracker.end(status))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except (Exception, SystemExit, GeneratorExit) as error:  # no error of a tracker stops the training
                self.trackers.remove(tracker)
                name = tracker.name if isinstance(tracker, _HookTracker) else type(tracker).__name__
                said = f"genfw: the tracker {name} failed and is dropped: {one_line(error)}"
                with contextlib.suppress(OSError, ValueError):  # stderr itself may be what failed
                    print(said, file=sys.stderr, flush=True)


class _HookTracker(Tracker):
    """A plugin's run hooks as a tracker, called plugin by plugin so that a failure drops only one of them."""

    def __init__(self, manager: pluggy.PluginManager, plugin: Any) -> None:
        self.name = f"of plugin {manager.get_name(plugin)}"
        others = [other for other in manager.get_plugins() if other is not plugin]
        self.on_start = manager.subset_hook_caller("genfw_run_start", others)
        self.on_log = manager.subset_hook_caller("genfw_run_log", others)
        self.on_end = manager.subset_hook_caller("genfw_run_end", others)

    def start(self, run: RunInfo) -> None:
        self.on_start(run=run)

    def log(self, row: Mapping[str, Any]) -> None:
        self.on_log(row=row)

    def end(self, status: str) -> None:
        self.on_end(status=status)


def hook_trackers(registry: Registry | None) -> list[Tracker]:
    """One tracker for each plugin that has a ``genfw_run_*`` hook."""
    if registry is None:
        return []
    manager = registry.manager
    trackers: list[Tracker] = []
    for plugin in manager.get_plugins():
        hooks = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
        if hooks & {"genfw_run_start", "genfw_run_log", "genfw_run_end"}:
            trackers.append(_HookTracker(manager, plugin))
    return trackers
