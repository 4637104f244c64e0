"""Compiled, chains are what they are step by step, to the rounding of fused operations; what can't be compiled runs
step by step.
"""

import logging
import re

import pytest
import torch

from chain_cases import KERNELS, generator, lebm
from genfw.models.chains import run_chain
from genfw.models.compiling import CompiledChains, compiled
from genfw.models.model import Model
from genfw.models.targets import FunctionTarget, PosteriorTarget, PriorTarget
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA

FIELDS = ("position", "potential", "acceptance", "start", "trace", "potentials")


@pytest.fixture
def traced(monkeypatch):
    """The traced list of operations in place of the compiler's function: bit for bit what the plain chain does."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)


def small_posterior():
    torch.manual_seed(1)
    model = lebm()
    return Model(model.prior, MLPDecoder((4,), model.latent_layout, hidden=(8,), sigma=0.3), energy=model.energies[0])


def quadratic():
    return FunctionTarget(5, lambda v, matrix: 0.5 * ((v @ matrix) * v).sum(1), (torch.eye(5) + 0.3,))


TARGETS = {
    "lebm-prior": (lebm, lambda model, x: PriorTarget(model)),
    "posterior": (small_posterior, PosteriorTarget),
    "function": (quadratic, lambda target, x: target),
}


def compare(name, mine, plain, tolerance, rounds=3):
    """Chains of both ways in turn with other starts, data and weights; the compiled ones, for their count."""
    make, target_of = TARGETS[name]
    whole, chains = make(), CompiledChains()
    noise, again = generator(1), generator(1)
    for round in range(rounds):
        x = torch.rand(2, 4, generator=generator(10 + round))
        start = target_of(whole, x).layout.draw(2, generator=generator(20 + round))
        with compiled(chains):
            found = run_chain(target_of(whole, x), mine, start, generator=noise, keep_every=2)
        expected = run_chain(target_of(whole, x), plain, start, generator=again, keep_every=2)
        for field in FIELDS:
            torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=tolerance, atol=tolerance)
        assert found.kept == expected.kept
        assert torch.equal(noise.get_state(), again.get_state())
        if isinstance(whole, Model):
            with torch.no_grad():
                for weight in whole.parameters():
                    weight.mul_(1.01)
    return chains


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", ["langevin", "mala", pytest.param("hmc", marks=pytest.mark.slow)])
def test_the_traced_steps_are_bitwise_the_plain_ones(traced, name, kernel):
    mine, plain = KERNELS[kernel](), KERNELS[kernel]()
    assert compare(name, mine, plain, tolerance=0.0).steps >= 2 * mine.steps


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "kernel",
    [
        lambda: Langevin(step_size=0.01, steps=6),
        lambda: MALA(step_size=0.01, steps=4, jitter=0.5),
        lambda: HMC(step_size=0.01, steps=2, leapfrog_steps=2),
    ],
    ids=["langevin", "mala", "hmc"],
)
def test_compiled_is_what_step_by_step_is(name, kernel):
    mine = kernel()
    assert compare(name, mine, kernel(), tolerance=1e-5).steps == 3 * mine.steps


def test_a_function_of_its_own_is_compiled_for_itself(traced):
    chains, kernel, start = CompiledChains(), KERNELS["langevin"](), torch.ones(2, 5)
    targets = [FunctionTarget(5, lambda v, factor=factor: factor * v.sum(1), ()) for factor in (1.0, 2.0)]
    for target in targets:
        with compiled(chains):
            found = run_chain(target, kernel, start, generator=generator(0)).position
        assert torch.equal(found, run_chain(target, kernel, start, generator=generator(0)).position)
    assert chains.steps == 2 * kernel.steps


def prepared(model):
    """An energy that computes from its weights ahead of a chain."""
    factor = model.energies[0].net[0].weight.mean().detach()
    return PriorTargetOf(model, lambda v: factor * v.sum(1))


class PriorTargetOf(PriorTarget):
    def __init__(self, model, tilt):
        super().__init__(model)
        self.tilt = tilt

    def tilt_and_grad(self, position):
        return super(PriorTarget, self).tilt_and_grad(position)


@pytest.mark.parametrize(
    ("target", "kernel", "why"),
    [
        (lambda: FunctionTarget(5, lambda v: v.sum(1)), "langevin", "do not say that they read nothing else"),
        (lambda: prepared(lebm()), "langevin", r"a tensor of shape \(\) that is neither a weight nor a condition"),
        (lambda: PriorTargetOf(lebm(), lambda v: v.sum(1) * float(v.sum() > 0)), "mala", "by the value of a tensor"),
        (lambda: PriorTarget(lebm()), "annealed-langevin", "AnnealedLangevin counts moves"),
        (lambda: PriorTarget(lebm()), "isir", "draws by exponential_ from tensors"),
        (lambda: PriorTarget(lebm()), "langevin", "no compiler here"),
    ],
)
def test_what_cannot_be_compiled_runs_step_by_step_with_one_note(target, kernel, why, caplog, monkeypatch):
    def compile(graph, inputs, options):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch._inductor.compile", compile)
    target, chains, kernel = target(), CompiledChains(), KERNELS[kernel]()
    start = torch.linspace(-1, 1, 10).reshape(2, 5)
    with caplog.at_level(logging.WARNING, "genfw"):
        for _ in range(3):
            with compiled(chains):
                run_chain(target, kernel, start, generator=generator(0))
    assert chains.steps == 0
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("genfw: a chain is not compiled and runs step by step: ")
    assert re.search(why, message)


def test_chains_are_compiled_within_their_block_alone(traced):
    chains, target = CompiledChains(), quadratic()
    kernel = KERNELS["langevin"]()
    run_chain(target, kernel, torch.ones(2, 5), generator=generator(0))
    assert chains.steps == 0
    with compiled(chains), compiled(None):
        run_chain(target, kernel, torch.ones(2, 5), generator=generator(0))
    assert chains.steps == 0
