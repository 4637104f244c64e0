"""An evaluation shared out over processes: the first one measures, the others work for it.

The first process alone runs the metrics and writes what they find. The others hold the same weights and answer orders:
draw a batch of samples, call a method of a metric. What an order gives depends on the order alone, so that any number
of processes finds the same numbers.
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
from genfw.randomness import kept_apart
from genfw.runs.state_tree import join_tree, split_tree

__all__ = ["WorkerPool", "pooled", "serve"]

T = TypeVar("T")

#: While one process reads data or draws figures the others wait; a lost connection is noticed at once all the same.
_PATIENCE = dt.timedelta(days=365)


@attrs.frozen
class Draw:
    """Order for a batch of samples; see :func:`~genfw.models.sampling.draw_batch`."""

    count: int
    number: int
    seed: int

    def carry_out(self, evaluation: Evaluation, metrics: Sequence[Metric]) -> Samples:
        """Draw it."""
        return draw_batch(
            evaluation.model, evaluation.settings, self.count, self.number, seed=self.seed, device=evaluation.device
        )


@attrs.frozen
class Call:
    """Order for one task of a metric: the metric by its number in the recipe, its method by name, the arguments."""

    metric: int
    method: str
    task: tuple[Any, ...]

    def carry_out(self, evaluation: Evaluation, metrics: Sequence[Metric]) -> Any:
        """Call the method."""
        return getattr(metrics[self.metric], self.method)(evaluation, *self.task)


class WorkerPool:
    """The further processes, as the first one sees them.

    Arguments:
        evaluation: That of this process, which takes its part of the work.
        metrics: The recipe's metrics, in order.
        channel: The group of all processes.
    """

    def __init__(self, evaluation: Evaluation, metrics: Sequence[Metric], channel: distributed.ProcessGroup) -> None:
        self._evaluation, self._metrics, self._channel = evaluation, metrics, channel
        # A thread for each of them, which waits for its answers one after the other: this one can compute meanwhile,
        # and hears a signal while it waits.
        self._threads = [ThreadPoolExecutor(1) for _ in range(distributed.get_world_size(channel) - 1)]

    def draw(self, count: int, numbers: Sequence[int], seed: int) -> Iterator[Samples]:
        """See :meth:`~genfw.evaluation.evaluation.Evaluation.sample_batches`."""
        return self._deal([Draw(count, number, seed) for number in numbers])

    def spread(self, method: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """See :meth:`~genfw.evaluation.evaluation.Evaluation.spread`."""
        bound = cast(MethodType, method)
        owner = [number for number, metric in enumerate(self._metrics) if metric is bound.__self__]
        if not owner:
            return [method(self._evaluation, *task) for task in tasks]
        return list(self._deal([Call(owner[0], bound.__name__, task) for task in tasks]))

    def _deal(self, orders: Sequence[Draw | Call]) -> Iterator[Any]:
        """Deal orders out in turn, and give what they come to in their order.

        A process carries out one order at a time, and begins its next when its last result is taken.

        Raises:
            GenfwError: An order failed in a further process, for the reason it gives.
            LostProcessError: A further process is gone.
        """
        world = 1 + len(self._threads)
        asked = {number: self._ask(number, order) for number, order in enumerate(orders[:world]) if number}
        try:
            for number, order in enumerate(orders):
                if number % world == 0:
                    yield order.carry_out(self._evaluation, self._metrics)
                    continue
                result, failure = asked.pop(number).result()
                if number + world < len(orders):
                    asked[number + world] = self._ask(number + world, orders[number + world])
                if failure is not None:
                    raise GenfwError(failure)
                yield result
        finally:
            for answer in asked.values():
                answer.cancel()  # what is begun is finished, and nobody looks at it

    def _ask(self, number: int, order: Draw | Call) -> Future[tuple[Any, str | None]]:
        rank = number % (1 + len(self._threads))
        return self._threads[rank - 1].submit(self._exchange, rank, order)

    def _exchange(self, rank: int, order: Draw | Call) -> tuple[Any, str | None]:
        _send(_pack(order), rank, self._channel)
        answer: tuple[Any, str | None] = pickle.loads(_receive(rank, self._channel))
        return answer

    def dismiss(self, *, wait: bool) -> None:
        """Tell all of them that they are done.

        Arguments:
            wait: Until they have heard it; else whoever computes is left to do so.
        """
        told = [
            thread.submit(_send, _pack(None), rank, self._channel) for rank, thread in enumerate(self._threads, start=1)
        ]
        for thread, message in zip(self._threads, told, strict=True):
            thread.shutdown(wait=False)
            with suppress(LostProcessError):  # the numbers are taken: nothing is lost with it
                if wait:
                    message.result()


@contextmanager
def pooled(fabric: Fabric, evaluation: Evaluation, metrics: Sequence[Metric]) -> Iterator[None]:
    """In the first process: give all others the weights to be measured, and the evaluation its workers.

    Arguments:
        fabric: The processes.
        evaluation: What is to be shared out.
        metrics: The recipe's metrics, in order.
    """
    if fabric.world_size == 1:
        yield
        return
    channel = _open_channel()
    parts = [part.state_dict() for part in stateful_parts(evaluation.settings)]
    state = split_tree({"model": evaluation.model.state_dict(), "parts": parts})
    # Sums over threads depend on how many there are, in the last bit.
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
    """In a further process: take the first one's weights, and carry out its orders until it has no more.

    Arguments:
        evaluation: This process's own, of the same recipe and with the same seed.
        metrics: The recipe's metrics, in order.
    """
    channel = _open_channel()
    with suppress(LostProcessError):  # the first one is gone, and has said why
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
        with kept_apart(evaluation.device):
            return _pack((order.carry_out(evaluation, metrics), None))
    except Exception as error:
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
    """A group for messages from memory to memory, whatever the devices; all processes open it together."""
    return cast(distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=_PATIENCE))


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo raises for a connection that is closed at the other end
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
    """The first process's message, in all of them; the others have none to give."""
    with _noticing_loss():
        distributed.broadcast(size := torch.tensor([len(message or b"")]), 0, group=channel)
        buffer = torch.frombuffer(bytearray(message or int(size)), dtype=torch.uint8)
        distributed.broadcast(buffer, 0, group=channel)
    return buffer.numpy().tobytes()
