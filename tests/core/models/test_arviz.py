"""Chains handed to ArviZ: its diagnostics of them are genfw's own."""

import numpy as np
import pytest
import torch

import genfw
from genfw.errors import ContractError
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.metrics.chains.convergence import ess_bulk, ess_tail, split_rhat

arviz_stats = pytest.importorskip("arviz_stats")
pytest.importorskip("arviz_base")


@pytest.fixture(scope="module")
def chains():
    decoder = genfw.as_decoder(lambda z: z, (3,), sigma=0.5)
    model = genfw.Model(StandardNormal(3), decoder, energy=genfw.as_energy(lambda x: x.square().sum(1)))
    target, generator = genfw.NoiseTarget(model), torch.Generator().manual_seed(0)
    start = target.draw_base(4, generator)
    return target, genfw.run_chain(target, MALA(step_size=0.1, steps=80), start, generator=generator, keep_every=1)


def test_arviz_finds_our_r_hat_and_effective_counts(chains):
    target, result = chains
    data = result.to_arviz(target, skip=1)
    assert set(data.posterior.data_vars) == {"z.0", "x"}
    assert dict(data.posterior.sizes)["chain"] == 4
    assert dict(data.posterior.sizes)["draw"] == 80
    np.testing.assert_array_equal(data.sample_stats["lp"].values, -result.potentials[1:].T.double().numpy())
    for name, block in target.layout.split(result.trace.flatten(0, 1)).items():
        draws = block.unflatten(0, result.trace.shape[:2])[1:]
        for theirs, ours in (
            (arviz_stats.rhat(data), split_rhat(draws)),
            (arviz_stats.ess(data, method="bulk"), ess_bulk(draws)),
            (arviz_stats.ess(data, method="tail", prob=(0.05, 0.95)), ess_tail(draws)),
        ):
            np.testing.assert_allclose(theirs[name].values, ours.numpy(), rtol=1e-12)


def test_chains_without_record_are_refused(chains):
    target, result = chains
    with pytest.raises(ContractError, match="keep_every=1"):
        result.to_arviz(target, skip=81)


def test_chains_show_themselves(chains):
    _, result = chains
    assert repr(result).startswith("ChainResult(chains: 4, numbers in a position: 6, potential: ")
    assert "steps 0 to 80" in result._repr_html_()
    assert result.numpy()["trace"].shape == (81, 4, 6)
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
