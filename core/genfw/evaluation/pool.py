"""The workers of an evaluation: the first process measures, the others work for it.

Only the first process runs the metrics and writes results. The workers have the same weights and carry out orders: draw
a batch of samples, or call a method of a metric. An order's result depends only on the order, so the numbers do not
depend on the count of processes.
"""

from __future__ import annotations

import datetime as dt
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any, TypeVar, cast

import attrs
import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed

from genfw.errors import GenfwError, LostProcessError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.metric import Metric
from genfw.evaluation.results import describe_failure
from genfw.models.freezing import frozen
from genfw.models.sampling import Samples, draw_batch, stateful_parts
from genfw.randomness import isolated_rng
from genfw.runs.state_tree import join_tree, split_tree

T = TypeVar("T")

#: Workers wait while the first process reads data or draws figures; a lost connection is noticed at once anyway.
_PATIENCE = dt.timedelta(days=365)


@attrs.frozen
class Draw:
    """Order to draw a batch of samples; see :func:`~genfw.models.sampling.draw_batch`."""

    count: int
    index: int
    seed: int

    def execute(self, evaluation: Evaluation, metrics: Sequence[Metric]) -> Samples:
        """Draw the batch."""
        return draw_batch(
            evaluation.model, evaluation.settings, self.count, self.index, seed=self.seed, device=evaluation.device
        )


@attrs.frozen
class Call:
    """Order to call a metric's method: the metric's index in the recipe, the method's name, the arguments."""

    metric: int
    method: str
    task: tuple[Any, ...]

    def execute(self, evaluation: Evaluation, metrics: Sequence[Metric]) -> Any:
        """Call the method."""
        return getattr(metrics[self.metric], self.method)(evaluation, *self.task)


class WorkerPool:
    """The workers of an evaluation, in the first process.

    Arguments:
        evaluation: The first process's evaluation; it takes its share of the work.
        metrics: The recipe's metrics, in order.
        channel: The group of all processes.
    """

    def __init__(self, evaluation: Evaluation, metrics: Sequence[Metric], channel: distributed.ProcessGroup) -> None:
        self._evaluation, self._metrics, self._channel = evaluation, metrics, channel
        # One thread per worker waits for its answers, so that the main thread can compute and receive signals.
        self._threads = [ThreadPoolExecutor(1) for _ in range(distributed.get_world_size(channel) - 1)]

    def draw(self, count: int, indices: Sequence[int], seed: int) -> Iterator[Samples]:
        """Yield batches of samples in order, drawn by all processes in turn."""
        return self._distribute([Draw(count, index, seed) for index in indices])

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """Call a metric's method once per task over all processes; its results come in the order of the tasks."""
        bound_method = cast(MethodType, method)
        owner = [index for index, metric in enumerate(self._metrics) if metric is bound_method.__self__]
        if not owner:
            return [method(self._evaluation, *task) for task in tasks]
        return list(self._distribute([Call(owner[0], bound_method.__name__, task) for task in tasks]))

    def _distribute(self, orders: Sequence[Draw | Call]) -> Iterator[Any]:
        """Distribute orders in turn over all processes, and yield their results in order.

        A process carries out one order at a time, and gets the next one after its result is taken.

        Raises:
            GenfwError: An order failed in a worker; carries the worker's reason.
            LostProcessError: A worker ended before it answered.
        """
        world = 1 + len(self._threads)
        pending = {index: self._submit(index, order) for index, order in enumerate(orders[:world]) if index}
        try:
            for index, order in enumerate(orders):
                if index % world == 0:
                    yield order.execute(self._evaluation, self._metrics)
                    continue
                result, failure = pending.pop(index).result()
                if index + world < len(orders):
                    pending[index + world] = self._submit(index + world, orders[index + world])
                if failure is not None:
                    raise GenfwError(failure)
                yield result
        finally:
            for answer in pending.values():
                answer.cancel()  # a worker still finishes an order that it has begun

    def _submit(self, index: int, order: Draw | Call) -> Future[tuple[Any, str | None]]:
        rank = index % (1 + len(self._threads))
        return self._threads[rank - 1].submit(self._exchange, rank, order)

    def _exchange(self, rank: int, order: Draw | Call) -> tuple[Any, str | None]:
        _send(_pack(order), rank, self._channel)
        answer: tuple[Any, str | None] = pickle.loads(_receive(rank, self._channel))
        return answer

    def dismiss(self, *, wait: bool) -> None:
        """Tell all workers to stop.

        Arguments:
            wait: Wait until they have received it.
        """
        sent = [
            thread.submit(_send, _pack(None), rank, self._channel) for rank, thread in enumerate(self._threads, start=1)
        ]
        for thread, message in zip(self._threads, sent, strict=True):
            thread.shutdown(wait=False)
            with suppress(LostProcessError):  # the measuring is over: nothing is lost
                if wait:
                    message.result()


@contextmanager
def pooled(fabric: Fabric, evaluation: Evaluation, metrics: Sequence[Metric]) -> Iterator[None]:
    """In the first process: send the weights to all workers, and give the evaluation its workers.

    Arguments:
        fabric: The processes.
        evaluation: The evaluation.
        metrics: The recipe's metrics, in order.
    """
    if fabric.world_size == 1:
        yield
        return
    channel = _open_channel()
    parts = [part.state_dict() for part in stateful_parts(evaluation.settings)]
    state = split_tree({"model": evaluation.model.state_dict(), "parts": parts})
    # The last bits of a sum depend on the count of threads.
    _broadcast(_pack((state, torch.get_num_threads())), channel)
    workers = WorkerPool(evaluation, metrics, channel)
    done = False
    try:
        evaluation.workers = workers
        yield
        done = True
    finally:
        evaluation.workers = None
        workers.dismiss(wait=done)


def serve(evaluation: Evaluation, metrics: Sequence[Metric]) -> None:
    """In a worker: receive the first process's weights, and carry out its orders until it stops.

    Arguments:
        evaluation: This process's evaluation, of the same recipe and with the same seed.
        metrics: The recipe's metrics, in order.
    """
    channel = _open_channel()
    with suppress(LostProcessError):  # the first process has ended, and has reported why
        (structure, tensors), threads = pickle.loads(_broadcast(None, channel))
        torch.set_num_threads(threads)
        state = join_tree(structure, tensors, evaluation.device)
        evaluation.model.load_state_dict(state["model"])
        for part, saved in zip(stateful_parts(evaluation.settings), state["parts"], strict=True):
            part.load_state_dict(saved)
        with frozen(evaluation.model):
            while (order := pickle.loads(_receive(0, channel))) is not None:
                _send(_answer(order, evaluation, metrics), 0, channel)


def _answer(order: Draw | Call, evaluation: Evaluation, metrics: Sequence[Metric]) -> bytes:
    try:
        with isolated_rng(evaluation.device):
            return _pack((order.execute(evaluation, metrics), None))
    except (Exception, SystemExit, GeneratorExit) as error:
        return _pack((None, describe_failure(error)))


# -- messages ---------------------------------------------------------------------------------------------------------


class _Packer(pickle.Pickler):
    """Pickles only the viewed part of a tensor's storage."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
            return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _pack(value: Any) -> bytes:
    _Packer(file := io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _open_channel() -> distributed.ProcessGroup:
    """A group for messages between CPU memories, whatever the devices; a collective call."""
    return cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=_PATIENCE))


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo raises it where the other end closes the connection
        raise LostProcessError(f"the connection to another process of this run broke ({error})") from error


def _send(message: bytes, rank: int, channel: distributed.ProcessGroup) -> None:
    with _noticing_loss():
        distributed.send(torch.tensor([len(message)]), rank, group=channel)
        distributed.send(torch.frombuffer(bytearray(message), dtype=torch.uint8), rank, group=channel)


def _receive(rank: int, channel: distributed.ProcessGroup) -> bytes:
    with _noticing_loss():
        distributed.recv(size := torch.zeros(1, dtype=torch.int64), rank, group=channel)
        distributed.recv(message := torch.empty(int(size), dtype=torch.uint8), rank, group=channel)
    return message.numpy().tobytes()


def _broadcast(message: bytes | None, channel: distributed.ProcessGroup) -> bytes:
    """The first process's message, in all processes; the others pass ``None``."""
    with _noticing_loss():
        distributed.broadcast(size := torch.tensor([len(message or b"")]), 0, group=channel)
        buffer = torch.frombuffer(bytearray(message or int(size)), dtype=torch.uint8)
        distributed.broadcast(buffer, 0, group=channel)
    return buffer.numpy().tobytes()
