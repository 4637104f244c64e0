"""Batches by number: batch ``t`` is a pure function of the seed and ``t``, so there is no loader state to lose."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from genfw.errors import ContractError, DataError
from genfw.interfaces.dataset import Split
from genfw.interfaces.values import Batch
from genfw.randomness import derive_seed


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
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))

    def rows(self, step: int) -> Tensor:
        """Row numbers of this process's share of batch ``step``."""
        share = self.batch // self.world
        start = step * self.batch + self.rank * share
        pieces: list[Tensor] = []
        while share > 0:
            epoch, offset = divmod(start, len(self.split))
            piece = self._permutation(epoch)[offset : offset + share]
            pieces.append(piece)
            start += len(piece)
            share -= len(piece)
        return torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self._order = (epoch, torch.randperm(len(self.split), generator=generator))
        return self._order[1]

    def batch_at(self, step: int) -> Batch:
        """Batch ``step``, on the CPU."""
        return self._read(step, self.rows(step))

    def _read(self, step: int, rows: Tensor) -> Batch:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augment", step, self.rank))
        x, label = self.split.get(rows, generator=generator)
        batch = Batch(x, rows, label)
        return batch.pinned() if self.pinned else batch

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """``(step, batch)`` for the steps from ``start`` to ``stop - 1``; reads ahead where ``prefetch`` says so."""
        if self.prefetch == 0:
            for step in range(start, stop):
                yield step, self.batch_at(step)
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
