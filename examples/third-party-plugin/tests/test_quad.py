"""The laws of both interfaces, inherited; and what is true of these two classes alone."""

import pytest
import torch
from genfw_quad.energy import QuadraticWell
from genfw_quad.sampler import Barker

from genfw import ContractError, FunctionTarget, run_chain
from genfw.testing import EnergySuite, SamplerSuite


class TestQuadraticWell(EnergySuite):
    shape = (3,)

    def make(self) -> QuadraticWell:
        return QuadraticWell(data_shape=(3,), stiffness=2.0)


def test_well_is_lowest_at_its_centre() -> None:
    well = QuadraticWell(data_shape=(2,), stiffness=3.0)
    with torch.no_grad():
        well.centre.copy_(torch.tensor([1.0, -1.0]))
    assert well(torch.tensor([[1.0, -1.0], [2.0, 1.0]])).tolist() == [0.0, 7.5]


@pytest.mark.parametrize("stiffness", [0.0, -1.0])
def test_well_must_curve_upwards(stiffness: float) -> None:
    with pytest.raises(ContractError, match="stiffness must be positive"):
        QuadraticWell(data_shape=(2,), stiffness=stiffness)


class TestBarker(SamplerSuite):
    def make(self) -> Barker:
        return Barker(scale=0.5)


def test_barker_stays_finite_where_langevin_would_explode() -> None:
    # U = 50 |x|^4: at the start the gradient is 1.6e6, a Langevin step of any useful size overflows.
    target = FunctionTarget(2, lambda v: 50.0 * v.square().sum(1).square())
    start = torch.full((10, 2), 20.0, dtype=torch.float64)
    end = run_chain(target, Barker(scale=1.0), start, generator=torch.Generator().manual_seed(0), steps=300)
    assert bool(end.position.isfinite().all())
    assert float(end.position.abs().max()) < 1.5
