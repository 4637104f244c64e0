"""Plain modules and functions as parts of a model."""

import pytest
import torch
from torch import nn

import genfw
from genfw.errors import ContractError
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.mala import MALA


def test_a_function_tilts_a_generator():
    """With z ~ N(0, 1), x = 2 z + 3 and E(x) = (x - 1)^2 / 8, the tilted law of z is N(-1/2, 1/2)."""
    decoder = genfw.as_decoder(lambda z: 2 * z + 3, (1,))
    energy = genfw.as_energy(lambda x: (x - 1).square() / 8)
    model = genfw.Model(StandardNormal(1), decoder, energy=energy)
    target, generator = genfw.NoiseTarget(model), torch.Generator().manual_seed(0)
    chains = genfw.run_chain(
        target, MALA(step_size=0.3, steps=60), target.draw_base(4000, generator), generator=generator
    )
    assert abs(float(chains.position.mean()) + 0.5) < 0.06
    assert abs(float(chains.position.var()) - 0.5) < 0.06


def test_modules_are_trained_and_functions_are_not():
    net = nn.Linear(3, 1)
    assert set(genfw.as_energy(net).parameters()) == set(net.parameters())
    assert list(genfw.as_energy(torch.sum).parameters()) == []
    v = torch.randn(5, 3)
    torch.testing.assert_close(genfw.as_energy(net)(v), net(v)[:, 0])


def test_a_prior_from_a_flow():
    base = torch.distributions.Normal(1.0, 2.0)
    prior = genfw.as_prior(lambda noise: 1 + 2 * noise, 3, lambda z: base.log_prob(z).sum(1))
    noise = torch.randn(4, 3)
    latent = prior.transform([noise])
    torch.testing.assert_close(latent.flat(), 1 + 2 * noise)
    torch.testing.assert_close(prior.log_prob(latent), base.log_prob(latent.flat()).sum(1))
    with pytest.raises(ContractError, match="density is unknown"):
        genfw.as_prior(torch.neg, 3).log_prob(latent)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: genfw.as_energy(nn.Linear(3, 2))(torch.zeros(4, 3)), r"one number per item.*\(4, 2\)"),
        (lambda: genfw.as_energy(torch.sum, on="pixels"), "reads 'data' or 'latent', got 'pixels'"),
        (lambda: genfw.as_energy(3), "a module or a function, got int"),
        (lambda: genfw.as_decoder(nn.Linear(3, 2), (2,), sigma=0.0), "sigma is positive"),
        (
            lambda: genfw.as_decoder(nn.Linear(3, 2), (5,))(genfw.Latent((torch.zeros(4, 3),))),
            r"shape \(5,\); the network gave \(2,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ContractError, match=message):
        make()


def test_objects_show_themselves_in_a_line_and_a_table():
    model = genfw.Model(StandardNormal(2), genfw.as_decoder(nn.Linear(2, 1), (1,)), energy=genfw.as_energy(torch.sum))
    assert repr(model) == "Model(prior: StandardNormal; decoder: Decoder, 3 weights; energy: Energy on data)"
    composition = genfw.compose("quickstart")
    for shown in (model, composition):
        assert len(repr(shown)) < 1000
        assert "\n" not in repr(shown)
        assert "<table>" in shown._repr_html_()
    assert "prior: standard-normal, dim 20" in repr(composition)
