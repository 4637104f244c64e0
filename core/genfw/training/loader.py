"""Batches by number: batch ``t`` is a pure function of the seed and ``t``, so there is no loader state to lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from genfw.errors import ContractError, DataError
from genfw.interfaces.dataset import Split
from genfw.interfaces.values import Batch
from genfw.randomness import derive_seed

#: Numbers in the batches that are read at once.
_AT_ONCE = 1 << 13


class Loader:
    """Shuffled batches of a split, without end, each row once per epoch.

    The rows form an endless stream, each epoch in a new order. Batch ``t`` is the stream's rows ``t * batch`` to
    ``(t + 1) * batch``, of which this process reads its share.

    Arguments:
        split: The rows.
        batch: Rows per batch, over all processes.
        seed: Source of the order and of augmentation.
        rank: Rank of this process.
        world: Count of processes; must divide ``batch``.
        prefetch: Batches to read ahead in background threads; 0 reads on demand.
        readers: Background threads, which read a batch each.
        pinned: Pin the batches' memory, so that copies to a CUDA device need not be waited for.
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 0,
        readers: int = 1,
        pinned: bool = False,
    ) -> None:
        if batch < 1 or batch % world:
            raise ContractError(f"a batch of {batch} rows can't be shared by {world} processes")
        if len(split) == 0:
            raise DataError("the data set's split is empty")
        self.split, self.batch, self.seed = split, batch, seed
        self.rank, self.world, self.prefetch = rank, world, prefetch
        self.readers, self.pinned = readers, pinned
        # Whatever has the methods of a split is one.
        self._random = getattr(split, "random", True)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))

    def rows(self, step: int) -> Tensor:
        """Row numbers of this process's share of batch ``step``."""
        share = self.batch // self.world
        return self._stream(step * self.batch + self.rank * share, share)

    def _stream(self, start: int, count: int) -> Tensor:
        """Row numbers of a piece of the endless stream."""
        pieces: list[Tensor] = []
        while count > 0:
            epoch, offset = divmod(start, len(self.split))
            piece = self._permutation(epoch)[offset : offset + count]
            pieces.append(piece)
            start += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self._order = (epoch, torch.randperm(len(self.split), generator=generator))
        return self._order[1]

    def batch_at(self, step: int) -> Batch:
        """Batch ``step``, on the CPU."""
        return self._read(step, self.rows(step))

    def _read(self, step: int, rows: Tensor) -> Batch:
        generator = None
        if self._random:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "augment", step, self.rank))
        x, label = self.split.get(rows, generator=generator)
        batch = Batch(x, rows, label)
        return batch.pinned() if self.pinned else batch

    def _some(self, start: int, stop: int) -> Sequence[Batch]:
        """Batch ``start``, and where batches are small, several after it by one read, which costs hardly more."""
        first = self.batch_at(start)
        count = min(_AT_ONCE // max(first.x.numel(), 1), stop - start - 1)
        if self._random or self.pinned or self.world > 1 or count < 1:
            return [first]
        rows = self._stream((start + 1) * self.batch, count * self.batch)
        more = self._read(start, rows)
        labels = [None] * count if more.label is None else more.label.split(self.batch)
        return [first, *map(Batch, more.x.split(self.batch), rows.split(self.batch), labels)]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """``(step, batch)`` for the steps from ``start`` to ``stop - 1``; reads ahead where ``prefetch`` says so."""
        if self.prefetch == 0:
            while start < stop:
                for batch in self._some(start, stop):
                    yield start, batch
                    start += 1
            return
        with ThreadPoolExecutor(self.readers) as pool:
            waiting: list[tuple[int, Future[Batch]]] = []
            try:
                for step in range(start, stop):
                    waiting.append((step, pool.submit(self._read, step, self.rows(step))))
                    if len(waiting) > self.prefetch:
                        due, future = waiting.pop(0)
                        yield due, future.result()
                for due, future in waiting:
                    yield due, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()
