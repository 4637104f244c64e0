"""Ways between samples: great circles with known points, barriers and steps."""

import math

import pytest
import torch

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.interfaces import Decoder, Energy
from genfw.interfaces.likelihood import Deterministic
from genfw.interfaces.values import NoiseLayout
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.testing import MetricSuite
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.metrics.samples.interpolation import Interpolation, on_sphere


class Plain(Decoder):
    noise_shape = None

    def forward(self, latent):
        return Deterministic(latent.flat())


class Switch(Plain):
    """An image that is black on one side of the diagonal and white on the other."""

    def forward(self, latent):
        z = latent.flat()
        return Deterministic(torch.sign(z[:, 0] - z[:, 1] + 0.01)[:, None, None, None].expand(-1, 1, 2, 2))


class Saddle(Energy):
    on = "latent"

    def forward(self, v):
        return 3.0 * v[:, 0] * v[:, 1]


def ways(tmp_path, positions, decoder, points=9, **settings):
    evaluation = Evaluation(
        Model(StandardNormal(2), decoder, energy=Saddle()), None, SampleSettings(**settings), tmp_path
    )
    samples = evaluation.samples(len(positions))
    object.__setattr__(samples, "position", torch.tensor(positions))
    results = Interpolation(pairs=len(positions) // 2, points=points).compute(evaluation)
    return {result.name: result for result in results}


def test_a_quarter_circle_climbs_what_the_energy_does_at_its_middle(tmp_path):
    # E = 3 xy is 0 at the ends; at the middles, with radius 2 and 1, it is 3 * 2 and 3 * 0.5.
    found = ways(tmp_path, [[2.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0]], Plain())
    assert found["interpolation-barrier"].value == pytest.approx((6.0 + 1.5) / 2, rel=1e-5)
    assert found["interpolation-barrier"].error == pytest.approx((6.0 - 1.5) / 2, rel=1e-5)
    assert found["interpolation-jump"].value == pytest.approx(1.0, rel=1e-5)


def test_a_way_down_and_up_has_no_barrier(tmp_path):
    found = ways(tmp_path, [[2.0, 0.0], [0.0, -2.0]], Plain())
    assert found["interpolation-barrier"].value == pytest.approx(0.0, abs=1e-5)
    assert found["interpolation-barrier"].error is None


def test_a_slope_is_no_barrier(tmp_path):
    # On a circle of radius 1 from angle -45 to 45 degrees, 3 xy = 1.5 sin 2a runs from -1.5 to 1.5 through 0.
    side = math.sqrt(0.5)
    found = ways(tmp_path, [[side, -side], [side, side]], Plain(), points=201)
    angle = torch.linspace(-1, 1, 201, dtype=torch.float64)
    expected = float((1.5 * (angle * math.pi / 2).sin() - 1.5 * angle).max())
    assert found["interpolation-barrier"].value == pytest.approx(expected, rel=1e-4)
    assert expected < 0.4


def test_a_decoder_that_switches_jumps_once(tmp_path):
    found = ways(tmp_path, [[2.0, 0.0], [0.0, 2.0]], Switch())
    assert found["interpolation-jump"].value == pytest.approx(8.0)
    (figure,) = found["interpolation-barrier"].figures
    assert (tmp_path / figure.path).is_file()
    same = ways(tmp_path, [[2.0, 0.0], [2.0, 0.0]], Switch())
    assert (same["interpolation-jump"].value, same["interpolation-barrier"].value) == (1.0, 0.0)


def test_the_protocol_is_that_of_the_ways(tmp_path):
    protocol = ways(tmp_path, [[2.0, 0.0], [0.0, 2.0]], Plain(), points=5)["interpolation-jump"].protocol
    assert (protocol["pairs"], protocol["points"], protocol["decoder"], protocol["samples"]) == (1, 5, "mean", 2)


def test_norms_go_evenly_angles_too_and_ends_are_exact():
    layout = NoiseLayout.of(a=(3,), b=(2,))
    generator = torch.Generator().manual_seed(0)
    first, last = (torch.randn(20, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    found = on_sphere(layout, first, last, 7)
    torch.testing.assert_close(found[:, 0], first)
    torch.testing.assert_close(found[:, -1], last)
    for part in (slice(0, 3), slice(3, 5)):
        norm = found[..., part].norm(dim=-1)
        torch.testing.assert_close(norm[:, 1:] - norm[:, :-1], ((norm[:, -1] - norm[:, 0]) / 6)[:, None].expand(-1, 6))
        unit = found[..., part] / norm[..., None]
        angle = (unit[:, 1:] * unit[:, :-1]).sum(-1).clamp(-1, 1).acos()
        torch.testing.assert_close(angle, angle.mean(1, keepdim=True).expand(-1, 6), rtol=1e-6, atol=1e-9)
    # Negative control: the middle of the straight line is too short for a draw in many dimensions.
    wide = NoiseLayout.of(a=(400,))
    first, last = (torch.randn(1, 400, generator=generator) for _ in range(2))
    assert float(on_sphere(wide, first, last, 3)[0, 1].norm()) == pytest.approx(20, rel=0.1)
    assert float(((first + last) / 2).norm()) == pytest.approx(20 / math.sqrt(2), rel=0.1)


def test_opposite_and_vanishing_ends_stay_finite():
    layout = NoiseLayout.of(a=(2,))
    first, last = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 3.0]])
    found = on_sphere(layout, first, last, 5)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, [0, -1]], torch.stack([first, last], 1))


def test_bad_settings_and_spaces_are_refused(tmp_path):
    with pytest.raises(ContractError, match="points must be at least 3, got 2"):
        Interpolation(pairs=1, points=2, show=0)
    data = Evaluation(
        Model(energy=type("OnData", (Saddle,), {"on": "data"})(), data_shape=(2,)),
        None,
        SampleSettings(space="data"),
        tmp_path,
    )
    with pytest.raises(ContractError, match=r"sample.space 'data' are data"):
        Interpolation(pairs=1).compute(data)


class TestInterpolation(MetricSuite):
    def make(self):
        return Interpolation(pairs=3, points=4)
