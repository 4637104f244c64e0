"""Batch norms over two processes, against torch's own over the whole batch in one; and runs that train them."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from batch_norm_process import ROWS, SHARES, far_away, measure, network, process, rows
from genfw.engine import run as engine
from genfw.nn.batch_norm import synchronised
from genfw.runs.checkpoints import Checkpoints
from ports import free_port
from run_toys import assert_same


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    torch.multiprocessing.spawn(process, (free_port(), folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def whole():
    return {name: measure(network(dtype), rows(dtype), ROWS) for name, dtype in DTYPES.items()}


DTYPES = {"double": torch.float64, "single": torch.float32}
TOLERANCE = {"double": 1e-12, "single": 1e-5}


def apart(one, two):
    """Largest difference, as a share of the largest gradient or statistic."""
    assert [a is None for a in one] == [b is None for b in two]
    pairs = [(a.double(), b.double()) for a, b in zip(one, two, strict=True) if a is not None]
    assert len(pairs) > 10
    return float(max((a - b).abs().max() for a, b in pairs) / max(a.abs().max() for a, _ in pairs))


def together(pair, key, what):
    """Rows of both processes one after the other; parameters' gradients added up."""
    first, second = (found[key][what] for found in pair)
    added = [None if one is None else one + other for one, other in zip(first[1:], second[1:], strict=True)]
    return [torch.cat([first[0], second[0]]), *added]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("what", ["gradients", "slope gradients"])
def test_gradients_are_those_of_the_whole_batch(pair, whole, name, share, what):
    assert apart(whole[name][what], together(pair, (name, share), what)) < TOLERANCE[name]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", DTYPES)
def test_running_statistics_are_those_of_the_whole_batch_and_the_same_bits_everywhere(pair, whole, name, share):
    first, second = (found[name, share]["buffers"] for found in pair)
    assert first.keys() == whole[name]["buffers"].keys()
    for key, value in whole[name]["buffers"].items():
        torch.testing.assert_close(first[key], value, rtol=TOLERANCE[name], atol=TOLERANCE[name])
        assert torch.equal(first[key], second[key])


def test_without_it_each_process_goes_by_its_own_rows(pair, whole):
    assert apart(whole["single"]["gradients"], together(pair, "off", "gradients")) > 0.05
    first, second = (found["off"]["buffers"] for found in pair)
    assert float((first["first.1.running_mean"] - second["first.1.running_mean"]).abs().max()) > 0.1


def test_the_variance_of_values_far_from_zero_is_kept(pair):
    one = far_away(nn.BatchNorm2d(2).double(), rows(torch.float32).double())
    found = [each["far"] for each in pair]
    # float32 knows values of that size to a thousandth, and so their deviations.
    torch.testing.assert_close(torch.cat([each["y"] for each in found]).double(), one["y"], rtol=0.0, atol=5e-3)
    for each in found:
        torch.testing.assert_close(each["variance"].double(), one["variance"], rtol=1e-3, atol=0.0)
        torch.testing.assert_close(each["mean"].double(), one["mean"], rtol=1e-6, atol=0.0)


def test_half_precision_is_summed_in_single(pair):
    layer = nn.BatchNorm2d(2)
    y = layer(rows(torch.float32).bfloat16().float())
    torch.testing.assert_close(torch.cat([each["half precision"][0] for each in pair]), y, rtol=1e-2, atol=1e-2)
    for each in pair:
        torch.testing.assert_close(each["half precision"][1], layer.running_var, rtol=1e-5, atol=1e-6)


def test_nobody_waits_in_eval_mode_alone_or_outside(pair):
    first, second = (each["kept apart"] for each in pair)
    for key, value in first["alike"].items():
        assert torch.equal(first["buffers"][key], value)
        assert torch.equal(second["buffers"][key], value)
        assert torch.equal(first["copy"][key], second["copy"][key])
    counts = [each["first.1.num_batches_tracked"] for each in (first["buffers"], first["copy"])]
    assert [int(count) for count in counts] == [3, 2]


def test_one_process_keeps_torchs_own_layers():
    net, other = network(torch.float32), network(torch.float32)
    x = rows(torch.float32)
    with synchronised(net):
        assert not any("forward" in vars(layer) for layer in net.modules())
        y = net(x)
    assert torch.equal(y, other(x))
    assert [*net.state_dict()] == [*other.state_dict()]


def test_parametrised_layers_are_still_themselves(pair, monkeypatch):
    """A weight made of another parameter changes the layer's class, not what it inherits."""
    layer = nn.BatchNorm1d(2)
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    monkeypatch.setattr("genfw.nn.batch_norm._world", lambda: 2)
    with synchronised(layer):
        assert isinstance(layer, nn.BatchNorm1d)
        assert "forward" in vars(layer)
        assert "parametrizations.weight.original" in layer.state_dict()
    assert "forward" not in vars(layer)


# -- runs -------------------------------------------------------------------------------------------------------------

PLUGIN = '''
"""A stage without randomness of its own, and a network with batch norms for it."""

import torch
from torch import nn

from genfw.plugins.component import Component
from genfw.plugins.hookspecs import hookimpl
from genfw.interfaces import Energy, OptimizerFactory, Stage
from genfw.models.model import Model
from genfw.training.updater import Updater
from genfw.interfaces.values import Size


@hookimpl
def genfw_components():
    return [
        Component("stage", "fit", f"{__name__}:Fit", "least squares of an energy"),
        Component("energy", "normed", f"{__name__}:Normed", "a network with batch norms"),
    ]


class Normed(Energy):
    """Two batch norms, the second one of numbers that the first has mixed."""

    def __init__(self, data_shape: Size) -> None:
        super().__init__()
        sizes = [(data_shape[0], 8), (8, 8)]
        layers = [part for a, b in sizes for part in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.SiLU())]
        self.body = nn.Sequential(*layers, nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)[:, 0]


class Fit(Stage):
    """Fit the energy to the squared length of its points, and its slope to their length."""

    def __init__(self, model: Model, steps: int, batch: int, optimizer: OptimizerFactory) -> None:
        self.model, self.steps, self.batch, self.optimizer = model, steps, batch, optimizer

    def setup(self) -> None:
        self.updater = Updater([self.model.energies], self.optimizer, self.run, self.steps)
        self.register("updater", self.updater)

    def step(self, batch, step):
        x = batch.x.requires_grad_(True)
        energy = self.model.data_energy(x)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        loss = (energy - x.square().sum(1)).square().mean() + (slope.norm(dim=1) - x.norm(dim=1)).square().mean()
        return {"loss": loss.detach(), "gradient": self.updater.update(loss, step)}
'''

RECIPE = """
genfw: 1
name: normed
plugins: [./normed.py]
data: {use: gaussian-grid}
energy: {use: normed}
train: [{use: fit, steps: 12, batch: 16, optimizer: {use: adam, lr: 1e-2}}]
engine: {accelerator: cpu, precision: 64-true, log_every: 4, checkpoint_every: 5}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train, and give every process's state at the end."""
    folder = tmp_path_factory.mktemp("normed")
    (folder / "normed.py").write_text(PLUGIN)
    (folder / "normed.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_conclude", lambda *_: [])
        patch.setenv("OMP_NUM_THREADS", "1")

        def train(*sets):
            path = engine.run(folder / "normed.yaml", root=folder, sets=sets).directory
            store = Checkpoints(path / "checkpoints")
            last = store.find("best")
            world = json.loads((last.path / "checkpoint.json").read_text())["world"]
            return [store.load(last, rank=rank) for rank in range(world)]

        yield train


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one_with_the_whole_batch(trained):
    (one,) = trained()
    first, second = trained("engine.devices=2")
    assert_same(first["model"], second["model"])
    assert_same(first["stage"], second["stage"])
    assert first["model"].keys() == one["model"].keys()
    assert sum("running" in name for name in one["model"]) == 4
    for name, value in one["model"].items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_recipe_may_leave_each_process_to_its_own_rows(trained):
    first, second = trained("engine.devices=2", "engine.sync_batch_norm=false")
    names = [name for name in first["model"] if "running" in name]
    assert len(names) == 4
    for name in names:
        assert not torch.allclose(first["model"][name], second["model"][name], rtol=1e-5, atol=1e-5), name
