"""Reconstruction, speed, grids and chain diagnostics, on models whose answers are known."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from genfw.errors import ContractError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure
from genfw.interfaces import Dataset, Decoder, Encoder, Energy, Posterior, Sampler, Split, Start
from genfw.interfaces.likelihood import Gaussian
from genfw.interfaces.sampler import Info
from genfw.interfaces.values import Latent
from genfw.models.chains import Chain
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.runs.directory import RunDirectory
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.mcmc.starts.noise import NoiseStart
from genfw_plugins.metrics.chains.chain_diagnostics import ChainDiagnostics
from genfw_plugins.metrics.samples.reconstruction import Reconstruction
from genfw_plugins.metrics.samples.sample_grid import SampleGrid
from genfw_plugins.metrics.samples.sampling_speed import SamplingSpeed
from genfw_plugins.metrics.samples.training_cost import TrainingCost

SHAPE = (1, 4, 4)
SIGMA = 0.1


class Identity(Decoder):
    noise_shape = SHAPE

    def forward(self, latent):
        return Gaussian(latent.flat().unflatten(1, SHAPE), SIGMA)


class Off(Encoder):
    """Puts z at x + offset + spread * noise: the squared error is known."""

    offset, spread = 0.3, 0.2

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        noise = torch.randn(len(x), 16, generator=generator) if noise is None else noise
        z = x.flatten(1) + self.offset + temperature * self.spread * noise
        zero = torch.zeros(len(x))
        return Posterior(Latent((z,)), z, zero, zero, zero[:, None])


class Level(Energy):
    def forward(self, v):
        return 0.5 * v.flatten(1).square().sum(1)


class Wells(Energy):
    """Two deep wells in the first coordinate, far apart."""

    on = "latent"

    def forward(self, v):
        return 20.0 * (v[:, 0].abs() - 2.0).square()


class Images(Dataset, Split):
    data_shape = SHAPE

    def __init__(self, rows=300):
        self.x = 0.5 * torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(0))

    def split(self, name):
        return self

    def __len__(self):
        return len(self.x)

    def get(self, index, *, generator=None):
        return self.x[index], None


def evaluation(tmp_path, model, **settings):
    return Evaluation(model, Images(), SampleSettings(**settings), tmp_path, seed=1)


def take(metric, *arguments, **settings):
    return {result.name: result for result in metric.compute(evaluation(*arguments, **settings))}


def test_reconstruction_by_the_encoder(tmp_path):
    model = Model(StandardNormal(16), Identity(), Off())
    results = take(Reconstruction(batch=70), tmp_path, model)
    expected = Off.offset**2 + Off.spread**2
    assert abs(results["mse"].value - expected) < 4 * results["mse"].error
    assert results["mse-item"].value == pytest.approx(16 * results["mse"].value)
    assert results["mse"].protocol["range"] == "the data's own"
    centre = take(Reconstruction(temperature=0.0), tmp_path, model)
    assert centre["mse"].value == pytest.approx(Off.offset**2, rel=1e-5)


def test_reconstruction_by_posterior_chains(tmp_path):
    # p(z|x) is N(x / (1 + s^2), s^2 / (1 + s^2)) here; its draws miss x by the variance, and by the shrinkage squared.
    sampler = Langevin(step_size=2e-3, steps=60)
    chain = Chain(sampler, NoiseStart())
    results = take(Reconstruction(count=200, chain=chain, batch=80), tmp_path, Model(StandardNormal(16), Identity()))
    variance, shrinkage = SIGMA**2 / (1 + SIGMA**2), SIGMA**2 / (1 + SIGMA**2)
    expected = variance + shrinkage**2 * 0.25
    assert results["mse"].value == pytest.approx(expected, rel=0.25)
    protocol = results["mse"].protocol
    assert (protocol["latent"], protocol["chain_steps"], protocol["count"]) == ("posterior chain", 60, 200)
    assert "step_size=0.002" in protocol["sampler"]


def test_reconstruction_without_means_says_so(tmp_path):
    with pytest.raises(ContractError, match="needs an encoder, or a posterior chain"):
        take(Reconstruction(), tmp_path, Model(StandardNormal(16), Identity()))


def test_speed_of_generator_and_chain(tmp_path):
    metric = SamplingSpeed(repeats=2)
    chained = take(
        metric,
        tmp_path,
        Model(StandardNormal(16), Identity(), energy=Level()),
        batch=20,
        sampler=Langevin(step_size=0.01, steps=30),
    )
    assert chained["chain-cost"].value > 1.0
    product = chained["samples-per-second"].value * chained["seconds-per-batch"].value
    assert product == pytest.approx(20)
    assert {"threads", "hardware", "cores", "repeats"} <= chained["chain-cost"].protocol.keys()
    plain = take(metric, tmp_path, Model(StandardNormal(16), Identity()), batch=20)
    assert set(plain) == {"samples-per-second", "seconds-per-batch"}


def test_speed_of_posterior_chains_and_what_a_model_costs(tmp_path):
    model = Model(StandardNormal(16), Identity(), energy=Level())
    chain = Chain(Langevin(step_size=0.01, steps=3), NoiseStart())
    results = take(SamplingSpeed(repeats=1, posterior=chain), tmp_path, model, batch=20)
    posterior = results["posterior-seconds-per-batch"]
    assert posterior.value > 0
    assert (posterior.protocol["chain_steps"], posterior.protocol["items"]) == (3, 20)


def test_training_cost_counts_parameters_and_the_time_of_an_epoch(tmp_path):
    amortizer = torch.nn.Linear(3, 4)  # 16 parameters
    amortizer.encoder = torch.nn.Linear(5, 2)  # 12, which describe images
    decoder = Identity()
    decoder.weights = torch.nn.Linear(7, 4)  # 32
    model = Model(StandardNormal(16), decoder)
    model.amortizer = amortizer
    run = RunDirectory(tmp_path)
    for step, seconds in ((10, 100.0), (20, 160.0)):
        run.append_metrics({"stage": 1, "name": "alternating", "step": step, "time": seconds})
    measured = Evaluation(model, Images(), SampleSettings(), tmp_path, recipe={"train": [{"batch": 9}, {"batch": 4}]})
    results = {result.name: result for result in TrainingCost().compute(measured)}
    assert results["parameters"].value == 16 + 12 + 32
    assert results["amortizer-share"].value == pytest.approx(50.0)
    images = len(measured.data.split("train"))
    assert results["minutes-per-epoch"].value == pytest.approx(0.1 * images / 4)
    bare = {
        result.name
        for result in TrainingCost().compute(evaluation(tmp_path / "new", Model(StandardNormal(16), Identity())))
    }
    assert bare == {"parameters"}


def test_grids_of_samples_and_data_have_one_range(tmp_path):
    (result,) = SampleGrid(count=9).compute(evaluation(tmp_path, Model(StandardNormal(16), Identity())))
    assert [figure.path for figure in result.figures] == ["samples/model.png", "samples/data.png"]
    assert [figure.shows_data for figure in result.figures] == [False, True]
    assert result.value is None
    data = imread(tmp_path / "samples/data.png")
    rows = evaluation(tmp_path, Model(StandardNormal(16), Identity())).rows("test", 9).x
    expected = ((rows[0, 0, 0, 0].clamp(-1, 1) + 1) * 127.5).round() / 255
    assert data[3, 3, 0] == pytest.approx(float(expected), abs=1e-6)


def test_chains_that_mix(tmp_path):
    model = Model(StandardNormal(16), Identity(), energy=Wells())
    model.energies[0].forward = lambda v: 0.1 * v.square().sum(1)
    metric = ChainDiagnostics(chains=16, steps=400, coordinates=4)
    results = take(metric, tmp_path, model, sampler=MALA(step_size=0.3, steps=10), space="prior")
    assert results["r-hat"].value < 1.05
    assert 50 < results["ess-bulk"].value <= 16 * 200 * 4
    assert 0.3 < results["acceptance"].value <= 1.0
    assert results["r-hat"].protocol["quantities"] == 5
    assert results["r-hat"].protocol["chain_steps"] == 400


def test_chains_that_are_trapped_are_called_out(tmp_path):
    model = Model(StandardNormal(16), Identity(), energy=Wells())
    metric = ChainDiagnostics(chains=16, steps=1500, coordinates=3)
    sampler = MALA(step_size=0.01, steps=10)
    results = take(metric, tmp_path, model, sampler=sampler, space="prior")
    assert results["r-hat"].value > 1.3
    assert "coordinate 0" in results["r-hat"].note
    figures = [figure.path for figure in results["r-hat"].figures]
    assert figures == ["figures/energy-trace.png", "figures/chain.png"]
    assert all((tmp_path / path).stat().st_size > 500 for path in figures)


class State(NamedTuple):
    position: torch.Tensor
    potential: torch.Tensor


class Still(Sampler):
    """Moves only the first ``moving`` chains."""

    def __init__(self, moving=0):
        self.steps, self.moving = 10, moving

    def init(self, target, position, generator):
        return State(position, target.potential(position))

    def step(self, target, state, generator):
        position = state.position.clone()
        position[: self.moving].normal_(generator=generator)
        moved = torch.arange(len(position)) < self.moving
        return self.init(target, position, generator), Info(moved.float(), moved)


class Together(Start):
    def draw(self, request):
        return torch.full((request.count, request.target.layout.size), 0.1)


@pytest.mark.parametrize("start", ["apart", "together"])
def test_chains_that_never_move_are_called_out(tmp_path, start):
    begin = NoiseStart() if start == "apart" else Together()
    metric = ChainDiagnostics(chains=4, steps=40, coordinates=2, show=0)
    setup = evaluation(tmp_path, Model(StandardNormal(16), Identity()), sampler=Still(), start=begin, space="prior")
    results = {result.name: result for result in measure(setup, [("chain-diagnostics", metric)])}
    assert results["r-hat"].value is None
    assert "4 of 4 chains never moved. In 3 of 3 quantities no chain moved. The value is inf." in results["r-hat"].note
    assert "In 3 of 3 quantities no chain moved." in results["ess-bulk"].note
    if start == "together":
        assert results["ess-bulk"].value is None
    else:
        assert results["ess-bulk"].value < 10  # of 84 draws


def test_some_chains_that_never_move_are_counted(tmp_path):
    metric = ChainDiagnostics(chains=8, steps=100, coordinates=2, show=0)
    results = take(metric, tmp_path, Model(StandardNormal(16), Identity()), sampler=Still(moving=6), space="prior")
    assert 1.1 < results["r-hat"].value < 100
    assert results["r-hat"].note.endswith("2 of 8 chains never moved.")


def test_a_chain_that_diverged_is_not_passed_over(tmp_path):
    model = Model(StandardNormal(16), Identity(), energy=Wells())
    metric = ChainDiagnostics(chains=4, steps=40, coordinates=2, show=0)
    sampler = Langevin(step_size=1e6, steps=10)
    results = take(metric, tmp_path, model, sampler=sampler, space="prior")
    assert math.isnan(results["r-hat"].value)
    assert "3 of 3 quantities are not finite." in results["r-hat"].note


def test_diagnostics_leave_an_adapting_kernel_alone(tmp_path):
    sampler = MALA(step_size=0.01, steps=10)
    before = str(sampler.state_dict())
    model = Model(StandardNormal(16), Identity(), energy=Wells())
    take(ChainDiagnostics(chains=4, steps=40, show=0), tmp_path, model, sampler=sampler, space="prior")
    assert str(sampler.state_dict()) == before


def test_without_a_chain_there_is_nothing_to_diagnose(tmp_path):
    results = take(ChainDiagnostics(), tmp_path, Model(StandardNormal(16), Identity()))
    assert results["r-hat"].value is None
    assert results["r-hat"].note == "The recipe samples without a chain."


def test_metrics_in_a_row_share_nothing_but_samples(tmp_path):
    model = Model(StandardNormal(16), Identity(), Off(), Level())
    settings = {"batch": 10, "sampler": Langevin(step_size=0.01, steps=5)}
    metrics = [("reconstruction", Reconstruction(count=20)), ("sample-grid", SampleGrid(count=4))]
    forwards = measure(evaluation(tmp_path / "a", model, **settings), metrics)
    backwards = measure(evaluation(tmp_path / "b", model, **settings), metrics[::-1])
    assert {r.name: r.value for r in forwards} == {r.name: r.value for r in backwards}
    pictures = [imread(tmp_path / folder / "samples/model.png") for folder in ("a", "b")]
    assert np.array_equal(*pictures)
