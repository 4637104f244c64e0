"""What a run does while its training goes on: writing checkpoints, and what follows from them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from torch import distributed

T = TypeVar("T")


class Background:
    """A thread that does one thing after the other.

    What it raises, the next call of :meth:`do` or :meth:`settle` raises.

    Arguments:
        world: Count of processes; each has such a thread, and they may wait for each other.
    """

    def __init__(self, world: int) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()
        # A group of its own: messages of two threads must not mix.
        self._group = distributed.new_group(backend="gloo") if world > 1 else None

    def barrier(self) -> None:
        """In this thread: wait for the threads of all processes."""
        if self._group is not None:
            distributed.barrier(self._group)

    def do(self, work: Callable[[], T], then: Callable[[T], None] = lambda _: None) -> None:
        """Queue something.

        Arguments:
            work: Called in the thread.
            then: Called with what it returns, in the thread of a later call of this method or :meth:`settle`.
        """
        self.settle(patient=False)
        self._pending.append((self._thread.submit(work), then))

    def settle(self, *, patient: bool = True) -> None:
        """See to the ends of what is done.

        Arguments:
            patient: Wait until everything is done.
        """
        while self._pending and (patient or self._pending[0][0].done()):
            future, then = self._pending.popleft()
            then(future.result())

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Afterwards everything is done; an exception of the block comes before the thread's."""
        try:
            yield
        except BaseException:
            wait([future for future, _ in self._pending])
            raise
        self.settle()
