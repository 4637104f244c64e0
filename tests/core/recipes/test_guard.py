"""The one place that calls parts of plugins: what they raise, and what they return, is named."""

import copy
import errno

import pytest
import torch

from genfw.errors import BrokenPartError, DataError
from genfw.interfaces import Dataset, Energy
from genfw.recipes.guard import guarded, origin_of, settle, watching


class Well(Energy):
    def __init__(self, act=lambda v: v.square().flatten(1).sum(1)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.act = act

    def forward(self, v):
        return self.weight * self.act(v)


class Points(Dataset):
    data_shape = (2,)

    def __init__(self, rows):
        self.rows = rows

    def split(self, name):
        return self

    def __len__(self):
        return 5

    def get(self, index, *, generator=None):
        return self.rows(index), None


def well(act):
    return guarded(Well, "energy", "energy 'well' of plugin w (energy.0, r.yaml:6)")(act)


def fault(part, *arguments):
    with pytest.raises(BrokenPartError) as caught:
        part(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), SystemExit(0), GeneratorExit(), StopIteration()])
def test_what_a_part_raises_names_it_and_the_line(error):
    def act(v):
        raise error

    said = fault(well(act), torch.ones(3, 2))
    assert said.startswith("energy 'well' of plugin w (energy.0, r.yaml:6): forward failed: ")
    assert type(error).__name__ in said
    assert "test_guard.py:" in said


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no"), OSError(errno.ENOSPC, "full")])
def test_signals_full_disks_and_failures_that_genfw_expects_pass(error):
    def act(v):
        raise error

    with pytest.raises(type(error)) as caught:
        well(act)(torch.ones(3, 2))
    assert caught.value is error


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda v: torch.zeros(2), "shape (3,)"),
        (lambda v: v.square().sum(1, keepdim=True), "shape (3, 1)"),
        (lambda v: v.square().sum(1) * 1j, "complex64"),
        (lambda v: v.square().sum(1).to("meta"), "device meta"),
    ],
)
def test_what_a_part_returns_is_what_its_interface_says(act, said):
    assert said in fault(well(act), torch.ones(3, 2))


def test_an_energy_without_gradient_is_refused_where_one_is_taken():
    energy = guarded(Well, "energy", "it")(lambda v: v.square().sum(1))
    energy.requires_grad_(False)
    assert energy(torch.ones(3, 2)).shape == (3,)
    energy.act = lambda v: v.detach().square().sum(1)
    assert "without gradient" in fault(energy, torch.ones(3, 2, requires_grad=True))


def test_nan_of_finite_values_is_refused_while_watched():
    energy = well(lambda v: (v - 1).log().sum(1))
    with watching(), torch.no_grad():
        assert "NaN" in fault(energy, torch.zeros(3, 2))
        energy(torch.full((3, 2), float("nan")))  # not made here
    assert energy(torch.zeros(3, 2)).isnan().all()  # the health monitor's matter, outside


def test_a_guarded_class_is_the_class_to_everybody_else():
    energy = well(torch.sum)
    assert isinstance(energy, Well)
    assert type(energy).__qualname__ == Well.__qualname__
    assert type(energy).__module__ == Well.__module__
    assert energy.state_dict().keys() == Well().state_dict().keys()
    assert origin_of(copy.deepcopy(energy)) == origin_of(energy)
    assert origin_of(Well()) == "Well"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (lambda index: None, "None"),
        (lambda index: torch.zeros(len(index), 3), "shape (4, 3)"),
        (lambda index: torch.zeros(1, 2), "shape (1, 2)"),
        (lambda index: torch.zeros(len(index), 2).long(), "int64"),
        (lambda index: torch.full((len(index), 2), float("inf")), "not finite"),
    ],
)
def test_rows_are_what_the_data_set_says(rows, said):
    class Other(Points):
        def split(self, name):
            return Points(self.rows)

    split = guarded(Other, "dataset", "dataset 'p'")(rows).split("train")
    assert len(split) == 5
    found = fault(split.get, torch.arange(4))
    assert found.startswith("dataset 'p', split 'train': get ")
    assert said in found


def test_a_module_without_its_base_and_a_shape_that_is_none_are_refused():
    class Bare(Well):
        def __init__(self):
            pass

    class Odd(Points):
        data_shape = (0, -1)

    with pytest.raises(BrokenPartError, match=r"does not call super\(\).__init__"):
        settle(Bare(), "energy", "it")
    with pytest.raises(BrokenPartError, match="data_shape is"):
        settle(Odd(None), "dataset", "it")
