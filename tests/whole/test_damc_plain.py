"""The plain form of DAMC's update that benchmarks time genfw beside, written from the paper: both compute the same."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from places import ROOT

BENCHMARKS = ROOT / "benchmarks" / "speed"


@pytest.fixture(scope="module")
def speed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("damc_speed", BENCHMARKS / "damc_speed.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "damc_speed", module)  # where dataclasses look their annotations up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def both(speed):
    return speed.pair(3, width=2, embedding_width=4, embedding=32)


@pytest.mark.parametrize(("name", "steps"), [("prior_chains", 60), ("posterior_chains", 30)])
def test_chains_end_where_the_listing_ends(speed, both, name, steps) -> None:
    listed, ours = getattr(speed, name)(both, steps)
    ends = listed(), ours()
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-4)
    assert float((ends[0] - both.z).abs().mean()) > 0.1


def test_the_amortizer_draws_what_the_tables_draw(speed, capsys) -> None:
    speed.check_amortizer()
    assert "equal within" in capsys.readouterr().out
    assert torch.get_default_dtype() == torch.float32


def test_other_weights_would_be_noticed(speed, both) -> None:
    with torch.no_grad():
        both.model.energies[0].net[0].weight[0, 0] += 0.1
    listed, ours = speed.prior_chains(both, 60)
    with pytest.raises(SystemExit, match=r"prior: the two ways differ by .* nothing was timed"):
        speed.agree("prior", listed(), ours(), 1e-4)


def test_the_amortizers_loss_is_the_listings(speed, both) -> None:
    hidden = torch.tensor([True, False, False])
    listed = both.amortizer.loss(both.x, both.z, (~hidden).float()[:, None], speed.generator())
    ours = both.ours.loss(both.z, both.x, generator=speed.generator(), hidden=hidden).mean()
    torch.testing.assert_close(ours, listed, rtol=1e-4, atol=1e-4)
