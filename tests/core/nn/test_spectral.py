"""Power iteration finds the largest singular values, and its vectors survive a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from genfw.nn.spectral import SpectralPenalty


def layers():
    torch.manual_seed(0)
    return [nn.Conv2d(3, 4, 3), nn.Linear(7, 5), nn.Linear(7, 5), nn.Linear(5, 1)]


def exact(parts):
    return sum(torch.linalg.svdvals(part.weight.flatten(1))[0] for part in parts)


def test_sum_of_spectral_norms_and_its_gradient():
    parts = layers()
    penalty = SpectralPenalty(parts, warm_up=500)
    value = penalty()
    torch.testing.assert_close(value, exact(parts), rtol=1e-4, atol=1e-5)
    value.backward()
    own = [part.weight.grad.clone() for part in parts]
    for part in parts:
        part.weight.grad = None
    exact(parts).backward()
    for part, gradient in zip(parts, own, strict=True):
        torch.testing.assert_close(gradient, part.weight.grad, rtol=1e-3, atol=1e-4)


def test_layers_are_not_registered_twice():
    assert not list(SpectralPenalty(layers()).parameters())


def test_it_goes_on_from_its_state():
    parts = layers()
    penalty = SpectralPenalty(parts, iterations=1, warm_up=3)
    penalty()
    other = SpectralPenalty(parts, iterations=1, warm_up=3)
    other.load_state_dict(copy.deepcopy(penalty.state_dict()))
    assert torch.equal(other(), penalty())
    assert all(torch.equal(a, b) for a, b in zip(other.buffers(), penalty.buffers(), strict=True))


def test_eval_mode_leaves_the_vectors_alone():
    penalty = SpectralPenalty(layers(), iterations=5, warm_up=1)
    penalty()
    before = [buffer.clone() for buffer in penalty.buffers()]
    penalty.eval()
    penalty()
    assert all(torch.equal(a, b) for a, b in zip(before, penalty.buffers(), strict=True))


def test_without_layers_it_is_zero():
    assert SpectralPenalty([])().item() == 0.0


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_weight_that_was_nothing_for_a_step_is_followed_again(value):
    layer = nn.Linear(4, 3)
    penalty = SpectralPenalty([layer])
    weight = layer.weight.detach().clone()
    penalty()
    with torch.no_grad():
        layer.weight.fill_(value)
    penalty()
    with torch.no_grad():
        layer.weight.copy_(weight)
    for _ in range(20):
        found = penalty()
    torch.testing.assert_close(found, torch.linalg.matrix_norm(weight, 2))
