"""Recorded and replayed, chains are bit for bit what they are step by step: other starts, data, weights and noise."""

import logging

import pytest
import torch

from chain_cases import KERNELS, generator, lebm
from genfw.models import recording
from genfw.models.chains import run_chain
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.recording import CudaGraph, Recordings, recorded
from genfw.models.targets import FunctionTarget, NoiseTarget, PosteriorTarget, PriorTarget
from genfw.plugins import load_plugins
from genfw_plugins.resnet_energy.energy import ResNetEnergy
from nvae_parts import small_prior
from recorded_operations import Operations


def vaebm():
    from genfw_plugins.nvae.decoder import NVAEDecoder

    torch.manual_seed(0)
    prior = small_prior((3, 8, 8))
    return Model(prior, NVAEDecoder(prior, postprocess_cells=1), energy=ResNetEnergy((3, 8, 8), blocks=["down 4", 4]))


MODELS = {
    "lebm-prior": (lebm, lambda model, x: PriorTarget(model)),
    "damc-posterior": (lebm, PosteriorTarget),
    "vaebm": (vaebm, lambda model, x: NoiseTarget(model)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_replayed_is_bitwise_what_step_by_step_is(name, kernel):
    make, target_of = MODELS[name]
    model = make()
    recordings = Recordings(Operations, fits=lambda device: True)
    mine, plain = KERNELS[kernel](), KERNELS[kernel]()
    noise, again = generator(1), generator(1)
    layout = target_of(model, torch.zeros(2, 3, 8, 8)).layout
    for round in range(4):
        x = torch.rand(2, 3, 8, 8, generator=generator(10 + round))
        start = layout.draw(2, generator=generator(20 + round))
        with recorded(recordings):
            found = run_chain(target_of(model, x), mine, start, generator=noise, keep_every=2)
        expected = run_chain(target_of(model, x), plain, start, generator=again, keep_every=2)
        for field in ("position", "potential", "acceptance", "start", "trace", "potentials"):
            assert torch.equal(getattr(found, field), getattr(expected, field)), (round, field)
        assert found.kept == expected.kept
        assert torch.equal(noise.get_state(), again.get_state())
        state, other = mine.state_dict(), plain.state_dict()
        assert state.keys() == other.keys()
        for key in other.keys() & {"log_step", "updates"}:
            assert torch.equal(state[key], other[key])
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.01)
    assert recordings.replays >= 2  # adapted step sizes are there from the second chain on


def test_other_shapes_and_steps_are_chains_of_their_own():
    model = lebm()
    recordings, kernel = Recordings(Operations, fits=lambda device: True), KERNELS["langevin"]()
    with recorded(recordings):
        for count, steps in ((2, 3), (2, 3), (4, 3), (2, 4), (2, 3)):
            target = PriorTarget(model)
            start = target.draw_base(count, generator(count))
            found = run_chain(target, kernel, start, generator=generator(7), steps=steps)
            with recorded(None):
                expected = run_chain(target, kernel, start, generator=generator(7), steps=steps)
            assert torch.equal(found.position, expected.position)
    assert recordings.replays == 2


def test_what_cannot_be_recorded_runs_step_by_step(caplog):
    model, kernel = lebm(), KERNELS["langevin"]()
    energy = model.energies[0]
    energy.value_and_grad = lambda v: (energy(v).detach() * float(v.sum().isfinite()), torch.zeros_like(v))
    recordings = Recordings(Operations, fits=lambda device: True)
    target = PriorTarget(model)
    start = target.draw_base(2, generator(0))
    with recorded(recordings), caplog.at_level(logging.WARNING, "genfw"):
        results = [run_chain(target, kernel, start, generator=generator(7)).position for _ in range(4)]
        assert all(torch.equal(results[0], other) for other in results)
        # Nor does a target that does not say what it reads, or a chain within prepared weights.
        for _ in range(3):
            run_chain(FunctionTarget(5, lambda v: v.sum(1)), kernel, start, generator=generator(7))
            with frozen_for_chain(*target.modules()):
                run_chain(target, kernel, start, generator=generator(7))
    assert recordings.replays == 0
    assert [record.message for record in caplog.records] == [
        "genfw: a chain could not be recorded and is run step by step: the host waits for the device in a recording "
        "(aten._local_scalar_dense.default)"
    ]


def test_recordings_are_of_cuda_alone_and_end_with_their_block():
    assert recording.recorded.value is None
    with recorded(Recordings()):
        assert recording.recorded.value is not None
        target, kernel = PriorTarget(lebm()), KERNELS["langevin"]()
        for _ in range(3):
            run_chain(target, kernel, target.draw_base(2, generator(0)), generator=generator(1))
        assert recording.recorded.value.replays == 0
    assert recording.recorded.value is None
    assert CudaGraph.record


def test_every_kernel_says_whether_it_can_be_recorded():
    names = {each.name for each in load_plugins(enabled=False).components if each.kind == "sampler"}
    assert names == KERNELS.keys()
    assert all(make().recordable for make in KERNELS.values())
