"""The plain steps that benchmarks time genfw beside, written from the papers: both compute the same."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from genfw import Batch
from places import ROOT

BENCHMARKS = ROOT / "benchmarks" / "speed"


@pytest.fixture(scope="module")
def benchmark_of():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))

        def load(name):
            spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)  # where dataclasses look their annotations up
            spec.loader.exec_module(module)
            return module

        yield load


@pytest.fixture(scope="module")
def speed(benchmark_of):
    return benchmark_of("damc_speed")


@pytest.fixture(scope="module")
def training(benchmark_of):
    return benchmark_of("training_speed")


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


@pytest.mark.parametrize("step", [0, 50_000])
def test_an_nvaes_step_finds_the_written_loss_and_gradient(training, step) -> None:
    plain, stage, x = training.nvae_pair(4, channels=4, groups=3, side=8)
    (loss, size), report = plain(x, step), stage.step(Batch(x, torch.arange(4)), step)
    torch.testing.assert_close(report["loss"], loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(report["gradient"], size, rtol=1e-5, atol=0)
    # After both have moved: the next step's loss depends on weights, batch norms and power iterations.
    (loss, _), report = plain(x, step + 1), stage.step(Batch(x, torch.arange(4)), step + 1)
    torch.testing.assert_close(report["loss"], loss, rtol=1e-4, atol=0)


def test_another_weight_of_an_nvae_would_be_noticed(training) -> None:
    plain, stage, x = training.nvae_pair(4, channels=4, groups=3, side=8)
    with torch.no_grad():
        stage.model.prior.heads[0].weight[0, 0] += 0.1
    (loss, _), report = plain(x, 0), stage.step(Batch(x, torch.arange(4)), 0)
    assert not torch.isclose(report["loss"], loss, rtol=1e-5, atol=0)
