"""The residual energy: laws of its interface, the published network's numbers, initialisation by data."""

import copy
import json

import pytest
import torch
from safetensors import safe_open

from genfw.engine.run import resume, run
from genfw.errors import ContractError, DataError
from genfw.interfaces.values import Batch
from genfw.models.chains import Chain
from genfw.models.freezing import frozen_for_chain
from genfw.models.model import Model
from genfw.models.targets import DataTarget
from genfw.recipes.compose import compose
from genfw.testing import EnergySuite, StageSuite
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.resnet_energy import network
from genfw_plugins.resnet_energy.energy import PRESETS, ResNetEnergy, read_block
from genfw_plugins.resnet_energy.network import NormedConv
from genfw_plugins.resnet_energy.published import convert, read
from genfw_plugins.training.contrastive import Contrastive
from genfw_plugins.training.optimizers import Adam
from places import GOLDEN

GOLDEN = GOLDEN / "vaebm-energy-cifar10.safetensors"
SMALL = {"blocks": ["down 4", 4, 6], "norm": "weight"}


def golden():
    """The published network's values, one set or none."""
    if not GOLDEN.is_file():
        return []
    with safe_open(GOLDEN, "pt") as file:
        return [{name: file.get_tensor(name) for name in file.keys()}]  # noqa: SIM118


def part(values, prefix):
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def images(count, shape=(3, 8, 8), seed=0):
    return 2 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) - 1


class TestWeightNorm(EnergySuite):
    shape = (3, 8, 8)

    def make(self):
        return ResNetEnergy(self.shape, **SMALL)


class TestSpectralNorm(EnergySuite):
    shape = (1, 7, 9)

    def make(self):
        return ResNetEnergy(
            self.shape, blocks=["down 4", 4], norm="spectral", activation="leaky-relu", spectral_iterations=0
        )


class TestPlain(EnergySuite):
    shape = (3, 8, 8)

    def make(self):
        return ResNetEnergy(self.shape, blocks=[4], norm="none", clamp=True, input_range=(-1.0, 1.0))


class TestStageOverIt(StageSuite):
    def make_model(self):
        return Model(energy=ResNetEnergy((3, 8, 8), **SMALL), data_shape=(3, 8, 8))

    def make_stage(self, model):
        chain = Chain(Langevin(step_size=1e-2, steps=2), NoiseStart())
        return Contrastive(
            model=model, steps=4, batch=4, optimizer=Adam(), negatives=chain, space="data", penalty=0.2, average=0.9
        )


@pytest.mark.parametrize("values", golden(), ids=["vaebm-energy-cifar10"])
class TestPublishedNumbers:
    def energy(self, values, which):
        """The CIFAR-10 network with 8 channels, its numbers handed on as they are."""
        energy = ResNetEnergy((3, 32, 32), preset="cifar10", width=8 / 128, input_range=(-1.0, 1.0))
        state = convert(part(values, f"{which}."))
        missing = energy.load_state_dict(state, strict=False).missing_keys
        assert all(name.startswith("spectral.") for name in missing)
        return energy.eval()

    def test_energy_and_gradient(self, values):
        energy = self.energy(values, "state_dict")
        x = values["x"].clone().requires_grad_(True)
        result = energy(x)
        (gradient,) = torch.autograd.grad(result.sum(), x)
        torch.testing.assert_close(result, values["energy"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, values["grad_x"], rtol=1e-4, atol=1e-6)

    def test_pixels_in_our_range_are_mapped_to_theirs(self, values):
        ours = ResNetEnergy((3, 32, 32), width=8 / 128)
        ours.load_state_dict(convert(part(values, "state_dict.")), strict=False)
        x = (2 * values["x"] - 1).requires_grad_(True)
        result = ours(x)
        (gradient,) = torch.autograd.grad(result.sum(), x)
        torch.testing.assert_close(result, values["energy"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(2 * gradient, values["grad_x"], rtol=1e-4, atol=1e-6)

    def test_initialisation_by_data(self, values):
        energy = self.energy(values, "before_init")
        energy.initialised.fill_(False)
        energy.initialise(values["init_batch"])
        expected = convert(part(values, "state_dict."))
        for name, value in expected.items():
            torch.testing.assert_close(energy.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)

    def test_fresh_lengths(self, values):
        # Not initialised by data, the length is that of the direction, and a little more.
        expected = convert(part(values, "before_init."))
        conv = NormedConv(3, 8, 3, "weight")
        direction = expected["stem.parametrizations.weight.original0"]
        _, log_length = conv.parametrizations["weight"][0].right_inverse(direction)
        torch.testing.assert_close(log_length, expected["stem.parametrizations.weight.original1"])

    def test_sum_of_spectral_norms(self, values):
        energy = self.energy(values, "state_dict").train()
        for _ in range(40):
            total = energy.penalty()
        torch.testing.assert_close(total, values["spectral.sum_exact"], rtol=1e-4, atol=0)

    def test_importer_finds_it(self, values):
        file = {f"model.{name}": value for name, value in part(values, "state_dict.").items()}
        conversion = read({**file, "optimizer.state.0.exp_avg": torch.zeros(1)}, {})
        assert conversion.architecture == {"energy": {"use": "resnet", "preset": "cifar10", "width": 0.0625}}
        fresh = ResNetEnergy((3, 32, 32), preset="cifar10", width=0.0625)
        assert {name.removeprefix("energy.") for name in conversion.tensors} == {
            name for name in fresh.state_dict() if not name.startswith("spectral.")
        }


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_table_seven(preset):
    rows = {"cifar10": (6, 3, 256), "celeba64": (8, 4, 256), "lsun64": (10, 4, 256), "celebahq256": (12, 6, 512)}
    with torch.device("meta"):
        energy = ResNetEnergy((3, 64, 64), preset=preset, norm="none")
    count, halvings, features = rows[preset]
    assert len(energy.blocks) == count
    assert sum(block.down for block in energy.blocks) == halvings
    assert energy.head.in_features == features
    assert energy.stem.out_channels == PRESETS[preset][0]
    blocks = [read_block(block) for block in PRESETS[preset][1]]
    assert [(block.conv2.out_channels, block.down) for block in energy.blocks] == blocks


def test_after_initialisation_every_output_is_standardised():
    energy = ResNetEnergy((3, 8, 8), **SMALL, init_scale=0.3)
    outputs = {}
    for name, layer in energy.named_modules():
        if isinstance(layer, NormedConv):
            layer.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
    x = images(64)
    energy.initialise(x)
    energy(x)
    assert len(outputs) == 9
    for name, output in outputs.items():
        torch.testing.assert_close(output.std((0, 2, 3)), torch.full((output.shape[1],), 0.3), rtol=1e-3, atol=0)
        if not name.endswith("skip"):
            assert float(output.mean((0, 2, 3)).detach().abs().max()) < 1e-5


def test_initialised_once():
    energy = ResNetEnergy((3, 8, 8), **SMALL)
    energy.initialise(images(16))
    first = copy.deepcopy(energy.state_dict())
    energy.initialise(0.1 * images(16, seed=1))
    assert all(torch.equal(value, first[name]) for name, value in energy.state_dict().items())
    other = ResNetEnergy((3, 8, 8), **SMALL)
    other.load_state_dict(first)
    other.initialise(images(16, seed=2))
    assert torch.equal(other.stem.bias, energy.stem.bias)


def test_other_norms_are_not_initialised_by_data():
    energy = ResNetEnergy((3, 8, 8), blocks=[4], norm="spectral")
    before = copy.deepcopy(energy.state_dict())
    energy.initialise(images(8))
    assert all(torch.equal(value, before[name]) for name, value in energy.state_dict().items())


def test_stage_initialises_on_its_first_batches_and_averages_from_there():
    suite = TestStageOverIt()
    model, stage = suite._begin()
    shown = []
    stage.prepare(lambda step: shown.append(step) or Batch(images(4, seed=step), torch.arange(4)))
    assert shown == [0, 1, 2, 3, 4]
    expected = copy.deepcopy(model.energies[0])
    expected.initialised.fill_(False)
    expected.initialise(torch.cat([images(4, seed=step) for step in range(5)]))
    assert torch.equal(expected.stem.bias, model.energies[0].stem.bias)
    assert stage.updater.average is None  # it begins with the weights that the first update finds


def test_clamp_cuts_off_what_exceeds_the_range():
    energy = ResNetEnergy((3, 8, 8), **SMALL, clamp=True)
    x = images(2)
    x[:, :, 0, 0], x[:, :, 1, 1] = 3.0, -2.0
    torch.testing.assert_close(energy(x), energy(x.clamp(-1, 1)))
    free = ResNetEnergy((3, 8, 8), **SMALL)
    assert not torch.allclose(free(x), free(x.clamp(-1, 1)))


def test_spectral_norm_bounds_every_layer():
    torch.manual_seed(0)
    energy = ResNetEnergy((3, 8, 8), blocks=["down 4", 4], norm="spectral").train()
    with torch.no_grad():
        for layer in energy.modules():
            if isinstance(layer, NormedConv):
                layer.parametrizations["weight"].original.mul_(7.0)
        for _ in range(50):
            energy(images(2))
        energy.eval()
        for layer in energy.modules():
            if isinstance(layer, NormedConv):
                assert abs(float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) - 1.0) < 1e-3


def test_weights_are_normalised_once_per_chain(monkeypatch):
    energy = ResNetEnergy((3, 8, 8), **SMALL)
    target = DataTarget(Model(energy=energy, data_shape=(3, 8, 8)))
    position = images(2).flatten(1)
    plain = target.potential_and_grad(position)[1]
    calls = []
    made = network.WeightNorm.forward
    monkeypatch.setattr(network.WeightNorm, "forward", lambda *given: calls.append(1) or made(*given))
    with frozen_for_chain(*target.modules()):
        gradients = [target.potential_and_grad(position)[1] for _ in range(3)]
    assert len(calls) == 9
    for gradient in gradients:
        torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        energy.stem.log_length.add_(1.0)
    with frozen_for_chain(*target.modules()):  # another chain sees the weights as they are now
        assert not torch.allclose(target.potential_and_grad(position)[1], plain, rtol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": (4,)}, "reads images"),
        ({"blocks": ["up 4"]}, "'down 128' where it halves; got 'up 4'"),
        ({"blocks": ["down"]}, "got 'down'"),
        ({"blocks": [0]}, "got '0'"),
        ({"blocks": []}, "at least one block"),
        ({"blocks": ["down 4"] * 4}, "8x8 can't be halved 4 times"),
        ({"width": 0.0}, "above 0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        ResNetEnergy(**{"data_shape": (3, 8, 8), **arguments})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"conv1.weight": (4, 3, 3, 3)}, "0 such pairs"),
        (
            {f"{side}.{name}": (4, 1) for side in "ab" for name in ("conv1.log_weight_norm", "linear.weight")},
            "--pick: a, b",
        ),
    ],
)
def test_importer_refuses_what_is_no_energy(names, message):
    with pytest.raises(DataError, match=message):
        read({name: torch.zeros(shape) for name, shape in names.items()}, {})


def test_importer_refuses_an_unknown_list_of_blocks():
    names = {"conv1.log_weight_norm": (4, 1), "conv1.weight": (4, 3), "linear.weight": (1, 4)}
    names |= {"blocks.0.conv1.weight": (4, 4)}
    with pytest.raises(DataError, match=r"channels \[4\] after a first convolution of 4"):
        read({name: torch.zeros(shape) for name, shape in names.items()}, {})


RECIPE = """
genfw: 1
name: ebm
data: {use: digits}
energy: {use: resnet, blocks: ["down 4", 4], spectral_iterations: 2}
train:
  - use: contrastive
    space: data
    steps: 6
    batch: 8
    init_batches: 2
    penalty: 0.1
    average: 0.5
    optimizer: {use: adam, lr: 1e-3}
    negatives: {sampler: {use: langevin, step_size: 1e-3, steps: 2}, start: {use: replay, size: 20}}
sample: {count: 4, space: data, sampler: {use: langevin, step_size: 1e-3, steps: 2}}
engine: {log_every: 2, checkpoint_every: 3}
"""


def test_run_that_stops_goes_on_bit_for_bit(tmp_path):
    (tmp_path / "ebm.yaml").write_text(RECIPE)
    whole = run(tmp_path / "ebm.yaml", directory=tmp_path / "whole").directory
    part_way = run(tmp_path / "ebm.yaml", directory=tmp_path / "half").directory
    folders = sorted((part_way / "checkpoints").glob("stage0-step*"))
    assert [folder.name[-6:] for folder in folders] == ["000000", "000003", "000006"]
    for file in (*folders[2].iterdir(), folders[2]):  # as if it had been killed before its last checkpoint
        file.unlink() if file.is_file() else file.rmdir()
    (part_way / "STATUS").write_text(json.dumps({**json.loads((part_way / "STATUS").read_text()), "state": "running"}))
    resume(part_way)
    one, other = (torch_state(folder) for folder in (whole, part_way))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = torch_state(part_way, "stage0-step000000")
    fresh = compose(tmp_path / "ebm.yaml").model.state_dict()
    [(name, bias)] = [(name, value) for name, value in start.items() if name.endswith("model/energies.0.stem.bias")]
    assert not torch.equal(bias, fresh[name.rpartition("model/")[2]])  # the first state is the initialised one


def torch_state(folder, name="stage0-step000006"):
    with safe_open(folder / "checkpoints" / name / "state.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_batch_norm_sees_the_batch_in_training_alone():
    torch.manual_seed(0)
    energy = ResNetEnergy((3, 8, 8), blocks=["down 8", 8], norm="spectral", batch_norm=True)
    x = images(6)
    energy.train()
    with torch.no_grad():
        for _ in range(20):
            energy(x)
        assert not torch.allclose(energy(x)[:2], energy(x[:2]), atol=1e-3)
        energy.eval()
        torch.testing.assert_close(energy(x)[:2], energy(x[:2]), atol=1e-5, rtol=1e-5)
    assert sum(isinstance(part, torch.nn.BatchNorm2d) for part in energy.modules()) == 4


def test_batch_norm_beside_weight_norm_is_refused():
    with pytest.raises(ContractError, match="batch_norm goes with norm 'spectral' or 'none'"):
        ResNetEnergy((3, 8, 8), blocks=[8], batch_norm=True)
