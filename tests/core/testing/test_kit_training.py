"""The kit's suites of samplers, starts, data and training: right ones pass, each wrong one fails its law's test."""

import inspect
import tempfile
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from genfw.errors import DataError
from genfw.evaluation.metric import Metric
from genfw.evaluation.results import Result
from genfw.interfaces import Dataset, Info, Sampler, Split, Start
from genfw.testing import (
    BiasedSampler,
    DatasetSuite,
    MetricSuite,
    OptimizerSuite,
    SamplerSuite,
    StageSuite,
    StartSuite,
    TrackerSuite,
    tiny_model,
)
from genfw.testing.tiny import TinyData
from genfw.training.optimizer import OptimizerFactory
from genfw.training.stage import Stage
from genfw.training.tracker import Tracker
from genfw.training.updater import Updater


def failures(base, **members):
    """Names of the tests of ``base``, filled in with ``members``, that fail."""
    suite = type("Suite", (base,), {name: staticmethod(value) for name, value in members.items()})()
    failed = []
    for name, method in inspect.getmembers(suite, inspect.ismethod):
        if name.startswith("test_"):
            try:
                method()
            except Exception:
                failed.append(name)
    return failed


# -- samplers --------------------------------------------------------------------------------------


class State(NamedTuple):
    position: Tensor
    potential: Tensor


class Metropolis(Sampler):
    """A right sampler: random-walk Metropolis."""

    def __init__(self, steps: int = 5) -> None:
        self.steps = steps

    def init(self, target, position, generator):
        return State(position, target.potential(position))

    def proposal(self, position, generator):
        return position + 0.6 * torch.randn(position.shape, generator=generator, dtype=position.dtype)

    def accept(self, difference):
        return torch.exp(-difference).clamp(max=1.0)

    def step(self, target, state, generator):
        new = self.proposal(state.position, generator)
        potential = target.potential(new)
        acceptance = self.accept(potential - state.potential)
        uniform = torch.rand(len(new), generator=generator, dtype=new.dtype)
        moved = uniform < acceptance
        position = torch.where(moved[:, None], new, state.position)
        return State(position, torch.where(moved, potential, state.potential)), Info(acceptance, moved)


class AlwaysAccepts(Metropolis):
    def accept(self, difference):
        return torch.ones_like(difference)


class WrongSign(Metropolis):
    def accept(self, difference):
        return super().accept(-difference)


class Drifts(Metropolis):
    """Right on symmetric targets' covariance, and its proposal is not symmetric."""

    def proposal(self, position, generator):
        return super().proposal(position, generator) + 0.05


class NeverMoves(Metropolis):
    def accept(self, difference):
        return torch.zeros_like(difference)


class GlobalRandomness(Metropolis):
    def proposal(self, position, generator):
        return position + 0.6 * torch.randn(position.shape, dtype=position.dtype)


class InPlace(Metropolis):
    def step(self, target, state, generator):
        following, info = super().step(target, state, generator)
        state.position.copy_(following.position)
        return following, info


class StalePotential(Metropolis):
    def step(self, target, state, generator):
        following, info = super().step(target, state, generator)
        return following._replace(potential=state.potential), info


class LosesPrecision(Metropolis):
    def init(self, target, position, generator):
        return super().init(target, position.float().double(), generator)


class CoupledChains(Metropolis):
    def proposal(self, position, generator):
        return super().proposal(position, generator) + 0.01 * (position.mean(0) - position)


class OneNumber(Metropolis):
    def step(self, target, state, generator):
        following, info = super().step(target, state, generator)
        return following, info._replace(acceptance=info.acceptance.mean())


class SaysItMoved(Metropolis):
    def step(self, target, state, generator):
        following, info = super().step(target, state, generator)
        return following, info._replace(moved=torch.ones_like(info.moved))


class Remembers(Metropolis):
    """What it adapts is not in its state."""

    def __init__(self, steps: int = 5) -> None:
        super().__init__(steps)
        self.scale = 1.0

    def proposal(self, position, generator):
        return position + self.scale * (super().proposal(position, generator) - position)

    def finish(self, state):
        self.scale *= 0.9


def test_right_sampler_passes():
    class Documented(Metropolis):
        """Random-walk Metropolis.

        Arguments:
            steps: Moves in one chain.
        """

    assert failures(SamplerSuite, make=Documented) == []


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (AlwaysAccepts, "test_law_is_kept"),
        (WrongSign, "test_law_is_kept"),
        (Drifts, "test_law_is_kept"),
        (lambda: BiasedSampler(Metropolis(), 0.1), "test_law_is_kept"),
        (NeverMoves, "test_law_is_reached"),
        (NeverMoves, "test_report_is_true"),
        (GlobalRandomness, "test_randomness_comes_from_the_generator"),
        (InPlace, "test_what_it_is_given_is_left_alone"),
        (StalePotential, "test_state_holds_position_and_potential"),
        (LosesPrecision, "test_state_holds_position_and_potential"),
        (CoupledChains, "test_chains_do_not_influence_one_another"),
        (OneNumber, "test_report_is_true"),
        (SaysItMoved, "test_report_is_true"),
        (Remembers, "test_what_outlives_a_chain_goes_through_a_checkpoint"),
    ],
)
def test_wrong_sampler_is_caught(cls, law):
    suite = type("Suite", (SamplerSuite,), {"make": lambda self: cls(), "chains": 1500})()
    with pytest.raises(AssertionError):
        getattr(suite, law)()


# -- starts ----------------------------------------------------------------------------------------


class Buffer(Start):
    """A right start with a memory.

    Arguments:
        size: Rows that are kept.
    """

    def __init__(self, size: int = 60) -> None:
        self.size, self.rows = size, torch.zeros(0)

    def draw(self, request):
        fresh = request.target.draw_base(request.count, request.generator)
        if len(self.rows):
            pick = torch.randint(len(self.rows), (request.count,), generator=request.generator)
            return self.rows[pick]
        return fresh

    def store(self, request, position):
        self.rows = torch.cat([position.clone(), self.rows.reshape(-1, position.shape[1])])[: self.size]

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = state["rows"]


class Amnesia(Buffer):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Aliased(Buffer):
    def store(self, request, position):
        self.rows = position


class Handed(Buffer):
    def draw(self, request):
        return self.rows[-request.count :] if len(self.rows) else super().draw(request)


class TooMany(Buffer):
    def draw(self, request):
        return torch.cat([super().draw(request)] * 2)


class GlobalStart(Buffer):
    def draw(self, request):
        return torch.randn(request.count, request.target.layout.size)


class WithGraph(Buffer):
    def draw(self, request):
        return super().draw(request).requires_grad_(True)


def test_right_start_passes():
    assert failures(StartSuite, make=Buffer) == []


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (Amnesia, "test_state_goes_through_a_checkpoint"),
        (Aliased, "test_positions_are_the_callers_own"),
        (Handed, "test_positions_are_the_callers_own"),
        (TooMany, "test_positions_fit_the_target"),
        (GlobalStart, "test_randomness_comes_from_the_generator"),
        (WithGraph, "test_positions_fit_the_target"),
    ],
)
def test_wrong_start_is_caught(cls, law):
    assert law in failures(StartSuite, make=cls)


# -- data ------------------------------------------------------------------------------------------


class Rows(Split):
    def __init__(self, x):
        self.x, self.reads = x, 0

    def __len__(self):
        return len(self.x)

    def get(self, index, *, generator=None):
        return self.x[index], None


class Pairs(Dataset):
    """A right data set.

    Arguments:
        rows: Rows of each split.
    """

    split_class = Rows

    def __init__(self, rows: int = 10) -> None:
        self.rows = rows

    @property
    def data_shape(self):
        return (2,)

    def split(self, name):
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'")
        return self.split_class(torch.arange(2.0 * self.rows).view(-1, 2))


class ReadsAtOnce(Pairs):
    def __init__(self, rows: int = 10) -> None:
        super().__init__(rows)
        with open(tempfile.mkstemp()[1]) as file:
            file.read(1)


class NoSuchSplit(Pairs):
    def split(self, name):
        return super().split("train")


class KeyErrorSplit(Pairs):
    def split(self, name):
        return {"train": super().split("train"), "test": super().split("test")}[name]


class Bytes(Pairs):
    class split_class(Rows):
        def get(self, index, *, generator=None):
            return self.x[index].to(torch.uint8), None


class Counting(Pairs):
    class split_class(Rows):
        def get(self, index, *, generator=None):
            self.reads += 1
            return self.x[index] + self.reads, None


class Views(Pairs):
    class split_class(Rows):
        def get(self, index, *, generator=None):
            whole = len(index) > 4 and int(index[0]) == 0
            return self.x[: len(index)] if whole else self.x[index], None


class GlobalAugmentation(Pairs):
    class split_class(Rows):
        def get(self, index, *, generator=None):
            x = self.x[index]
            return x if generator is None else x + torch.rand(x.shape), None


class BrightImages(Pairs):
    @property
    def data_shape(self):
        return (1, 1, 2)

    class split_class(Rows):
        def get(self, index, *, generator=None):
            return self.x[index].view(-1, 1, 1, 2), None


class MeanDensity(Pairs):
    def log_prob(self, x):
        return -x.square().mean()


def test_right_data_set_passes():
    assert failures(DatasetSuite, make=Pairs, make_absent=KeyErrorSplit) == ["test_absent_files_are_a_data_error"]
    assert failures(DatasetSuite, make=TinyData) == []


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (ReadsAtOnce, "test_constructor_reads_nothing"),
        (NoSuchSplit, "test_unknown_split_is_a_data_error"),
        (KeyErrorSplit, "test_unknown_split_is_a_data_error"),
        (Bytes, "test_rows_have_the_stated_shape_and_range"),
        (BrightImages, "test_rows_have_the_stated_shape_and_range"),
        (Counting, "test_a_row_depends_on_its_number_alone"),
        (Views, "test_a_row_depends_on_its_number_alone"),
        (GlobalAugmentation, "test_augmentation_follows_the_generator"),
        (MeanDensity, "test_density_is_one_number_per_item"),
    ],
)
def test_wrong_data_set_is_caught(cls, law):
    assert law in failures(DatasetSuite, make=cls)


# -- training --------------------------------------------------------------------------------------


class Adam(OptimizerFactory):
    """Adam.

    Arguments:
        lr: Peak learning rate.
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr=lr)

    def build(self, parameters):
        return torch.optim.Adam(parameters, lr=self.lr)


class OtherRate(Adam):
    def build(self, parameters):
        return torch.optim.Adam(parameters, lr=2 * self.lr)


class Uphill(Adam):
    def build(self, parameters):
        return torch.optim.Adam(parameters, lr=self.lr, maximize=True)


class Shared(Adam):
    def build(self, parameters):
        self.first = getattr(self, "first", None) or super().build(parameters)
        return self.first


class Overshoots(Adam):
    def factor(self, step, steps):
        return 2.0


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (OtherRate, "test_descends"),
        (Uphill, "test_descends"),
        (Shared, "test_each_build_is_fresh"),
        (Overshoots, "test_factor_is_a_share_of_the_rate"),
    ],
)
def test_wrong_optimizer_is_caught(cls, law):
    assert failures(OptimizerSuite, make=Adam) == []
    assert law in failures(OptimizerSuite, make=cls)


class Fit(Stage):
    """A right stage: pulls the decoder's mean to the data.

    Arguments:
        steps: Training steps.
        batch: Rows per step.
    """

    def __init__(self, steps: int = 4, batch: int = 8) -> None:
        self.steps, self.batch, self.model = steps, batch, tiny_model()

    def setup(self):
        self.updater = Updater([self.model.decoder], Adam(), self.run, self.steps)
        self.register("updater", self.updater)

    def loss(self, x):
        noise = torch.randn(len(x), 2, generator=self.run.generator)
        return -self.model.likelihood(self.model.latent(noise)).log_prob(x).mean()

    def step(self, batch, step):
        loss = self.loss(batch.x)
        self.updater.update(loss, step)
        return {"loss": loss.detach()}


class Unregistered(Fit):
    def setup(self):
        self.updater = Updater([self.model.decoder], Adam(), self.run, self.steps)


class GlobalStage(Fit):
    def loss(self, x):
        return super().loss(x + torch.randn(x.shape))


class ReportsFloats(Fit):
    def step(self, batch, step):
        return {"loss": float(super().step(batch, step)["loss"])}


class KeepsGraph(Fit):
    def step(self, batch, step):
        return {**super().step(batch, step), "again": self.loss(batch.x)}


class Freezes(Fit):
    def finish(self):
        self.model.requires_grad_(False)


class Lazy(Fit):
    def step(self, batch, step):
        return {"loss": self.loss(batch.x).detach()}


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (Unregistered, "test_resumed_run_is_the_uninterrupted_one"),
        (GlobalStage, "test_resumed_run_is_the_uninterrupted_one"),
        (ReportsFloats, "test_steps_train_and_report"),
        (KeepsGraph, "test_steps_train_and_report"),
        (Lazy, "test_steps_train_and_report"),
        (Freezes, "test_weights_stay_trainable"),
    ],
)
def test_wrong_stage_is_caught(cls, law):
    stages = []

    def suite(of):
        # The model is the stage's own: each call of make_model begins a new pair.
        def make_model():
            stages.append(of())
            return stages[-1].model

        return failures(StageSuite, make=of, make_model=make_model, make_stage=lambda model: stages[-1])

    assert suite(Fit) == []
    assert law in suite(cls)


# -- metrics and trackers --------------------------------------------------------------------------


class Spread(Metric):
    """A right metric: the standard deviation of samples.

    Arguments:
        count: Samples.
    """

    def __init__(self, count: int = 16) -> None:
        self.count = count

    def compute(self, evaluation):
        x = evaluation.samples(self.count).x
        return [Result("spread", float(x.std()), protocol=evaluation.protocol(samples=self.count))]


class GlobalMetric(Spread):
    def compute(self, evaluation):
        (result,) = super().compute(evaluation)
        return [Result("spread", result.value + float(torch.rand(())))]


class Trains(Spread):
    def compute(self, evaluation):
        evaluation.model.train()
        return super().compute(evaluation)


class Infinite(Spread):
    def compute(self, evaluation):
        return [Result("spread", float("inf"))]


class NoReason(Spread):
    def compute(self, evaluation):
        return [Result("spread", None)]


class Twice(Spread):
    def compute(self, evaluation):
        return [*super().compute(evaluation), *super().compute(evaluation)]


class TensorProtocol(Spread):
    def compute(self, evaluation):
        return [Result("spread", 1.0, protocol={"scale": torch.ones(2)})]


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (GlobalMetric, "test_measuring_is_reproducible_and_leaves_the_model_alone"),
        (Trains, "test_measuring_is_reproducible_and_leaves_the_model_alone"),
        (Infinite, "test_results_are_complete"),
        (NoReason, "test_results_are_complete"),
        (Twice, "test_results_are_complete"),
        (TensorProtocol, "test_results_are_complete"),
    ],
)
def test_wrong_metric_is_caught(cls, law):
    assert failures(MetricSuite, make=Spread) == []
    assert law in failures(MetricSuite, make=cls)


class Listens(Tracker):
    """A right tracker."""

    def __init__(self) -> None:
        self.rows = []

    def log(self, row):
        self.rows.append(dict(row))


class TakesTheTime(Listens):
    def log(self, row):
        row.pop("time")


class RollsDice(Listens):
    def log(self, row):
        torch.rand(())


class NeedsRows(Listens):
    def end(self, status):
        self.rows[-1]["status"] = status


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (TakesTheTime, "test_hears_a_run_out"),
        (RollsDice, "test_hears_a_run_out"),
        (NeedsRows, "test_may_be_ended_at_once"),
    ],
)
def test_wrong_tracker_is_caught(cls, law):
    assert failures(TrackerSuite, make=Listens) == []
    assert law in failures(TrackerSuite, make=cls)
