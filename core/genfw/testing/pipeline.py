"""Suites of data sets, optimisers, stages, metrics and trackers."""

from __future__ import annotations

import abc
import copy
import functools
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from genfw.engine.devices import quiet_fabric
from genfw.errors import DataError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.metric import Metric
from genfw.interfaces import Dataset, Split
from genfw.interfaces.values import Batch, StateTree
from genfw.models.model import Model
from genfw.plugins.hookspecs import RunInfo
from genfw.testing.suite import ComponentSuite, assert_same_tree, generator_of, stored
from genfw.testing.tiny import tiny_evaluation
from genfw.training.optimizer import OptimizerFactory
from genfw.training.stage import Stage, StageRun
from genfw.training.tracker import Tracker

_watchers: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watchers and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        what = str(arguments[0])
        # Importing a module opens its file, which is not reading data.
        if not what.endswith((".py", ".pyc", ".so")) and "__pycache__" not in what:
            _watchers[-1].append(f"{event} {what}")


@functools.lru_cache(maxsize=1)
def _install_audit() -> None:
    sys.addaudithook(_audit)


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Files, folders and addresses that the block opens."""
    _install_audit()
    seen: list[str] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


class DatasetSuite(ComponentSuite):
    """The laws of a data set. Fill in :meth:`make`, and :meth:`make_absent` where the data are in files."""

    @abc.abstractmethod
    def make(self) -> Dataset:
        """A new data set whose files exist."""

    def make_absent(self) -> Dataset | None:
        """A new data set whose files do not exist."""
        return None

    def _splits(self) -> dict[str, Split]:
        data = self.make()
        return {name: data.split(name) for name in ("train", "test")}

    def test_constructor_reads_nothing(self) -> None:
        """Building it opens no file, lists no folder and uses no network, and yet the shape of an item is known."""
        self.make()
        with _watched() as seen:
            shape = self.make().data_shape
        assert not seen, f"the constructor reads: {', '.join(seen[:5])}; leave it to split()"
        assert isinstance(shape, tuple), f"data_shape is a tuple of integers, got {shape!r}"
        assert all(isinstance(n, int) and n > 0 for n in shape), f"data_shape is a tuple of integers, got {shape!r}"

    def test_rows_have_the_stated_shape_and_range(self) -> None:
        """Rows are finite float32 of ``data_shape``, images in [-1, 1], labels integers."""
        shape = self.make().data_shape
        for name, split in self._splits().items():
            assert len(split) > 0, f"split '{name}' is empty"
            index = torch.arange(min(4, len(split)))
            x, label = split.get(index)
            assert x.shape == (len(index), *shape), f"{name}: rows have shape {tuple(x.shape[1:])}, not {shape}"
            assert x.dtype == torch.float32, f"{name}: rows have {x.dtype}, not float32"
            assert bool(x.isfinite().all()), f"{name}: rows are not finite"
            if len(shape) == 3:
                low, high = float(x.min()), float(x.max())
                assert low >= -1.0, f"{name}: images lie in [-1, 1], these in [{low:.3g}, {high:.3g}]"
                assert high <= 1.0, f"{name}: images lie in [-1, 1], these in [{low:.3g}, {high:.3g}]"
            if label is not None:
                assert label.shape == index.shape, f"{name}: labels have shape {tuple(label.shape)}"
                assert label.dtype == torch.int64, f"{name}: labels have {label.dtype}, not int64"

    def test_a_row_depends_on_its_number_alone(self) -> None:
        """The same number gives the same row, in any batch and order, from any thread, from a new instance."""
        for name, split in self._splits().items():
            count = min(6, len(split))
            index = torch.arange(count)
            x, _ = split.get(index)
            original = index.clone()
            backwards, _ = split.get(index.flip(0))
            single = torch.cat([split.get(index[i : i + 1])[0] for i in range(count)])
            with ThreadPoolExecutor(2) as pool:
                threads = [future.result()[0] for future in [pool.submit(split.get, index) for _ in range(4)]]
            again, _ = self.make().split(name).get(index)
            for other in (backwards.flip(0), single, again, *threads):
                assert torch.equal(other, x), f"split '{name}': the same rows read again differ"
            assert torch.equal(index, original), "the row numbers were changed in place"
            x.zero_()
            assert torch.equal(split.get(index)[0], again), "changing a batch changes the data"

    def test_augmentation_follows_the_generator(self) -> None:
        """The same seed augments the same way; the global generator is not used."""
        with torch.random.fork_rng(devices=[]):
            for name, split in self._splits().items():
                index = torch.arange(min(6, len(split)))
                before = torch.get_rng_state()
                first, second = (split.get(index, generator=generator_of(3))[0] for _ in range(2))
                split.get(index)
                assert torch.equal(first, second), f"split '{name}': augmentation depends on more than its generator"
                assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"

    def test_unknown_split_is_a_data_error(self) -> None:
        """``split`` raises a DataError with a message for an unknown split."""
        _assert_data_error(self.make(), "no-such-split")

    def test_absent_files_are_a_data_error(self) -> None:
        """``split``, and not the constructor, raises a DataError with a message for absent files."""
        absent = self.make_absent()
        if absent is not None:
            _assert_data_error(absent, "train")

    def test_density_is_one_number_per_item(self) -> None:
        """A known density has shape ``(B,)`` and is finite on the data's rows."""
        data = self.make()
        x, _ = data.split("test").get(torch.arange(2))
        density = data.log_prob(x)
        if density is not None:
            assert density.shape == (2,), f"log_prob is one number per item, got shape {tuple(density.shape)}"
            assert bool(density.isfinite().all()), "log_prob of the data's own rows is not finite"


def _assert_data_error(data: Dataset, split: str) -> None:
    try:
        data.split(split)
    except DataError as error:
        message = str(error)
    else:
        raise AssertionError(f"split('{split}') raised no DataError")
    assert message.strip(), "the DataError says nothing"


class OptimizerSuite(ComponentSuite):
    """The laws of an optimiser factory. Fill in :meth:`make`."""

    @abc.abstractmethod
    def make(self) -> OptimizerFactory:
        """A new factory."""

    def _descend(self, optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (weight - 3.0).square().sum().backward()
            optimizer.step()

    def test_descends(self) -> None:
        """It starts at the stated rate and minimises a parabola."""
        factory, weight = self.make(), nn.Parameter(torch.zeros(4))
        optimizer = factory.build([weight])
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {factory.lr}, f"the optimiser begins with rates {rates}, its factory says {factory.lr}"
        self._descend(optimizer, weight, 50)
        assert bool((weight > 0).all()), "50 steps did not move towards the minimum"
        assert bool((weight < 6).all()), "50 steps overshot the minimum by its distance"

    def test_each_build_is_fresh(self) -> None:
        """One factory serves several networks, which share nothing."""
        factory = self.make()
        first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        optimizer, other = factory.build(iter([first])), factory.build(iter([second]))
        self._descend(optimizer, first, 3)
        assert optimizer is not other
        assert not other.state, "a second optimiser shares the first one's state"
        assert torch.equal(second, torch.zeros(2)), "one optimiser moved the other's parameters"

    def test_factor_is_a_share_of_the_rate(self) -> None:
        """Over a stage the learning rate never exceeds its peak, and reaches it."""
        factory = self.make()
        steps = 10 * (factory.warmup + 1)
        factors = [factory.factor(step, steps) for step in range(steps)]
        assert all(0.0 <= factor <= 1.0 for factor in factors), f"factors leave [0, 1]: {min(factors)}, {max(factors)}"
        assert math.isclose(max(factors), 1.0), f"the peak rate is never reached; the largest factor is {max(factors)}"

    def test_state_goes_through_a_checkpoint(self) -> None:
        """A restored optimiser takes the same next steps, bit for bit."""
        factory = self.make()
        weight = nn.Parameter(torch.arange(4.0))
        optimizer = factory.build([weight])
        self._descend(optimizer, weight, 5)
        copied = nn.Parameter(weight.detach().clone())
        other = factory.build([copied])
        other.load_state_dict(stored(optimizer.state_dict()))
        for trained, parameter in ((optimizer, weight), (other, copied)):
            self._descend(trained, parameter, 5)
        assert torch.equal(weight, copied), "a restored optimiser takes other steps"


@functools.lru_cache(maxsize=1)
def _fabric() -> Fabric:
    with quiet_fabric():
        return Fabric(accelerator="cpu", devices=1)


class StageSuite(ComponentSuite):
    """The laws of a training algorithm. Fill in :meth:`make_model` and :meth:`make_stage`."""

    #: Steps of the compared runs; the stage's own ``steps`` must be at least this.
    length: int = 4

    @abc.abstractmethod
    def make_model(self) -> Model:
        """A new tiny model."""

    @abc.abstractmethod
    def make_stage(self, model: Model) -> Stage:
        """The stage over that model."""

    def make(self) -> Stage:
        return self.make_stage(self.make_model())

    def batch(self, model: Model, count: int, step: int) -> Batch:
        """Random rows."""
        x = torch.randn(count, *model.data_shape, generator=generator_of(step))
        return Batch(x, torch.arange(count))

    def _begin(self, seed: int = 0) -> tuple[Model, Stage]:
        torch.manual_seed(seed)
        model = self.make_model()
        stage = self.make_stage(model)
        stage.run = StageRun(_fabric(), torch.device("cpu"), generator_of(9), dataset_size=64)
        stage.setup()
        return model, stage

    def _train(self, model: Model, stage: Stage, start: int, stop: int) -> list[Mapping[str, Tensor]]:
        return [stage.step(self.batch(model, stage.batch, step), step) for step in range(start, stop)]

    def test_steps_train_and_report(self) -> None:
        """A step changes weights and returns finite 0-dim tensors without graph."""
        with torch.random.fork_rng(devices=[]):
            model, stage = self._begin()
            assert stage.steps >= self.length, f"the suite needs a stage of at least {self.length} steps"
            before = {name: value.clone() for name, value in model.state_dict().items()}
            reports = self._train(model, stage, 0, 2)
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()), "nothing moved"
        for report in reports:
            assert report, "a step reports nothing"
            for name, value in report.items():
                assert isinstance(value, Tensor), f"'{name}' is a {type(value).__name__}, not a tensor"
                assert value.ndim == 0, f"'{name}' has shape {tuple(value.shape)}, not ()"
                assert not value.requires_grad, f"'{name}' carries a graph"
                assert bool(value.isfinite()), f"'{name}' is not finite"

    def test_resumed_run_is_the_uninterrupted_one(self) -> None:
        """A run that resumes after half the steps gives the same weights, bit for bit, whatever the global seed."""
        half = self.length // 2
        with torch.random.fork_rng(devices=[]):
            model, stage = self._begin()
            self._train(model, stage, 0, half)
            weights: StateTree = stored(dict(model.state_dict()))
            state, generator = stored(stage.state_dict()), stage.run.generator.get_state()
            self._train(model, stage, half, self.length)
            stage.finish()

            other_model, other = self._begin(seed=5)
            other_model.load_state_dict(weights)
            other.load_state_dict(state)
            other.run.generator.set_state(generator)
            torch.manual_seed(77)
            self._train(other_model, other, half, self.length)
            other.finish()
        assert_same_tree(dict(other_model.state_dict()), dict(model.state_dict()), "model")
        assert_same_tree(other.state_dict(), stage.state_dict(), "stage")

    def test_weights_stay_trainable(self) -> None:
        """After a step, ``requires_grad`` of all parameters is as before."""
        with torch.random.fork_rng(devices=[]):
            model, stage = self._begin()
            flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
            self._train(model, stage, 0, 1)
            stage.finish()
        after = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        assert after == flags, "the stage left parameters frozen, or released frozen ones"


class MetricSuite(ComponentSuite):
    """The laws of a metric. Fill in :meth:`make`; where it can't measure a tiny 2-D model, :meth:`evaluation` too."""

    @abc.abstractmethod
    def make(self) -> Metric:
        """A new metric with small counts."""

    def evaluation(self, directory: Path) -> Evaluation:
        """A tiny trained model with its data."""
        return tiny_evaluation(directory)

    def test_results_are_complete(self) -> None:
        """Results have values or reasons, protocols of JSON scalars, figures that exist, and different names."""
        with tempfile.TemporaryDirectory() as folder:
            results = self.make().compute(self.evaluation(Path(folder)))
            assert results, "the metric gives no result"
            names = [result.name for result in results]
            assert len(set(names)) == len(names), f"two results have one name: {', '.join(names)}"
            for result in results:
                if result.value is None:
                    assert result.note or result.figures, f"'{result.name}' has neither a value nor a reason"
                else:
                    assert math.isfinite(result.value), f"'{result.name}' is {result.value}"
                assert result.better in ("", "lower", "higher"), (
                    f"better is 'lower', 'higher' or '', not '{result.better}'"
                )
                for key, value in result.protocol.items():
                    assert isinstance(value, str | int | float | bool | None), f"protocol '{key}' is no JSON scalar"
                json.dumps(dict(result.protocol), allow_nan=False)
                for figure in result.figures:
                    assert (Path(folder) / figure.path).is_file(), f"figure {figure.path} was not written"

    def test_measuring_is_reproducible_and_leaves_the_model_alone(self) -> None:
        """Two measurements agree, and change neither the model's weights and mode nor the global generator."""
        values = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
                evaluation = self.evaluation(Path(folder))
                model = evaluation.model
                before = {name: value.clone() for name, value in model.state_dict().items()}
                modes = [part.training for part in model.modules()]
                seeds = torch.get_rng_state()
                results = self.make().compute(evaluation)
                assert torch.equal(torch.get_rng_state(), seeds), "the global generator was drawn from"
                assert [part.training for part in model.modules()] == modes, "a network was left in another mode"
                assert_same_tree(dict(model.state_dict()), before, "model")
            # Only times may differ.
            values.append({r.name: r.value for r in results if not r.unit.startswith("s") and "/s" not in r.unit})
        assert values[0] == values[1], f"two measurements differ: {values[0]} and {values[1]}"


class TrackerSuite(ComponentSuite):
    """The laws of a tracker. Fill in :meth:`make`."""

    @abc.abstractmethod
    def make(self) -> Tracker:
        """A new tracker."""

    def run_info(self, directory: Path, resumed_at: tuple[int, int] | None = None) -> RunInfo:
        """A run of one stage."""
        recipe = {"name": "tiny", "seed": 0, "train": [{"use": "elbo", "steps": 4}]}
        return RunInfo("tiny", directory, recipe, (("elbo", 4),), resumed_at)

    def rows(self) -> list[dict[str, Any]]:
        """Rows as a run logs them, one with a non-finite value."""
        return [
            {"stage": 0, "name": "elbo", "step": step, "time": 0.1 * step, "loss": 1.0 / step if step < 3 else math.nan}
            for step in (1, 2, 3)
        ]

    def test_hears_a_run_out(self) -> None:
        """A run and a resumed run raise no exception, change no row and draw no random numbers."""
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            for resumed_at in (None, (0, 3)):
                tracker = self.make()
                tracker.start(self.run_info(Path(folder), resumed_at))
                for row in self.rows():
                    original = copy.deepcopy(row)
                    tracker.log(row)
                    assert repr(row) == repr(original), "a row was changed in place"
                for kind in ("stage", "checkpoint", "warning", "rollback", "sample", "evaluate"):
                    tracker.event(kind, f"a message of kind {kind}")
                tracker.end("finished" if resumed_at else "interrupted")
            assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"

    def test_may_be_ended_at_once(self) -> None:
        """A tracker can be ended before its first row, as by a run that fails early."""
        with tempfile.TemporaryDirectory() as folder:
            tracker = self.make()
            tracker.start(self.run_info(Path(folder)))
            tracker.end("failed")
