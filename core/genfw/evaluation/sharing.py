"""One evaluation by several processes, which share its work by torch's collective operations.

The first process alone runs the metrics and writes files. What can be shared (batches of samples, tasks of a metric) is
done in rounds: a task is scattered to each process, and what they find is gathered in order. It depends only on the
task, so the numbers do not depend on the count of processes.
"""

from __future__ import annotations

import datetime as dt
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from genfw.errors import GenfwError, LostProcessError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.metric import Metric
from genfw.evaluation.results import describe_failure
from genfw.models.freezing import frozen
from genfw.models.sampling import Samples, stateful_parts
from genfw.randomness import isolated_rng
from genfw.runs.state_tree import join_tree, split_tree

T = TypeVar("T")

#: Processes wait while the first one reads data or draws figures; a lost connection is noticed at once anyway.
_PATIENCE = dt.timedelta(days=365)


class SharedEvaluation(Evaluation):
    """An evaluation whose model, data and seed several processes have."""

    @contextmanager
    def shared(self, metrics: Sequence[Metric]) -> Iterator[bool]:
        """Give all processes the first one's weights; inside the block the first one measures, and the others are done.

        Arguments:
            metrics: The recipe's metrics, in order.

        Yields:
            Whether this process is the first.

        Raises:
            LostProcessError: Another process has ended.
        """
        self._metrics = metrics
        # Between CPU memories, whatever the devices.
        self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        self._thread = ThreadPoolExecutor(1)
        first = distributed.get_rank() == 0
        try:
            if first:
                self._take_weights(first)
                yield True
                with suppress(LostProcessError):  # the measuring is over: nothing is lost
                    self._round([None] * distributed.get_world_size())
            else:
                with suppress(LostProcessError):  # the first process reports why it has ended
                    self._take_weights(first)
                    with frozen(self.model):
                        while self._round():
                            pass
                yield False
        finally:
            self._thread.shutdown(wait=False)

    def _take_weights(self, first: bool) -> None:
        parts = stateful_parts(self.settings)
        given: list[Any] = [None]
        if first:
            state = {"model": self.model.state_dict(), "parts": [part.state_dict() for part in parts]}
            # The last bits of a sum depend on the count of threads.
            given = [(split_tree(state), torch.get_num_threads())]
        self._together(distributed.broadcast_object_list, given, 0)
        if not first:
            (structure, tensors), threads = given[0]
            torch.set_num_threads(threads)
            state = join_tree(structure, tensors, self.device)
            self.model.load_state_dict(state["model"])
            for part, saved in zip(parts, state["parts"], strict=True):
                part.load_state_dict(saved)

    def draws(self, count: int, indices: Sequence[int], seed: int) -> Iterator[Samples]:
        return self._share(None, [(count, [index], seed) for index in indices])

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        bound = cast(MethodType, method)
        for index, metric in enumerate(self._metrics):
            if metric is bound.__self__:
                return list(self._share((index, bound.__name__), tasks))
        return super().spread(method, tasks)

    def _share(self, method: tuple[int, str] | None, tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results of tasks, a round after the other.

        Arguments:
            method: Index of a metric, and name of its method; ``None`` to draw samples.
            tasks: Its arguments.

        Raises:
            GenfwError: A task failed in another process; carries its reason.
        """
        world = distributed.get_world_size()
        for begin in range(0, len(tasks), world):
            some = tasks[begin : begin + world]
            outcomes = self._round([_pack((method, task)) for task in some] + [b""] * (world - len(some)))
            for result, failure in outcomes[: len(some)]:
                if failure is not None:
                    raise GenfwError(failure) if isinstance(failure, str) else failure
                yield result

    def _round(self, tasks: Sequence[bytes | None] | None = None) -> list[tuple[Any, Any]]:
        """In all processes: take a task each, and gather what was found.

        Arguments:
            tasks: In the first process a packed task for each one: empty for none, ``None`` for the end.

        Returns:
            Results and failures, all of them in the first process; nothing at the end.
        """
        own: list[Any] = [None]
        self._together(distributed.scatter_object_list, own, tasks, 0)
        if own[0] is None:
            return []
        found: tuple[Any, Any] = None, None
        try:
            if own[0]:
                method, task = pickle.loads(own[0])
                with isolated_rng(self.device):
                    found = self._do(method, task), None
            packed = b"" if tasks else _pack(found)
        except (Exception, SystemExit, GeneratorExit) as error:
            found, packed = (None, error), _pack((None, describe_failure(error)))
        gathered = [b""] * len(tasks or ())
        self._together(distributed.gather_object, packed, gathered if tasks else None, 0)
        return [found, *map(pickle.loads, gathered[1:])]

    def _do(self, method: tuple[int, str] | None, task: tuple[Any, ...]) -> Any:
        if method is None:
            return next(super().draws(*task))
        return getattr(self._metrics[method[0]], method[1])(self, *task)

    def _together(self, operation: Callable[..., Any], *arguments: Any) -> None:
        """Call a collective operation of torch in a thread, since it hears no signal."""
        try:
            self._thread.submit(operation, *arguments, group=self._group).result()
        except RuntimeError as error:  # gloo raises it where another process closes its connection
            raise LostProcessError(f"the connection to another process of this run broke ({error})") from error


class _Packer(pickle.Pickler):
    """Pickles only the viewed part of a tensor's storage."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
            return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _pack(value: Any) -> bytes:
    _Packer(file := io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()
