"""Optimisers and the course of their learning rate."""

import itertools
import math

import pytest
import torch
from torch import nn

from genfw.errors import ContractError
from genfw_plugins.training.optimizers import SGD, Adam, Adamax, AdamW

ALL = [Adam, AdamW, Adamax, SGD]


@pytest.mark.parametrize("kind", ALL)
def test_descends_a_bowl(kind):
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = kind(lr=0.1).build([weight])
    assert optimizer.param_groups[0]["lr"] == 0.1
    for _ in range(300):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.norm() < 0.1


@pytest.mark.parametrize("kind", ALL)
def test_factory_builds_fresh_optimizers(kind):
    factory, weight = kind(), nn.Parameter(torch.ones(3))
    first, second = factory.build([weight]), factory.build([weight])
    weight.grad = torch.ones(3)
    first.step()
    assert not second.state


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_a_fused_optimizer_goes_on_bit_for_bit_and_an_older_state_unfused(kind):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 1))

    def step(net, optimizer, number):
        optimizer.zero_grad()
        net(torch.randn(7, 3, generator=torch.Generator().manual_seed(number))).square().mean().backward()
        optimizer.step()

    straight, broken, older = (network() for _ in range(3))
    first, second = (kind(lr=0.01).build(net.parameters()) for net in (straight, broken))
    assert first.param_groups[0]["fused"]
    for number in range(3):
        step(straight, first, number)
        step(broken, second, number)
    resumed = kind(lr=0.01).build(broken.parameters())
    resumed.load_state_dict(second.state_dict())
    for number in range(3, 6):
        step(straight, first, number)
        step(broken, resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), broken.parameters(), strict=True))
    # A checkpoint that was written before there were fused optimisers goes on as it was begun.
    before = kind.rule(older.parameters(), lr=0.01, weight_decay=kind().weight_decay)
    step(older, before, 0)
    resumed.load_state_dict(before.state_dict())
    assert not resumed.param_groups[0]["fused"]


@pytest.mark.parametrize("kind", ALL)
def test_warmup_is_linear_and_reaches_the_peak(kind):
    factory = kind(warmup=4)
    assert [factory.factor(t, 100) for t in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert kind().factor(0, 100) == 1.0


@pytest.mark.parametrize("decay", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize("warmup", [0, 10])
def test_decay_falls_from_one_to_final(decay, warmup):
    factory = Adam(decay=decay, final=0.05, warmup=warmup)
    factors = [factory.factor(t, 101 + warmup) for t in range(warmup, 101 + warmup)]
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.05)
    assert all(later < earlier for earlier, later in itertools.pairwise(factors))
    assert factory.factor(10_000, 101 + warmup) == pytest.approx(0.05)
    middle = {"linear": 0.525, "cosine": 0.525, "exponential": math.sqrt(0.05)}[decay]
    assert factors[50] == pytest.approx(middle)


def test_a_rate_falls_in_stairs_and_not_below_the_least():
    # DAMC: 0.99 every 1,000 of 200,000 steps, at least 1e-5.
    factory = Adam(lr=2e-4, decay="exponential", final=0.99**200, stairs=1_000, least=1e-5)
    for step in (0, 999, 1_000, 1_999, 57_300, 199_999):
        assert 2e-4 * factory.factor(step, 200_000) == pytest.approx(2e-4 * 0.99 ** (step // 1_000), rel=1e-4)
    floored = Adam(lr=2e-5, decay="exponential", final=0.134, least=1e-5)
    assert 2e-5 * floored.factor(199_999, 200_000) == pytest.approx(1e-5)
    warm = Adam(warmup=7, decay="linear", stairs=50)
    assert [warm.factor(step, 107) for step in (6, 7, 56)] == [1.0, 1.0, 1.0]
    assert warm.factor(57, 107) < 1.0


def test_weight_decay_of_adamw_is_apart_from_the_gradient():
    coupled, apart = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    for weight, kind in ((coupled, Adam), (apart, AdamW)):
        weight.grad = torch.zeros(1)
        kind(lr=0.1, weight_decay=0.5).build([weight]).step()
    assert apart.item() == pytest.approx(1 - 0.1 * 0.5)
    assert coupled.item() == pytest.approx(1 - 0.1, abs=1e-6)  # Adam divides the penalty by its own root


def test_adam_settings_reach_torch():
    group = (
        Adam(lr=2e-4, betas=(0.5, 0.99), eps=1e-6, weight_decay=0.1)
        .build([nn.Parameter(torch.ones(1))])
        .param_groups[0]
    )
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (2e-4, (0.5, 0.99), 1e-6, 0.1)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Adam(lr=0.0), "lr must be above 0"),
        (lambda: AdamW(betas=(0.9, 1.0)), "betas must lie in"),
        (lambda: Adamax(eps=0.0), "eps must be above 0"),
        (lambda: Adam(weight_decay=-1.0), "weight_decay"),
        (lambda: SGD(momentum=1.0), r"momentum must lie in \[0, 1\), got 1\.0"),
        (lambda: SGD(nesterov=True), "set momentum"),
        (lambda: SGD(stairs=0), "stairs must be at least 1, got 0"),
        (lambda: SGD(decay="exponential"), r"needs final above 0, got 0\.0"),
    ],
)
def test_nonsense_is_refused(make, text):
    with pytest.raises(ContractError, match=text):
        make()
