"""Layouts cut and join positions without losing anything; latents read flat."""

import pytest
import torch

from genfw.errors import ContractError
from genfw.interfaces.values import Batch, Latent, NoiseGroup, NoiseLayout


def test_split_cuts_a_position_whole():
    layout = NoiseLayout.of(**{"z.0": (3,), "z.1": (2, 2), "x": (1, 4, 4)})
    assert layout.size == 3 + 4 + 16
    position = torch.randn(5, layout.size)
    blocks = layout.split(position)
    assert {name: tuple(block.shape) for name, block in blocks.items()} == {
        "z.0": (5, 3),
        "z.1": (5, 2, 2),
        "x": (5, 1, 4, 4),
    }
    assert torch.equal(torch.cat([block.flatten(1) for block in blocks.values()], dim=1), position)


def test_split_gives_views_that_carry_gradients():
    layout = NoiseLayout.of(a=(2,), b=(3,))
    position = torch.randn(4, 5, requires_grad=True)
    layout.split(position)["b"].sum().backward()
    assert position.grad is not None
    assert torch.equal(position.grad, torch.tensor([0.0, 0, 1, 1, 1]).expand(4, 5))


def test_latents_come_in_order_and_the_decoders_noise_last():
    assert NoiseLayout.of_latents([(3,), (2, 2)]) == NoiseLayout.of(**{"z.0": (3,), "z.1": (2, 2)})
    assert NoiseLayout.of_latents([[3]], [1, 4, 4]) == NoiseLayout.of(**{"z.0": (3,), "x": (1, 4, 4)})


def test_wrong_positions_are_refused_with_both_shapes():
    layout = NoiseLayout.of(a=(2,))
    with pytest.raises(ContractError, match=r"shape \(B, 2\) for groups a, got \(3, 4\)"):
        layout.split(torch.zeros(3, 4))


def test_draws_are_standard_normal_and_follow_the_generator():
    layout = NoiseLayout.of(a=(4,))
    first = layout.draw(20_000, generator=torch.Generator().manual_seed(1))
    again = layout.draw(20_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert first.mean().abs() < 5 / (80_000**0.5)
    assert (first.var() - 1).abs() < 0.05


def test_groups_take_any_iterable_shape():
    assert NoiseGroup("a", [2, 3]).shape == (2, 3)  # type: ignore[arg-type]
    assert NoiseGroup("a", ()).size == 1


def test_latent_flat_concatenates_groups_in_order():
    latent = Latent((torch.ones(2, 3), torch.zeros(2, 1, 2)))
    assert latent.flat().tolist() == [[1, 1, 1, 0, 0]] * 2
    assert len(latent) == 2


def test_batch_moves_all_its_parts():
    batch = Batch(torch.zeros(2, 3), torch.arange(2), torch.ones(2)).to("meta")
    assert {batch.x.device.type, batch.index.device.type, batch.label.device.type} == {"meta"}
