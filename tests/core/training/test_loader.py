"""Batches are a function of seed and number: epochs are permutations, processes share, reading ahead is no change."""

import pytest
import torch

from genfw.errors import ContractError, DataError
from genfw.interfaces import Split
from genfw.training import loader as loader_module
from genfw.training.loader import Loader


class Rows(Split):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def get(self, index, *, generator=None):
        noise = torch.rand(len(index), 1, generator=generator) if generator is not None else torch.zeros(len(index), 1)
        return index[:, None].float() + noise, index % 3


@pytest.mark.parametrize(("count", "batch"), [(10, 5), (10, 3), (4, 11)])
def test_every_row_comes_once_per_epoch(count, batch):
    loader = Loader(Rows(count), batch, seed=1)
    steps = count * 3  # count * batch * 3 rows: exactly 3 * batch epochs
    stream = torch.cat([loader.rows(step) for step in range(steps)])
    for epoch in stream.split(count):
        assert sorted(epoch.tolist()) == list(range(count))
    assert not torch.equal(stream[:count], stream[count : 2 * count])


def test_a_batch_does_not_depend_on_what_was_read_before():
    loader = Loader(Rows(10), 4, seed=1)
    straight = [loader.batch_at(step) for step in range(8)]
    jumped = Loader(Rows(10), 4, seed=1).batch_at(7)
    assert torch.equal(straight[7].x, jumped.x)
    assert torch.equal(straight[7].label, jumped.label)
    assert not torch.equal(Loader(Rows(10), 4, seed=2).batch_at(7).index, jumped.index)


def test_processes_share_a_batch_without_overlap():
    whole = Loader(Rows(20), 8, seed=0)
    parts = [Loader(Rows(20), 8, seed=0, rank=rank, world=2) for rank in range(2)]
    for step in range(6):
        assert torch.equal(torch.cat([part.rows(step) for part in parts]), whole.rows(step))


@pytest.mark.parametrize("readers", [1, 3])
def test_reading_ahead_changes_nothing_and_can_be_left_early(readers):
    plain, ahead = Loader(Rows(10), 4, seed=1), Loader(Rows(10), 4, seed=1, prefetch=3, readers=readers)
    for (i, a), (j, b) in zip(plain.batches(2, 9), ahead.batches(2, 9), strict=True):
        assert i == j
        assert torch.equal(a.x, b.x)
    for step, _ in ahead.batches(0, 100):
        if step == 3:
            break


@pytest.mark.parametrize("labelled", [True, False])
def test_small_batches_read_together_are_those_read_one_by_one(labelled):
    """Rows without randomness: several batches are one reading, over the ends of epochs too."""
    asked = []

    class Still(Rows):
        random = False

        def get(self, index, *, generator=None):
            assert generator is None
            asked.append(len(index))
            x, label = super().get(index)
            return x, label if labelled else None

    loader = Loader(Still(10), 4, seed=1)
    singly = [loader.batch_at(step) for step in range(3, 60)]
    asked.clear()
    together = list(loader.batches(3, 60))
    assert [step for step, _ in together] == list(range(3, 60))
    assert asked == [4, 56 * 4]
    for (_, one), other in zip(together, singly, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.index, other.index)
        assert (one.label is None and other.label is None) or torch.equal(one.label, other.label)


def test_large_batches_are_read_one_by_one(monkeypatch):
    monkeypatch.setattr(Rows, "random", False)
    monkeypatch.setattr(loader_module, "_AT_ONCE", 11)
    asked = []
    get = Rows.get
    monkeypatch.setattr(Rows, "get", lambda self, index, **_: asked.append(len(index)) or get(self, index))
    assert len(list(Loader(Rows(10), 4, seed=1).batches(0, 7))) == 7
    assert asked == [4, 8, 4, 8, 4]  # a batch has four numbers, and two more have eight
    asked.clear()
    list(Loader(Rows(20), 12, seed=1).batches(0, 3))
    list(Loader(Rows(10), 4, seed=1, world=2).batches(0, 3))
    assert asked == [12, 12, 12, 2, 2, 2]


def test_bad_sizes_are_said():
    with pytest.raises(ContractError, match="batch of 5 rows can't be shared by 2 processes"):
        Loader(Rows(10), 5, seed=0, world=2)
    with pytest.raises(DataError, match="empty"):
        Loader(Rows(0), 5, seed=0)
