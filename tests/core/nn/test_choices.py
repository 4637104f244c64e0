"""Of several ways to compute one thing the fastest is taken, once and for all."""

import json

import pytest
import torch

from genfw.engine.devices import tuned
from genfw.errors import RunError
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import PosteriorTarget
from genfw.nn import choices
from genfw.nn.choices import Choices, choosing, chosen
from genfw.training.settings import EngineSettings
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.dcgan.decoder import DCGANDecoder
from genfw_plugins.resnet_energy.energy import ResNetEnergy


class Clock:
    """A clock that moves by what the ways say that they take."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(choices.time, "process_time", lambda: self.now)

    def way(self, name, seconds):
        def make():
            def function(h):
                self.calls.append(name)
                self.now += seconds
                return h + 1, lambda g: g

            return function

        return make

    def ways(self, **seconds):
        return {name: self.way(name, each) for name, each in seconds.items()}


def test_outside_of_a_block_the_rule_decides_and_nothing_is_timed(monkeypatch):
    clock = Clock(monkeypatch)
    chosen("work", clock.ways(slow=2.0, fast=1.0), "slow")(torch.zeros(3))
    assert clock.calls == ["slow"]


def test_a_rule_may_look_at_the_input(monkeypatch):
    clock = Clock(monkeypatch)
    function = chosen("work", clock.ways(one=2.0, many=1.0), lambda h: "many" if len(h) > 1 else "one")
    for rows in (1, 2, 1):
        function(torch.zeros(rows))
    assert clock.calls == ["one", "many", "one"]


def test_the_fastest_is_timed_once_for_each_shape_and_dtype(monkeypatch):
    clock, kept = Clock(monkeypatch), []
    with choosing(Choices(keep=lambda table: kept.append(dict(table)))):
        function = chosen("work", clock.ways(slow=2.0, fast=1.0), "slow")
        out, pullback = function(torch.zeros(3))
        assert clock.calls == ["slow", "fast"] * 4 + ["fast"]
        function(torch.zeros(3))
        assert clock.calls[8:] == ["fast", "fast"]
        function(torch.zeros(2, dtype=torch.float64))
        assert len(clock.calls) == 10 + 9
    assert torch.equal(out, torch.ones(3))
    assert torch.equal(pullback(out), out)
    assert kept[-1] == {"work, input 3 float32": "fast", "work, input 2 float64": "fast"}


def test_what_was_chosen_before_is_taken_whatever_the_clock_says(monkeypatch):
    clock = Clock(monkeypatch)
    with choosing(Choices({"work, input 3 float32": "slow"})):
        chosen("work", clock.ways(slow=2.0, fast=1.0), "fast")(torch.zeros(3))
    assert clock.calls == ["slow"]
    with choosing(Choices({"work, input 3 float32": "gone"}, times=False)):
        chosen("work", clock.ways(slow=2.0, fast=1.0), "fast")(torch.zeros(3))
    assert clock.calls == ["slow", "fast"]


def targets():
    torch.manual_seed(0)
    prior = StandardNormal(5)
    layout = Model(prior).latent_layout
    decoder = DCGANDecoder((3, 16, 16), layout, width=2, start=4, factors=(2, 1), last="up")
    energy = ResNetEnergy((3, 16, 16), blocks=["down 4", 4])
    posterior = PosteriorTarget(Model(prior, decoder), torch.rand(2, 3, 16, 16))
    model = Model(prior, DCGANDecoder((3, 16, 16), layout, width=2, start=4, factors=(2, 1), last="up"), energy=energy)
    return posterior, model


@pytest.mark.parametrize("take", [min, max])
def test_every_way_of_the_decoder_and_the_energy_gives_the_same(monkeypatch, take):
    posterior, model = targets()
    position, x = torch.randn(2, 5), torch.rand(2, 3, 16, 16)
    with frozen_for_chain(*posterior.modules(), model), torch.no_grad():
        expected = [*posterior.potential_and_grad(position), *model.energies[0].value_and_grad(x)]
    monkeypatch.setattr(choices, "_fastest", lambda ways, h: take(ways))
    made = Choices()
    with choosing(made), frozen_for_chain(*posterior.modules(), model), torch.no_grad():
        found = [*posterior.potential_and_grad(position), *model.energies[0].value_and_grad(x)]
    assert set(made.table.values()) <= {"plain", "winograd", "products", "shares"}
    assert len(made.table) >= 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_run_keeps_its_choices_and_a_resumed_one_goes_on_with_them(tmp_path, monkeypatch):
    clock, settings = Clock(monkeypatch), EngineSettings(accelerator="cpu", tune=True)
    for expected in (9, 1):  # timed in the first block, known in the second
        with tuned(settings, folder=tmp_path):
            chosen("work", clock.ways(slow=2.0, fast=1.0), "slow")(torch.zeros(3))
        assert len(clock.calls) == expected
        clock.calls.clear()
    assert json.loads((tmp_path / "choices.json").read_text()) == {"work, input 3 float32": "fast"}


def test_several_processes_and_deterministic_runs_time_nothing(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    for settings, more in (
        (EngineSettings(accelerator="cpu", tune=True, devices=2), {"folder": tmp_path}),
        (EngineSettings(accelerator="cpu", tune=True), {"folder": tmp_path, "alone": False}),
        (EngineSettings(accelerator="cpu", tune=True, deterministic=True), {"folder": tmp_path}),
        (EngineSettings(accelerator="cpu", tune=True), {}),
        (EngineSettings(accelerator="cpu"), {"folder": tmp_path}),
    ):
        with tuned(settings, **more):
            chosen("work", clock.ways(slow=2.0, fast=1.0), "slow")(torch.zeros(3))
    assert clock.calls == ["slow"] * 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"work": 3}'])
def test_damaged_choices_are_refused(tmp_path, text):
    (tmp_path / "choices.json").write_text(text)
    with (
        pytest.raises(RunError, match=r"choices.json is damaged; without it, a resumed run times again"),
        tuned(EngineSettings(accelerator="cpu", tune=True), folder=tmp_path),
    ):
        pass
