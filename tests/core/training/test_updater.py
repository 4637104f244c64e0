"""One optimiser step: who moves, how far, and what is averaged."""

import copy

import pytest
import torch
from torch import nn

from genfw.errors import ContractError
from genfw.training.optimizer import OptimizerFactory
from genfw.training.stage import StageRun
from genfw.training.updater import Clip, Updater, WeightAverage


class Adam(OptimizerFactory):
    def build(self, parameters):
        return torch.optim.Adam(list(parameters), lr=self.lr, betas=(0.9, 0.99))


class SGD(OptimizerFactory):
    def build(self, parameters):
        return torch.optim.SGD(list(parameters), lr=self.lr)


class OneProcess:
    world_size = 1


def stage_run():
    return StageRun(OneProcess(), torch.device("cpu"), torch.Generator(), 10)  # type: ignore[arg-type]


def test_only_the_updaters_own_parameters_move_or_get_gradients():
    mine, other = nn.Linear(2, 1), nn.Linear(2, 2)
    before = other.weight.detach().clone()
    updater = Updater([mine], SGD(lr=0.1), stage_run(), 10)
    updater.update(mine(other(torch.ones(3, 2))).sum(), 0)
    assert other.weight.grad is None
    assert torch.equal(other.weight, before)


def test_a_step_is_the_rate_times_schedule_times_health_cut():
    layer = nn.Linear(1, 1, bias=False)
    run = stage_run()
    run.lr_scale = 0.5
    updater = Updater([layer], SGD(lr=0.1, warmup=4), run, 10)
    start = layer.weight.item()
    updater.update(layer.weight.sum() * 3.0, 0)  # factor 1/4 at the first of four warm-up steps
    assert layer.weight.item() == pytest.approx(start - 3.0 * 0.1 * 0.25 * 0.5)


def test_the_rate_follows_steps_or_time_whichever_is_further():
    layer = nn.Linear(1, 1, bias=False)
    run = stage_run()
    updater = Updater([layer], SGD(lr=1.0, decay="linear", final=0.0), run, 101)
    for step, spent, factor in ((50, 0.2, 0.5), (50, 0.75, 0.25)):
        run.spent = spent
        start = layer.weight.item()
        updater.update(layer.weight.sum(), step)
        assert start - layer.weight.item() == pytest.approx(factor, rel=1e-2)


def regression(accumulate, rows):
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 1), torch.randn(rows, 3)
    factory = Adam(lr=0.1, accumulate=accumulate)
    return layer, x, Updater([layer], factory, stage_run(), 12, Clip(norm=0.5), average=0.5)


def test_accumulated_gradients_make_the_update_of_the_whole_batch():
    whole, x, one = regression(1, 32)
    parts, _, four = regression(4, 32)
    for step in range(3):
        norm = one.update((whole(x) - 1.0).square().mean(), step)
        for part, rows in enumerate(x.chunk(4)):
            before = parts.weight.detach().clone()
            taken = four.update((parts(rows) - 1.0).square().mean(), 4 * step + part)
            assert torch.equal(before, parts.weight) == (part < 3)
        torch.testing.assert_close(taken, norm)
        torch.testing.assert_close(parts.weight, whole.weight)
        torch.testing.assert_close(four.average.average, one.average.average)


def test_gradients_that_wait_are_saved():
    parts, x, first = regression(4, 32)
    again, _, second = regression(4, 32)
    for step in range(8):
        if step == 6:
            again.load_state_dict(parts.state_dict())
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            assert first.state_dict()["sums"]["count"] == 2
        for layer, updater in ((parts, first), (again, second))[: 1 if step < 6 else 2]:
            updater.update((layer(x.chunk(8)[step]) - 1.0).square().mean(), step)
    assert torch.equal(parts.weight, again.weight)
    assert "sums" not in first.state_dict()


def test_clip_by_norm_bounds_the_step_and_reports_the_norm_before():
    layer = nn.Linear(2, 1, bias=False)
    updater = Updater([layer], SGD(lr=1.0), stage_run(), 10, Clip(norm=0.5))
    start = layer.weight.detach().clone()
    norm = updater.update((layer.weight * torch.tensor([[3.0, 4.0]])).sum(), 0)
    assert norm.item() == pytest.approx(5.0)
    assert (layer.weight - start).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_clip_by_sigmas_clamps_each_element_by_the_second_moment():
    layer = nn.Linear(2, 1, bias=False)
    updater = Updater([layer], Adam(lr=1e-3), stage_run(), 10, Clip(sigmas=3.0, offset=0.1))
    updater.update((layer.weight * torch.tensor([[1.0, 0.1]])).sum(), 0)
    # After one step the bias-corrected second moment is the squared gradient: bounds are 3 * |g| + 0.1.
    updater.update((layer.weight * torch.tensor([[100.0, -100.0]])).sum(), 1)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[3.1, -0.4]]))


def test_a_gradient_is_laid_out_as_its_parameter():
    """Fused kernels read both in the order of memory."""
    steps = []
    for fused in (False, True):
        layer = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(6.0).view(2, 3))
        factory = Adam(lr=0.1)
        factory.build = lambda parameters, fused=fused: torch.optim.Adam(parameters, lr=0.1, fused=fused)
        updater = Updater([layer], factory, stage_run(), 10, Clip(sigmas=3.0, norm=1.0))
        for step in range(3):
            # The gradient of a transposed weight is a transposed view.
            updater.update((layer.weight.t().contiguous() * torch.arange(6.0).view(3, 2).sin()).sum(), step)
        assert layer.weight.grad.stride() == layer.weight.stride()
        steps.append(layer.weight.detach())
    torch.testing.assert_close(*steps)


def test_tied_weights_are_averaged_under_both_names():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    average = WeightAverage(network, 0.5)
    first = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.add_(1.0)
    average.update()
    for name in ("0.weight", "1.weight"):
        torch.testing.assert_close(average.average[name], first + 0.9)


def test_nothing_to_train_is_said():
    with pytest.raises(ContractError, match="nothing to train"):
        Updater([nn.ReLU()], SGD(lr=0.1), stage_run(), 1)
    with pytest.raises(ContractError, match="clip needs norm, sigmas or both"):
        Clip()


def test_weight_average_follows_its_formula_and_restores():
    network = nn.BatchNorm1d(1)
    average = WeightAverage(network, 0.5)
    assert average.average["weight"].item() == 1.0
    expected = 1.0
    for updates, value in enumerate((2.0, 3.0, 4.0)):
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(value)
        average.update()
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * value
    assert average.average["weight"].item() == pytest.approx(expected)
    assert average.average["running_mean"].item() == 4.0  # buffers are copied
    with average.applied():
        assert network.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 4.0
    restored = WeightAverage(network, 0.5)
    restored.load_state_dict(average.state_dict())
    assert restored.updates == 3
    assert torch.equal(restored.average["weight"], average.average["weight"])


def test_an_updater_averages_the_weights_it_moves_and_leaves_the_average_at_the_end():
    def updater(network, every=1):
        return Updater([network], SGD(lr=1.0), stage_run(), 10, average=0.5, average_every=every)

    networks = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    moved, other = (updater(network) for network in networks)
    with torch.no_grad():
        networks[0].weight.fill_(3.0)  # set after the updater was made, as an initialisation by data does
    expected = 3.0
    for step in range(3):  # the loss is the weight itself: each step takes 1 off
        moved.update(networks[0].weight.sum(), step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (2.0 - step)
    assert networks[0].weight.item() == 0.0
    with moved.averaged():
        assert networks[0].weight.item() == pytest.approx(expected)
    other.load_state_dict(moved.state_dict())
    for one, network in ((moved, networks[0]), (other, networks[1])):
        one.finish()
        assert network.weight.item() == pytest.approx(expected)
    rare = updater(networks[0], every=2)
    for step in range(3):
        rare.update(networks[0].weight.sum(), step)
        assert rare.average.updates == (step + 1) // 2
    fresh = updater(networks[0])
    fresh.finish()  # nothing to leave
    rare.load_state_dict(fresh.state_dict())
    assert rare.average is None
    with pytest.raises(ContractError, match=r"decay of a weight average lies in \[0, 1\), got 1.0"):
        Updater([networks[0]], SGD(lr=1.0), stage_run(), 10, average=1.0)


@pytest.mark.parametrize(
    ("decay", "final", "halfway", "last"),
    [("none", 0.0, 1.0, 1.0), ("linear", 0.1, 0.55, 0.1), ("cosine", 0.1, 0.55, 0.1), ("exponential", 0.01, 0.1, 0.01)],
)
def test_schedules_start_at_one_and_end_at_final(decay, final, halfway, last):
    factory = SGD(lr=1.0, decay=decay, final=final)
    factors = [factory.factor(step, 101) for step in range(101)]
    assert factors[0] == pytest.approx(1.0)
    assert factors[50] == pytest.approx(halfway)
    assert factors[-1] == pytest.approx(last)
    assert factors == sorted(factors, reverse=True)
