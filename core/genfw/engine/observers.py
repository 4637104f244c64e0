"""Who watches a run: trackers and plugin hooks. None of them can bring it down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from genfw.plugins.hookspecs import RunInfo
from genfw.plugins.registry import Registry
from genfw.training.tracker import Tracker

__all__ = ["Observers", "hook_trackers"]


class Observers:
    """Trackers, told in order; one that raises is reported once on stderr and dropped.

    Arguments:
        trackers: Who is told.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = list(trackers)

    def start(self, run: RunInfo) -> None:
        """See :meth:`~genfw.training.tracker.Tracker.start`."""
        self._tell(lambda tracker: tracker.start(run))

    def log(self, row: Mapping[str, Any]) -> None:
        """See :meth:`~genfw.training.tracker.Tracker.log`; each tracker gets a row of its own."""
        self._tell(lambda tracker: tracker.log(dict(row)))

    def event(self, kind: str, message: str) -> None:
        """See :meth:`~genfw.training.tracker.Tracker.event`."""
        self._tell(lambda tracker: tracker.event(kind, message))

    def rewind(self, stage: int, step: int) -> None:
        """See :meth:`~genfw.training.tracker.Tracker.rewind`."""
        self._tell(lambda tracker: tracker.rewind(stage, step))

    def end(self, status: str) -> None:
        """See :meth:`~genfw.training.tracker.Tracker.end`."""
        self._tell(lambda tracker: tracker.end(status))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:  # whatever a tracker raises, training goes on
                self.trackers.remove(tracker)
                name = tracker.name if isinstance(tracker, _HookTracker) else type(tracker).__name__
                print(
                    f"genfw: the tracker {name} failed and is dropped: {type(error).__name__}: {error}", file=sys.stderr
                )


class _HookTracker(Tracker):
    """A plugin's run hooks as a tracker; hooks are called plugin by plugin, so that one's failure is not another's."""

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
