"""MLflow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from genfw import RunInfo, Tracker
from genfw_plugins.trackers._steps import Steps

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Name of the tag by which a resumed run finds its own.
_TAG = "genfw.run"
#: Name of the tag that says which points were given up, and how many rewinds it holds: a tag has 5,000 characters.
_REWINDS, _KEPT = "genfw.rewinds", 50
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@attrs.define(kw_only=True, eq=False, slots=False)
class MLflow(Tracker):
    """Scalars, settings and pictures for MLflow: to a server, or to files below the run directory.

    A resumed run goes on in the same MLflow run.

    MLflow has no way to take points back. After a rollback, and where a run is resumed, the points of the path that was
    given up stay beside those of the new one. Tag ``genfw.rewinds`` lists every rewind as ``{"step": s, "time": t}``:
    of the points with a timestamp up to ``t``, in milliseconds, those after step ``s`` do not belong to the run.

    Arguments:
        uri: Address of a tracking server; files in ``mlruns`` of the run directory where absent, with no network.
        experiment: Experiment's name.
        images: Add the pictures of ``samples/`` and ``figures/`` when the run ends.
    """

    uri: str | None = None
    experiment: str = "genfw"
    images: bool = True
    _client: MlflowClient | None = attrs.field(default=None, init=False)
    _id: str = attrs.field(default="", init=False)
    _directory: Path = attrs.field(factory=Path, init=False)
    _steps: Steps | None = attrs.field(default=None, init=False)
    _rewinds: list[Any] = attrs.field(factory=list, init=False)

    def start(self, run: RunInfo) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._directory, self._steps = run.directory, Steps(run)
        with _files_allowed(self.uri):
            client = MlflowClient(tracking_uri=self.uri or (run.directory / "mlruns").absolute().as_uri())
            found = client.get_experiment_by_name(self.experiment)
            experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
            mark = str(run.directory.absolute())
            earlier = [
                one for one in client.search_runs([experiment]) if one.data.tags.get(_TAG) == mark and run.resumed_at
            ]
            if earlier:
                self._id = earlier[0].info.run_id
                client.update_run(self._id, status="RUNNING")
                self._rewinds = _listed(earlier[0].data.tags.get(_REWINDS))
            else:
                self._id = client.create_run(experiment, run_name=run.name, tags={_TAG: mark}).info.run_id
                params = [Param(key, value[:500]) for key, value in _flat(run.recipe)]
                for first in range(0, len(params), 100):  # a server takes no more at once
                    client.log_batch(self._id, params=params[first : first + 100])
        self._client = client

    def log(self, row: Mapping[str, Any]) -> None:
        if self._client is None or self._steps is None:
            return
        from mlflow.entities import Metric

        scalars, now = self._steps.read(row), int(1000 * time.time())
        self._client.log_batch(
            self._id, metrics=[Metric(key, value, now, self._steps.last) for key, value in scalars.items()]
        )

    def event(self, kind: str, message: str) -> None:
        """See :meth:`Tracker.event`; warnings, rollbacks and stops become tags."""
        if self._client is not None and self._steps is not None and kind in ("warning", "rollback", "stop"):
            self._client.set_tag(self._id, f"genfw.{kind}", f"step {self._steps.last}: {message}"[:5000])

    def rewind(self, stage: int, step: int) -> None:
        """See :meth:`Tracker.rewind`; the rewind is added to a tag."""
        if self._client is not None and self._steps is not None:
            rewind = {"step": self._steps.rewind(stage, step), "time": int(1000 * time.time())}
            self._rewinds = [*self._rewinds, rewind][-_KEPT:]
            self._client.set_tag(self._id, _REWINDS, json.dumps(self._rewinds))

    def end(self, status: str) -> None:
        if self._client is None:
            return
        if self.images:
            for folder in ("samples", "figures"):
                for path in sorted((self._directory / folder).glob("*.png")):
                    self._client.log_artifact(self._id, str(path), folder)
        self._client.set_terminated(self._id, _STATUS.get(status, "FAILED"))
        self._client = None


@contextmanager
def _files_allowed(uri: str | None) -> Iterator[None]:
    """Newer versions of MLflow ask to be told that files, and no database, are meant."""
    from mlflow.exceptions import MlflowException

    name = "MLFLOW_ALLOW_FILE_STORE"
    before = os.environ.get(name)
    if uri is None:
        os.environ[name] = "true"
    try:
        yield
    except MlflowException as error:
        raise RuntimeError(f"MLflow can't be reached at {uri or 'its files'}: {error}") from error
    finally:
        if uri is None:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def _listed(tag: str | None) -> list[Any]:
    try:
        found = json.loads(tag or "[]")
    except ValueError:  # somebody has edited it
        return []
    return found if isinstance(found, list) else []


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Settings of a recipe by their path, as ``train.0.steps``; MLflow takes ``/`` and ``.`` in names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}.{number}")
    else:
        yield path, str(value)
