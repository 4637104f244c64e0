"""Modes, other data, neighbours: on samples and models whose answers are known."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors as Reference
from torch.distributions import MultivariateNormal, Normal

from genfw.errors import ContractError, DataError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure
from genfw.interfaces import Dataset, Encoder, Energy, Posterior, Split
from genfw.interfaces.values import Latent
from genfw.models.model import Model
from genfw.models.sampling import Samples, SampleSettings
from genfw.testing import MetricSuite
from genfw.testing.tiny import TinyDecoder, TinyPrior, tiny_evaluation
from genfw_plugins.datasets.digits import Digits
from genfw_plugins.datasets.toy import GaussianGrid
from genfw_plugins.metrics.common.classifier import Classifier
from genfw_plugins.metrics.common.sets import draw_index, take_rows
from genfw_plugins.metrics.detection.ood import OutOfDistribution, derive, score_items
from genfw_plugins.metrics.fidelity.extractors import Features
from genfw_plugins.metrics.samples.modes import Modes, divergence
from genfw_plugins.metrics.samples.nearest_neighbours import NearestNeighbours, nearest


class Rows(Dataset, Split):
    """Given rows, the same in every split."""

    def __init__(self, x, label=None, test=None):
        self.x, self.label, self.test = x, label, test

    @property
    def data_shape(self):
        return tuple(self.x.shape[1:])

    def split(self, name):
        return Rows(self.test) if name == "test" and self.test is not None else self

    def __len__(self):
        return len(self.x)

    def get(self, index, *, generator=None):
        return self.x[index], None if self.label is None else self.label[index]


class Drawn(Evaluation):
    """A model that drew ``x``."""

    def __init__(self, tmp_path, x, data=None, **more):
        super().__init__(Model(data_shape=x.shape[1:]), data, directory=tmp_path, **more)
        self.x = x

    def samples(self, count=None):
        empty = torch.empty(0)
        return Samples(self.x, empty, empty, None, empty, empty, (), 0.0)


def take(metric, evaluation):
    return {result.name: result for result in metric.compute(evaluation)}


# -- modes ------------------------------------------------------------------------------------------------------------


def test_divergence_in_closed_form():
    assert divergence(torch.tensor([50, 50, 0, 0]), torch.ones(4)) == pytest.approx(math.log(2))
    assert divergence(torch.tensor([3, 1]), torch.tensor([300, 100])) == pytest.approx(0.0)
    expected = 0.75 * math.log(0.75 / 0.2) + 0.25 * math.log(0.25 / 0.8)
    assert divergence(torch.tensor([3, 1]), torch.tensor([0.2, 0.8])) == pytest.approx(expected)
    assert divergence(torch.tensor([1, 1]), torch.tensor([1, 0])) == math.inf


def test_divergence_of_the_laws_own_draws_is_the_floor_that_is_named():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(1000, (20, 26_000), generator=generator)
    found = [divergence(torch.bincount(row, minlength=1000), torch.ones(1000)) for row in draws]
    assert sum(found) / 20 == pytest.approx(999 / 52_000, rel=0.05)


def test_modes_by_the_nearest_centre(tmp_path):
    data = GaussianGrid(train=5000, test=100)
    x, label = data.draw(4000, generator=torch.Generator().manual_seed(3))
    every = take(Modes(by="nearest", samples=4000), Drawn(tmp_path, x, data))
    assert every["modes"].value == 25
    assert every["modes-kl"].value < 0.02
    few = take(Modes(by="nearest", samples=4000), Drawn(tmp_path, x[label < 5], data))
    assert few["modes"].value == 5
    frequency = torch.bincount(data.split("train").labels[:], minlength=25)[:5].sum() / 5000
    assert few["modes-kl"].value == pytest.approx(-math.log(frequency), abs=0.02)
    assert few["modes"].protocol["by"] == "nearest"


def patterns(labels, generator):
    """Bars whose place is their class, with noise."""
    x = -torch.ones(len(labels), 1, 8, 8)
    for number, label in enumerate(labels.tolist()):
        x[number, 0, 2 * label : 2 * label + 2] = 1.0
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(-1.0, 1.0)


@pytest.fixture(scope="module")
def bars():
    generator = torch.Generator().manual_seed(0)
    label = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 600, replacement=True, generator=generator)
    return Rows(patterns(label, generator), label)


def test_modes_channel_by_channel(tmp_path, bars, monkeypatch):
    monkeypatch.setenv("GENFW_CACHE", str(tmp_path / "cache"))
    generator = torch.Generator().manual_seed(1)
    digits = torch.tensor([[0, 1, 2], [2, 2, 2], [0, 0, 1], [0, 0, 1]])
    x = patterns(digits.flatten(), generator).view(4, 3, 8, 8)
    metric = Modes(by="channels", source=bars, samples=4, classifier=Classifier(steps=30, width=4))
    results = take(metric, Drawn(tmp_path, x))
    assert results["classifier-accuracy"].value == 1.0
    assert results["modes"].value == 3
    assert "Of 27 modes" in results["modes"].note
    p = torch.bincount(bars.label).double() / 600
    law = [p[0] * p[1] * p[2], p[2] ** 3, p[0] ** 2 * p[1]]
    expected = sum(q * math.log(q / float(one)) for q, one in zip([0.25, 0.25, 0.5], law, strict=True))
    assert results["modes-kl"].value == pytest.approx(expected, rel=1e-6)
    # The classifier is kept by content: the second time nothing is trained.
    again = take(metric, Drawn(tmp_path, x))
    assert again["modes"].protocol["classifier"] == results["modes"].protocol["classifier"]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1


def test_modes_by_the_class_of_an_image(tmp_path, bars, monkeypatch):
    monkeypatch.setenv("GENFW_CACHE", str(tmp_path))
    x = patterns(torch.tensor([1, 1, 1, 0]), torch.Generator().manual_seed(2))
    results = take(Modes(samples=4, classifier=Classifier(steps=30, width=4)), Drawn(tmp_path, x, bars))
    assert results["modes"].value == 2
    assert (tmp_path / "figures/modes.png").stat().st_size > 1000


def test_modes_without_labels_say_so(tmp_path, bars):
    with pytest.raises(DataError, match="told by labels, and this data set has none"):
        Modes().compute(Drawn(tmp_path, bars.x, Rows(bars.x)))
    with pytest.raises(ContractError, match="the recipe has no 'data:' section"):
        Modes().compute(Drawn(tmp_path, bars.x))
    with pytest.raises(
        ContractError, match=r"samples of shape \(3, 4, 4\) are no stack of images of shape \(1, 8, 8\)"
    ):
        Modes(by="channels", source=bars).compute(Drawn(tmp_path, torch.zeros(2, 3, 4, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "channels"}, "give it with 'by: channels', and only there"),
        ({"source": Rows(torch.zeros(4, 1, 8, 8))}, "give it with 'by: channels', and only there"),
        ({"by": "channels", "source": Rows(torch.zeros(4, 3, 8, 8))}, "images of one channel"),
        ({"samples": 0}, "at least 1, got 0"),
    ],
)
def test_modes_refuses(arguments, message):
    with pytest.raises(ContractError, match=message):
        Modes(**arguments)


# -- other data -------------------------------------------------------------------------------------------------------


class Slope(Energy):
    """E(x) = a . x."""

    def __init__(self, *slope):
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope))

    def forward(self, v):
        return v.flatten(1) @ self.slope


class Exact(Encoder):
    """The posterior of :class:`TinyDecoder` itself: every importance weight is p(x)."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = (decoder,)

    def forward(self, x, *, noise=None, generator=None, temperature=1.0):
        weight, bias = self.decoder[0].linear.weight, self.decoder[0].linear.bias
        precision = torch.eye(2) + weight.T @ weight / 0.25
        mean = torch.linalg.solve(precision, weight.T @ (x - bias).T / 0.25).T
        law = MultivariateNormal(mean, precision_matrix=precision)
        noise = torch.randn(len(x), 2, generator=generator)
        z = mean + temperature * (law.scale_tril @ noise[..., None])[..., 0]
        log_p = MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(z)
        log_q = law.log_prob(z)
        return Posterior(Latent((z,)), z, log_q, log_p, (log_q - log_p)[:, None])


def exact_model(*slope):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = TinyDecoder()
        return Model(TinyPrior(), decoder, Exact(decoder), Slope(*slope)).eval().requires_grad_(False)


def normal_rows(count, *mean, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) + torch.tensor(mean)


def test_scores_in_closed_form():
    model = exact_model(1.0, -0.5)
    x = normal_rows(50, 0.0, 0.0)
    weight, bias = model.decoder.linear.weight, model.decoder.linear.bias
    log_p = MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(2)).log_prob(x).double()
    energy = (x @ torch.tensor([1.0, -0.5])).double()
    scores = ["elbo", "log-h", "log-p", "energy"]
    found = score_items(model, x, scores, 3, torch.Generator().manual_seed(0), batch=20)
    assert list(found) == scores
    torch.testing.assert_close(found["log-p"], log_p, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["log-h"], log_p - energy, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["energy"], -energy, atol=1e-6, rtol=0)
    # With the exact posterior the bound, here of one draw, is log p(x) itself.
    torch.testing.assert_close(found["elbo"], log_p, atol=1e-4, rtol=0)


def test_auroc_of_two_normal_laws(tmp_path):
    # -E differs between N(0, I) and N(m, I) by a . m, with spread |a| each: AUROC = Phi(a . m / sqrt(2) |a|).
    slope, shift = (0.6, 0.8), (1.0, 0.5)
    data = Rows(normal_rows(6000, 0.0, 0.0, seed=1), test=normal_rows(6000, 0.0, 0.0, seed=2))
    others = {"moved": Rows(normal_rows(6000, *shift, seed=3)), "same": Rows(normal_rows(6000, 0.0, 0.0, seed=4))}
    evaluation = Evaluation(exact_model(*slope), data, SampleSettings(), tmp_path, seed=1)
    results = take(OutOfDistribution(others=others, scores=["energy"]), evaluation)
    expected = float(Normal(0.0, 1.0).cdf(torch.tensor((0.6 + 0.4) / math.sqrt(2))))
    assert results["auroc-energy-moved"].value == pytest.approx(expected, abs=0.015)
    assert results["auroc-energy-same"].value == pytest.approx(0.5, abs=0.015)
    # 95 % of the moved ones are found above the 5 % point of N(1, 1).
    threshold = 1.0 + Normal(0.0, 1.0).icdf(torch.tensor(0.05))
    assert results["fpr95-energy-moved"].value == pytest.approx(1 - float(Normal(0.0, 1.0).cdf(threshold)), abs=0.03)
    assert results["energy-test"].value == pytest.approx(0.0, abs=4 * results["energy-test"].error)
    assert [figure.path for figure in results["energy-test"].figures] == ["figures/ood-energy.png"]
    assert "importance" not in results["energy-test"].protocol


def test_noise_is_added_to_every_set(tmp_path):
    data = Rows(torch.zeros(4000, 2), test=torch.zeros(4000, 2))
    evaluation = Evaluation(exact_model(0.6, 0.8), data, SampleSettings(), tmp_path, seed=1)
    results = take(OutOfDistribution(derived=["interpolation"], scores=["energy"], noise=0.5), evaluation)
    # Nothing but the noise tells the sets apart: it is drawn anew for each.
    assert results["auroc-energy-interpolation"].value == pytest.approx(0.5, abs=0.02)
    spread = results["energy-test"].error * math.sqrt(4000)
    assert spread == pytest.approx(0.5, abs=0.02)
    assert results["energy-test"].protocol["noise"] == 0.5


def test_derived_items():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 4, 5, generator=generator)
    half = derive(x, "interpolation", generator)
    # Twice an interpolation, less its first half, is another item of the set, never the same one.
    apart = (2 * half - x).flatten(1)[:, None] - x.flatten(1)[None]
    partner = apart.abs().sum(2).argmin(1)
    assert (apart.abs().sum(2).min(1).values < 1e-4).all()
    assert (partner != torch.arange(40)).all()
    assert torch.equal(derive(derive(x, "upside-down", generator), "upside-down", generator), x)
    torch.testing.assert_close(derive(x, "constant", generator)[:, :, 1, 2], x.mean((2, 3)))
    noise = derive(x, "noise", generator)
    assert noise.min() >= -1
    assert abs(float(noise.square().mean()) - 1 / 3) < 0.03
    with pytest.raises(ContractError, match="'upside-down' is made of images"):
        derive(torch.zeros(4, 2), "upside-down", generator)


def test_ood_refuses(tmp_path):
    with pytest.raises(ContractError, match="name what to tell the data from"):
        OutOfDistribution()
    with pytest.raises(ContractError, match="'noise' is both"):
        OutOfDistribution(others={"noise": Rows(torch.zeros(4, 2))}, derived=["noise"])
    with pytest.raises(ContractError, match="count must be at least 2, got 1"):
        OutOfDistribution(derived=["noise"], count=1)
    with pytest.raises(ContractError, match=r"noise must be at least 0, got -1\.0"):
        OutOfDistribution(derived=["noise"], noise=-1.0)
    data = Rows(normal_rows(20, 0.0, 0.0))
    without = Model(TinyPrior(), TinyDecoder(), energy=Slope(1.0, 1.0)).eval().requires_grad_(False)
    with pytest.raises(ContractError, match="all scores but 'energy' need an encoder"):
        OutOfDistribution(derived=["noise"]).compute(Evaluation(without, data, directory=tmp_path))
    plain = exact_model(1.0, 1.0)
    plain.energies = torch.nn.ModuleList()
    with pytest.raises(ContractError, match="need an energy on data"):
        OutOfDistribution(derived=["noise"], scores=["energy"]).compute(Evaluation(plain, data, directory=tmp_path))
    with pytest.raises(ContractError, match=r"items of 'other' have shape \(3,\) and those of the model \(2,\)"):
        OutOfDistribution(others={"other": Rows(torch.zeros(4, 3))}).compute(
            Evaluation(exact_model(1.0, 1.0), data, directory=tmp_path)
        )


def test_a_smoke_run_has_data_of_the_shape_of_an_absent_set(tmp_path):
    from genfw_plugins.datasets.mnist import MNIST

    absent = MNIST(root=tmp_path / "nowhere", download=False, size=8)
    evaluation = Evaluation(Model(data_shape=(1, 8, 8), energy=Slope(*[0.1] * 64)), Digits(), directory=tmp_path)
    metric = OutOfDistribution(others={"mnist": absent}, scores=["energy"], count=8)
    (failed,) = measure(evaluation, [("ood", metric)])
    assert failed.value is None
    assert "MNIST" in failed.note
    evaluation.smoke = True
    assert all(result.value is not None for result in measure(evaluation, [("ood", metric)]))


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    rows, x = torch.randn(2300, 5, generator=generator), torch.randn(7, 5, generator=generator)
    distances, found = nearest(x, Rows(rows), torch.arange(2300), 4, lambda v: v)
    expected, index = Reference(n_neighbors=4, algorithm="brute").fit(rows.numpy()).kneighbors(x.numpy())
    torch.testing.assert_close(distances, torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)
    assert found.tolist() == index.tolist()


def test_copies_are_told_from_new_samples(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(300, 1, 8, 8, generator=generator)
    data = Rows(x[:250], test=x[250:])
    copied = take(NearestNeighbours(samples=40, crop=6), Drawn(tmp_path, x[:40], data))
    assert copied["nn-distance-pixels"].value == 0.0
    assert copied["nn-ratio-pixels"].value == 0.0
    assert copied["nn-distance-pixels"].protocol["crop"] == 6
    fresh = torch.rand(40, 1, 8, 8, generator=generator)
    new = take(NearestNeighbours(samples=40), Drawn(tmp_path, fresh, data))
    assert new["nn-ratio-pixels"].value == pytest.approx(1.0, abs=0.05)
    assert (tmp_path / "figures/neighbours-pixels.png").stat().st_size > 1000


def test_neighbours_look_at_the_range_of_data_and_samples(tmp_path):
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    metric = NearestNeighbours(samples=20, show=2)
    drawn = 2 * x[:20] - 1
    drawn[0, 0, 0, 0] = 1.5
    results = take(metric, Drawn(tmp_path, drawn, Rows(x))).values()
    assert all("All data lie in [0, 1]" in result.note and "reach from -" in result.note for result in results)
    figures = [figure for result in results for figure in result.figures]
    assert all(figure.shows_data for figure in figures)
    captions = [figure.caption for figure in figures]
    assert [caption.count("of these images lie beyond [-1, 1] and were cut") for caption in captions] == [1]
    with pytest.raises(ContractError, match=r"the data \(split 'train'\) have values from"):
        metric.compute(Drawn(tmp_path, drawn, Rows(255 * x)))
    with pytest.raises(ContractError, match=r"the samples have values from .* on another scale"):
        metric.compute(Drawn(tmp_path, 255 * drawn, Rows(x)))


def test_neighbours_between_features(tmp_path, bars, monkeypatch):
    monkeypatch.setenv("GENFW_CACHE", str(tmp_path))
    drawn = patterns(torch.tensor([2, 0]), torch.Generator().manual_seed(5))
    brief = Classifier(steps=30, width=4)
    metric = NearestNeighbours(spaces=["classifier"], samples=2, neighbours=2, rows=100, classifier=brief)
    results = take(metric, Drawn(tmp_path, drawn, bars))
    assert results["nn-distance-classifier"].value > 0
    assert results["nn-distance-classifier"].protocol["rows"] == 100
    assert results["nn-distance-classifier"].protocol["classifier_accuracy"] == 1.0


def test_neighbours_between_features_of_an_extractor(tmp_path, bars):
    # The weights of Inception are not here; a random network stands in for it.
    copies = bars.x[:3]
    metric = NearestNeighbours(spaces=["inception"], samples=3, neighbours=2, inception=Features(extractor="random"))
    results = take(metric, Drawn(tmp_path, copies, bars))
    assert results["nn-distance-inception"].value == pytest.approx(0.0, abs=1e-5)
    assert results["nn-distance-inception"].protocol["extractor"] == "random"
    others = take(metric, Drawn(tmp_path, -copies, bars))
    assert others["nn-distance-inception"].value > 0.01


def test_neighbours_refuse(tmp_path, bars):
    with pytest.raises(ContractError, match="neighbours must be at most rows, got 3 of 2"):
        NearestNeighbours(rows=2, neighbours=3)
    with pytest.raises(ContractError, match="crop must be at least 1, got 0"):
        NearestNeighbours(crop=0)
    with pytest.raises(ContractError, match="can't be cut out of items"):
        NearestNeighbours(crop=9, samples=4).compute(Drawn(tmp_path, bars.x[:4], bars))
    with pytest.raises(ContractError, match="no 'data:' section"):
        NearestNeighbours().compute(Drawn(tmp_path, bars.x[:4]))


def test_rows_are_the_same_in_every_run():
    assert draw_index(5, None, "a").tolist() == draw_index(5, 9, "b").tolist() == [0, 1, 2, 3, 4]
    first, again, other = draw_index(100, 10, "a"), draw_index(100, 10, "a"), draw_index(100, 10, "b")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    rows = take_rows(Rows(torch.arange(100.0)[:, None]), 10, "a")
    assert rows.x[:, 0].tolist() == first.tolist()


class TestModes(MetricSuite):
    def make(self):
        return Modes(by="nearest", samples=30)

    def evaluation(self, directory):
        tiny = tiny_evaluation(directory)
        tiny.data = GaussianGrid(side=2, train=100, test=20)
        return tiny


class TestOutOfDistribution(MetricSuite):
    def make(self):
        return OutOfDistribution(
            others={"grid": GaussianGrid(train=20, test=20)},
            derived=["interpolation"],
            scores=["log-h"],
            count=20,
            importance=3,
        )


class TestNearestNeighbours(MetricSuite):
    def make(self):
        return NearestNeighbours(samples=10, neighbours=3)
