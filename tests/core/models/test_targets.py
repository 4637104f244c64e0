"""Potentials are exact: against closed forms, autograd, and the change of variables between spaces."""

import math

import pytest
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.interfaces import Decoder, Energy, Prior
from genfw.interfaces.likelihood import Deterministic, Gaussian
from genfw.interfaces.values import Latent
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import (
    DataTarget,
    FunctionTarget,
    JointTarget,
    NoiseTarget,
    PosteriorTarget,
    PriorTarget,
    PublishedNoiseTarget,
    make_target,
)

DTYPE = torch.float64


class AffinePrior(Prior):
    """Two groups, the second with a mean and scale that depend on the first: z1 = m(z0) + s(z0) eps1."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7, dtype=DTYPE))

    @property
    def noise_shapes(self):
        return ((2,), (3,))

    def _moments(self, z0):
        return self.slope * z0.sum(1, keepdim=True), 0.3 + z0[:, :1].sigmoid()

    def transform(self, noise, temperature=1.0):
        z0 = temperature * (1.0 + 2.0 * noise[0])
        mean, scale = self._moments(z0)
        return Latent((z0, mean + temperature * scale * noise[1]))

    def log_prob(self, latent):
        z0, z1 = latent.groups
        mean, scale = self._moments(z0)
        first = torch.distributions.Normal(1.0, 2.0).log_prob(z0).sum(1)
        return first + torch.distributions.Normal(mean, scale).log_prob(z1).sum(1)


class CurvedDecoder(Decoder):
    """Two numbers, mean and scale both functions of z: where leaving out the Jacobian shows."""

    def __init__(self, noise=True):
        super().__init__()
        self.net = nn.Linear(5, 4, dtype=DTYPE)
        self.noise = noise

    @property
    def noise_shape(self):
        return (2,) if self.noise else None

    def forward(self, latent):
        mean, raw = self.net(latent.flat()).tanh().chunk(2, dim=1)
        return Gaussian(mean, (0.5 * raw).exp()) if self.noise else Deterministic(mean)


class Quadratic(Energy):
    def __init__(self, on, weight):
        super().__init__()
        self.on = on
        self.weight = nn.Parameter(torch.tensor(weight, dtype=DTYPE))

    def forward(self, v):
        return self.weight * (v - 0.5).square().flatten(1).sum(1)


def build(*energies, noise=True):
    torch.manual_seed(0)
    return Model(AffinePrior(), CurvedDecoder(noise), energy=list(energies))


def positions(target, count=6):
    return torch.randn(count, target.layout.size, dtype=DTYPE, generator=torch.Generator().manual_seed(3))


BOTH = (Quadratic("data", 1.5), Quadratic("latent", 0.4))
X = torch.tensor([[0.3, -0.2], [1.0, 0.1], [-0.4, 0.8]], dtype=DTYPE)


def targets():
    model = build(*BOTH)
    return {
        "noise": NoiseTarget(model),
        "noise-published": PublishedNoiseTarget(model),
        "prior": PriorTarget(model),
        "posterior": PosteriorTarget(model, X),
        "data": DataTarget(Model(energy=BOTH[0], data_shape=(2,))),
        "joint": JointTarget(model),
        "tempered": NoiseTarget(model).tempered(0.3),
    }


@pytest.mark.parametrize("name", ["noise", "noise-published", "prior", "posterior", "data", "joint", "tempered"])
def test_gradient_equals_finite_differences(name):
    target = targets()[name]
    position = positions(target)
    _, gradient = target.potential_and_grad(position)
    step = 1e-6
    for column in range(target.layout.size):
        shift = torch.zeros_like(position)
        shift[:, column] = step
        slope = (target.potential(position + shift) - target.potential(position - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, column], slope.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["noise", "noise-published", "prior", "posterior", "data", "joint", "tempered"])
def test_potential_is_base_plus_tilt_and_leaves_no_graph(name):
    target = targets()[name]
    position = positions(target)
    value, gradient = target.potential_and_grad(position)
    torch.testing.assert_close(value, (target.base(position) + target.tilt(position)).detach())
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert value.shape == (len(position),)
    assert gradient.shape == position.shape


def test_noise_potential_is_equation_nine():
    model = build(*BOTH)
    target = NoiseTarget(model)
    eps = positions(target)
    blocks = target.layout.split(eps)
    latent = model.prior.transform([blocks["z.0"], blocks["z.1"]])
    x = model.decoder(latent).transform(blocks["x"])
    expected = 1.5 * (x - 0.5).square().sum(1) + 0.4 * (latent.flat() - 0.5).square().sum(1) + eps.square().sum(1) / 2
    torch.testing.assert_close(target.potential(eps), expected)


def _jacobian_term(model, eps):
    """log |det d(z, x) / d eps| of each position, by autograd."""
    width = model.latent_layout.size

    def walk(e):
        latent = model.latent(e[None, :width])
        x = model.likelihood(latent).transform(e[None, width:])
        return torch.cat([latent.flat(), x], dim=1)[0]

    jacobian = torch.stack([torch.autograd.functional.jacobian(walk, e) for e in eps])
    return torch.linalg.slogdet(jacobian).logabsdet


def test_noise_and_joint_space_hold_the_same_law():
    model = build(*BOTH)
    noise, joint = NoiseTarget(model), JointTarget(model)
    eps = positions(noise, 8)
    width = model.latent_layout.size
    latent = model.latent(eps[:, :width])
    zx = torch.cat([latent.flat(), model.likelihood(latent).transform(eps[:, width:])], dim=1)
    # U_noise(eps) = U_joint(z, x) - log |det J| + const, the constant being (D/2) log 2 pi.
    difference = noise.potential(eps) - (joint.potential(zx) - _jacobian_term(model, eps))
    expected = -0.5 * eps.shape[1] * math.log(2 * math.pi)
    torch.testing.assert_close(difference, torch.full_like(difference, expected))
    # The published potential leaves the Jacobian out; the law it samples differs as soon as a scale varies with z.
    published = PublishedNoiseTarget(model).potential(eps)
    torch.testing.assert_close(published, joint.potential(zx))
    assert (noise.potential(eps) - published).std() > 0.1


def test_the_published_potential_cuts_the_scale_of_the_likelihood_at_its_least():
    class Narrow(CurvedDecoder):
        def forward(self, latent):
            return Gaussian(super().forward(latent).mean, 0.05)

    torch.manual_seed(0)
    model = Model(AffinePrior(), Narrow(), energy=[*BOTH])
    target = PublishedNoiseTarget(model)
    eps = positions(target)
    width = model.latent_layout.size
    latent = model.latent(eps[:, :width])
    likelihood = model.likelihood(latent)
    x = likelihood.transform(eps[:, width:])
    cut = torch.distributions.Normal(likelihood.mean, math.exp(-2.0)).log_prob(x).sum(1)
    energies = model.data_energy(x) + model.latent_energy(latent)
    torch.testing.assert_close(target.potential(eps), energies - model.prior.log_prob(latent) - cut)
    with pytest.raises(ContractError, match="needs a Gaussian likelihood; this decoder's is Deterministic"):
        make_target(build(*BOTH, noise=False), "noise-published").potential(eps[:, :width])


def test_posterior_is_bayes_rule_up_to_a_constant_of_x():
    model = build(*BOTH)
    target = PosteriorTarget(model, X[:1])
    eps = positions(target)
    latent = model.latent(eps)
    joint = model.prior.log_prob(latent) + model.likelihood(latent).log_prob(X[:1].expand(len(eps), -1))
    joint = joint - model.latent_energy(latent)
    # Both are log densities over z and over eps; they differ by log |det dz/deps| = sum of the log scales.
    scale = 2 * math.log(2.0) + 3 * (0.3 + latent.groups[0][:, :1].sigmoid()).log().sum(1)
    constant = target.potential(eps) + joint + scale
    torch.testing.assert_close(constant, constant[:1].expand(len(eps)))


def test_posterior_gives_each_chain_its_own_item_round_by_round():
    target = PosteriorTarget(build(*BOTH), X)
    eps = positions(target, 3).repeat(2, 1)
    value = target.potential(eps)
    torch.testing.assert_close(value[:3], value[3:])
    with pytest.raises(ContractError, match="4 positions for 3 items"):
        target.potential(eps[:4])


def test_groups_that_no_term_reads_are_left_out():
    assert NoiseTarget(build(BOTH[1])).layout.names == ("z.0", "z.1")
    assert NoiseTarget(build(BOTH[0])).layout.names == ("z.0", "z.1", "x")
    assert NoiseTarget(build(BOTH[0], noise=False)).layout.names == ("z.0", "z.1")
    assert PriorTarget(build(*BOTH)).layout.names == ("z.0", "z.1")


def test_a_model_without_energy_samples_its_base():
    target = NoiseTarget(build())
    eps = positions(target)
    value, gradient = target.potential_and_grad(eps)
    torch.testing.assert_close(value, eps.square().sum(1) / 2)
    torch.testing.assert_close(gradient, eps)


def test_tempering_walks_from_base_to_target():
    target = NoiseTarget(build(*BOTH))
    eps = positions(target)
    torch.testing.assert_close(target.tempered(0.0).potential(eps), target.base(eps))
    torch.testing.assert_close(target.tempered(1.0).potential(eps), target.potential(eps))
    per_chain = torch.linspace(0, 1, len(eps), dtype=DTYPE)
    torch.testing.assert_close(
        target.tempered(per_chain).potential(eps), target.base(eps) + per_chain * target.tilt(eps)
    )


def test_chain_freezes_and_restores_even_after_an_error():
    model = build(*BOTH)
    model.train()
    model.decoder.eval()
    model.prior.slope.requires_grad_(False)
    before = [(part.training, [p.requires_grad for p in part.parameters()]) for part in model.modules()]

    def broken_chain():
        with frozen_for_chain(*NoiseTarget(model).modules()):
            assert not any(part.training for part in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        broken_chain()
    assert before == [(part.training, [p.requires_grad for p in part.parameters()]) for part in model.modules()]


def test_to_data_gives_the_mean_or_a_draw():
    model = build(BOTH[1])
    target = PriorTarget(model)
    eps = positions(target)
    mean = target.to_data(eps, mean=True)
    torch.testing.assert_close(mean, model.likelihood(model.latent(eps)).mean)

    def draw():
        return target.to_data(eps, generator=torch.Generator().manual_seed(0))

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw(), mean)


def test_joint_base_draws_follow_its_density():
    # E[base] of exact draws is the differential entropy of (z, x); a Gaussian identity per factor checks it.
    model = build()
    target = JointTarget(model)
    draws = target.draw_base(40_000, torch.Generator().manual_seed(0))
    latent, _ = target._parts(draws)
    scale = (0.3 + latent.groups[0][:, :1].sigmoid()).log().sum(1) * 3 + 2 * math.log(2.0)
    scale = scale + model.likelihood(latent).scale.log().sum(1)
    entropy = scale + 0.5 * draws.shape[1] * (1 + math.log(2 * math.pi))
    value = target.base(draws)
    error = (value - entropy).std() / len(draws) ** 0.5
    assert (value - entropy).mean().abs() < 5 * error


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: make_target(build(), "posterior"), "conditioned on data"),
        (lambda: make_target(build(), "noise", X), "conditioned on data"),
        (lambda: make_target(build(), "data"), "needs an energy on data"),
        (lambda: make_target(build(noise=False), "joint"), "density"),
        (lambda: make_target(Model(energy=BOTH[0], data_shape=(2,)), "noise"), "no prior"),
        (lambda: Model(decoder=CurvedDecoder()), "needs a prior"),
        (lambda: Model(energy=BOTH[0]).data_shape, "needs its data_shape"),
    ],
)
def test_what_a_model_lacks_is_said(act, message):
    with pytest.raises(ContractError, match=message):
        act()


def test_an_energy_of_the_wrong_shape_is_refused():
    class Column(Energy):
        def forward(self, v):
            return v[:, :1]

    with pytest.raises(ContractError, match=r"Column must return one number per item, shape \(6,\), got \(6, 1\)"):
        DataTarget(Model(energy=Column(), data_shape=(2,))).potential(torch.zeros(6, 2))


def test_function_target():
    target = FunctionTarget(3, lambda eps: eps.sum(1))
    eps = torch.randn(4, 3)
    value, gradient = target.potential_and_grad(eps)
    torch.testing.assert_close(value, eps.sum(1) + eps.square().sum(1) / 2)
    torch.testing.assert_close(gradient, 1 + eps)
