"""FID, KID, Inception score, precision and recall: torch-fidelity's numbers bit for bit, on genfw's own samples."""

import functools
import hashlib
import math
import urllib.error

import attrs
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset

from genfw.errors import ContractError, DataError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.measure import measure
from genfw.interfaces import Dataset, Decoder, Energy, Split
from genfw.interfaces.likelihood import Gaussian
from genfw.models.model import Model
from genfw.models.sampling import SampleSettings
from genfw.nn.torchvision import import_torchvision
from genfw.testing import MetricSuite
from genfw.training.synthetic import Synthetic
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.datasets.digits import Digits
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.metrics.common import pixels as pixels_module
from genfw_plugins.metrics.common.classifier import Classifier
from genfw_plugins.metrics.common.pixels import FilePixels, to_pixels
from genfw_plugins.metrics.fidelity import extractors as extractors_module
from genfw_plugins.metrics.fidelity import features as features_module
from genfw_plugins.metrics.fidelity.extractors import Features
from genfw_plugins.metrics.fidelity.fidelity import FID, KID, InceptionScore, PrecisionRecall

RANDOM = Features(extractor="random")
SHAPE = (3, 8, 8)
fidelity = import_torchvision("torch_fidelity")


class Tiny(fidelity.feature_extractor_base.FeatureExtractorBase):
    """A linear map of pixels; its weights come from a file where one is named."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **options):
        super().__init__(name, features_list)
        generator = torch.Generator().manual_seed(1)
        self.maps = torch.nn.Parameter(torch.randn(192, 12, generator=generator) / 14)
        if feature_extractor_weights_path is not None:
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

    @staticmethod
    def get_provided_features_list():
        return ("six", "twelve")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return {"isc": "six", "fid": "twelve", "kid": "twelve"}[metric]

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        found = (x.float().flatten(1) / 64 - 2) @ self.maps
        return tuple({"six": found[:, :6], "twelve": found}[name] for name in self.features_list)


fidelity.register_feature_extractor("genfw-test-tiny", Tiny)


class Picture(Decoder):
    noise_shape = SHAPE

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(6, 192)

    def forward(self, latent):
        return Gaussian(self.map(latent.flat()).tanh().unflatten(1, SHAPE), 0.05)


class Pull(Energy):
    """Needs gradients along the chain, which torch-fidelity itself would switch off."""

    on = "latent"

    def forward(self, v):
        return 0.5 * (v[:, 0] - 1.0).square()


class Rows(Dataset, Split):
    """Images given."""

    data_shape = SHAPE

    def __init__(self, x):
        self.x = x

    def split(self, name):
        return self

    def __len__(self):
        return len(self.x)

    def get(self, index, *, generator=None):
        return self.x[index], None


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(StandardNormal(6), Picture(), energy=Pull())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def evaluation(tmp_path, model, data=None, **more):
    settings = SampleSettings(sampler=Langevin(step_size=0.05, steps=3), batch=20, mean=more.pop("mean", False))
    recipe = {"sample": {"sampler": {"use": "langevin"}}, "train": [{"use": "readjust-batch-norm"}]}
    data = Synthetic(SHAPE, rows=120) if data is None else data
    return Evaluation(model, data, settings, tmp_path, seed=3, recipe=recipe, **more)


class Given(TorchDataset):
    """What torch-fidelity is given when it is called directly."""

    def __init__(self, x):
        self.x = to_pixels(x)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        return self.x[number]


def directly(evaluation, count, **options):
    data = evaluation.data.split("train").get(torch.arange(120))[0]
    drawn = evaluation.samples(count).x
    common = {"cuda": False, "verbose": False, "cache": False, "batch_size": 32, "feature_extractor": "genfw-test-tiny"}
    common |= {"feature_layer_prc": "twelve", "save_cpu_ram": True, "prc_batch_size": 2000}
    return fidelity.calculate_metrics(input1=Given(drawn), input2=Given(data), **common, **options)


def test_equal_to_torch_fidelity_called_directly_bit_for_bit(tmp_path, model):
    here = evaluation(tmp_path, model)
    features = Features(extractor="genfw-test-tiny", batch=32)
    tiny = {"samples": 70, "features": features}
    metrics = [
        FID(**tiny),
        KID(**tiny, subsets=7, subset_size=40),
        InceptionScore(**tiny, splits=3),
        PrecisionRecall(**tiny | {"features": attrs.evolve(features, layer="twelve")}, rows=None, neighbours=2),
    ]
    found = {result.name: result for metric in metrics for result in metric.compute(here)}
    options = {"kid_subsets": 7, "kid_subset_size": 40, "isc_splits": 3, "prc_neighborhood": 2}
    direct = directly(here, 70, fid=True, kid=True, isc=True, prc=True, **options)
    assert found["fid"].value == direct["frechet_inception_distance"]
    assert found["kid"].value == direct["kernel_inception_distance_mean"]
    assert f"over subsets: {direct['kernel_inception_distance_std']:.3g}." in found["kid"].note
    assert found["inception-score"].value == direct["inception_score_mean"]
    assert found["inception-score"].error == direct["inception_score_std"] / math.sqrt(2)
    assert (found["precision"].value, found["recall"].value) == (direct["precision"], direct["recall"])
    assert found["f-score"].value == direct["f_score"]
    assert 0 < found["fid"].value < math.inf
    # Negative control: one image fewer, and the number is another.
    assert FID(**tiny | {"samples": 69}).compute(here)[0].value != found["fid"].value


def test_the_protocol_says_what_would_change_the_number(tmp_path, model):
    here = evaluation(tmp_path, model, mean=True)
    (result,) = FID(samples=30, rows=50, features=RANDOM).compute(here)
    protocol = result.protocol
    assert (protocol["extractor"], protocol["layer"], protocol["resize"]) == ("random", "features", "none")
    assert (protocol["samples"], protocol["split"], protocol["rows"]) == (30, "train", 50)
    assert (protocol["decoder"], protocol["temperature"], protocol["chain_steps"]) == ("mean", 1.0, 3)
    assert (protocol["batch_norm"], protocol["seed"]) == ("readjusted", 3)
    assert "127.5" in protocol["rounding"]
    assert len(protocol["extractor_weights"]) == 64
    assert {"start", "torch", "torch_fidelity", "numpy", "genfw", "extract_batch"} <= protocol.keys()
    assert result.note == "30 images can't fill the covariance of 32 features."


def gaussian_features(mean, covariance, count=400):
    """Rows whose own mean and covariance are exactly those given."""
    size = len(mean)
    z = np.random.default_rng(0).standard_normal((count, size))
    z -= z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T
    return torch.from_numpy(np.asarray(mean) + z @ np.linalg.cholesky(np.asarray(covariance)).T)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (([0, 0], np.eye(2)), ([0, 0], np.eye(2)), 0.0),
        (([0, 0], np.eye(2)), ([3, 4], np.eye(2)), 25.0),
        # Commuting covariances: the sum of squared differences of standard deviations.
        (([1, 0], np.diag([4.0, 9.0])), ([0, 0], np.diag([1.0, 16.0])), 1 + (2 - 1) ** 2 + (3 - 4) ** 2),
        # Not commuting: tr(A + B - 2 (AB)^(1/2)), where tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2) in two dimensions.
        (
            ([0, 0], np.array([[2.0, 1.0], [1.0, 2.0]])),
            ([0, 0], np.array([[1.0, 0.0], [0.0, 3.0]])),
            8 - 2 * math.sqrt(8 + 2 * 3),
        ),
    ],
)
def test_frechet_distances_of_known_gaussians(tmp_path, model, monkeypatch, first, second, expected):
    features = {16: gaussian_features(*first), 120: gaussian_features(*second)}
    monkeypatch.setattr(
        features_module, "extract_batches", lambda here, extractor, pixels, batch: {"features": features[len(pixels)]}
    )
    (result,) = FID(samples=16, features=RANDOM).compute(evaluation(tmp_path, model))
    assert result.value == pytest.approx(expected, abs=1e-9)


def test_identical_sets_have_distance_nothing_and_full_precision(tmp_path, model):
    here = evaluation(tmp_path, model)
    drawn = here.samples(40).x
    same = evaluation(tmp_path, model, Rows(drawn.clamp(-1, 1)))
    assert FID(samples=40, features=RANDOM).compute(same)[0].value == pytest.approx(0, abs=1e-6)
    precision, recall, _ = PrecisionRecall(samples=40, rows=None, features=RANDOM).compute(same)
    assert (precision.value, recall.value) == (1.0, 1.0)


def test_pixels_come_back_as_they_were():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_pixels(levels.float() / 127.5 - 1), levels)
    assert to_pixels(torch.tensor([-7.0, 7.0, 0.001])).tolist() == [0, 255, 128]
    with pytest.raises(ContractError, match="values that are no numbers"):
        to_pixels(torch.tensor([0.0, math.nan]))


def test_metrics_that_share_features_draw_and_extract_once(tmp_path, model, monkeypatch):
    calls = []
    plain = features_module.extract_batches
    monkeypatch.setattr(
        features_module, "extract_batches", lambda *arguments: calls.append(len(arguments[2])) or plain(*arguments)
    )
    here = evaluation(tmp_path, model)
    tiny = {"samples": 50, "features": RANDOM}
    fid = FID(**tiny).compute(here)[0].value
    KID(**tiny, subset_size=20).compute(here)
    InceptionScore(**tiny).compute(here)
    assert sorted(calls) == [50, 120]
    # Another run on the same data: its statistics lie in the cache, the samples in the run directory.
    monkeypatch.setattr(Evaluation, "sample_batches", lambda *arguments: pytest.fail("drawn again"))
    again = evaluation(tmp_path, model)
    assert FID(**tiny).compute(again)[0].value == fid
    assert sorted(calls) == [50, 50, 120]


@pytest.mark.parametrize("change", ["weights", "seed", "mean", "sampler", "damage", "no extent", "wrong extent"])
def test_samples_are_drawn_again_when_anything_about_them_changes(tmp_path, model, change, monkeypatch):
    first = evaluation(tmp_path, model)
    path = pixels_module.drawn_pixels(first, 30).path
    again = evaluation(tmp_path, model, mean=change == "mean")
    if change == "weights":
        model.decoder.map.bias.data[0] += 1e-3
    elif change == "seed":
        again.seed = 4
    elif change == "sampler":
        again.settings.sampler.step_size = 0.04
    elif change == "damage":
        path.write_bytes(path.read_bytes()[:-1])
    elif change == "no extent":
        path.with_suffix(".json").unlink()
    elif change == "wrong extent":
        path.with_suffix(".json").write_text('{"count": 3}')
    if damaged := change in ("damage", "no extent", "wrong extent"):
        drawn, plain = [], Evaluation.sample_batches
        monkeypatch.setattr(Evaluation, "sample_batches", lambda *given: drawn.append(given) or plain(*given))
    found = pixels_module.drawn_pixels(again, 30)
    assert (found.path == path) == damaged
    assert not damaged or drawn
    assert torch.equal(found.read(range(30)), to_pixels(again.samples(30).x))
    # The old file has gone: a run keeps one set of each count.
    names = {file.name for file in (tmp_path / "cache").glob("samples-30-*")}
    assert names == {found.path.name, found.path.with_suffix(".json").name}


class Scaled(Picture):
    """Images in another range than genfw's."""

    def __init__(self, scale, shift=0.0, sigma=0.05):
        super().__init__()
        self.scale, self.shift, self.sigma = scale, shift, sigma

    def forward(self, latent):
        x = self.map(latent.flat()).tanh().unflatten(1, SHAPE)
        return Gaussian(self.scale * x + self.shift, self.sigma)


EVERY = {
    "fid": functools.partial(FID, samples=40, features=RANDOM),
    "kid": functools.partial(KID, samples=40, subset_size=20, features=RANDOM),
    "inception-score": functools.partial(InceptionScore, samples=40, splits=2, features=RANDOM),
    "precision-recall": functools.partial(PrecisionRecall, samples=40, features=RANDOM),
}


@pytest.mark.parametrize("name", EVERY)
def test_data_on_another_scale_are_refused_before_anything_is_drawn(tmp_path, model, name, monkeypatch):
    monkeypatch.setattr(Evaluation, "sample_batches", lambda *arguments: pytest.fail("drawn"))
    data = Rows(255 * torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ContractError, match=r"the data \(split 'train'\) have values from 0\..* to 25.*x / 127\.5 - 1"):
        EVERY[name]().compute(evaluation(tmp_path, model, data))


@pytest.mark.parametrize("name", EVERY)
def test_data_in_half_of_the_range_and_cut_samples_are_noted(tmp_path, model, name):
    half = "All data lie in [0, 1]: half of the levels are unused; genfw's images lie in [-1, 1]."
    cut = "% of the values of the samples lie beyond [-1, 1] and were cut; they reach from -1."
    model.decoder = Scaled(1.0)
    data = torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0))
    for x, noted in ((data, True), (2 * data - 1, False)):
        for _ in range(2):  # drawn, and found in the cache
            results = EVERY[name]().compute(evaluation(tmp_path, model, Rows(x)))
            assert all((half in result.note) == noted for result in results)
            assert all(cut in result.note for result in results)


@pytest.mark.parametrize("name", EVERY)
def test_samples_on_another_scale_are_refused_and_drawn_once(tmp_path, name, monkeypatch):
    torch.manual_seed(0)
    model = Model(StandardNormal(6), Scaled(127.5, 127.5))
    for _ in range(2):
        with pytest.raises(ContractError, match=r"the samples have values from .*they are on another scale"):
            EVERY[name]().compute(evaluation(tmp_path, model))
        monkeypatch.setattr(Evaluation, "sample_batches", lambda *arguments: pytest.fail("drawn again"))


def test_noise_of_the_largest_scale_is_measured(tmp_path):
    torch.manual_seed(0)
    here = evaluation(tmp_path, Model(StandardNormal(6), Scaled(1.0, sigma=1.0)))
    (result,) = EVERY["fid"]().compute(here)
    assert "were cut" in result.note


def test_a_file_of_pixels_reads_by_number_and_is_whole_or_absent(tmp_path):
    x = 2 * torch.rand(10, 1, 4, 5) - 1
    written = FilePixels.write(tmp_path / "x.npy", x.split(3), 10)
    read = FilePixels(tmp_path / "x.npy")
    assert torch.equal(read.read([7, 0]), to_pixels(x[[7, 0]]))
    assert read.digest == written.digest
    assert np.load(tmp_path / "x.npy").shape == (10, 1, 4, 5)
    with pytest.raises(ContractError, match="10 images were announced and 6 came"):
        FilePixels.write(tmp_path / "y.npy", x[:6].split(3), 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.npy"]


def test_memory_does_not_grow_with_the_count_of_images(tmp_path, model, monkeypatch):
    """No more than one batch of images is alive at a time, on the way in and on the way out."""
    sizes = []
    plain = to_pixels
    monkeypatch.setattr(pixels_module, "to_pixels", lambda x: sizes.append(len(x)) or plain(x))
    read = FilePixels.read
    monkeypatch.setattr(FilePixels, "read", lambda self, index: sizes.append(len(index)) or read(self, index))
    here = evaluation(tmp_path, model)
    monkeypatch.setattr(Evaluation, "samples", lambda *arguments: pytest.fail("all samples at once"))
    monkeypatch.setattr(Evaluation, "rows", lambda *arguments: pytest.fail("all rows at once"))
    FID(samples=200, features=Features(extractor="random", batch=25)).compute(here)
    assert max(size for size in sizes if size != 120) <= 25


def test_the_classifier_as_extractor(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(extractors_module, "Classifier", functools.partial(Classifier, steps=60))

    class Grey(Picture):
        noise_shape = (1, 8, 8)

        def forward(self, latent):
            return Gaussian(self.map(latent.flat()).tanh()[:, :64].unflatten(1, (1, 8, 8)), 0.05)

    grey = Model(StandardNormal(6), Grey())
    here = Evaluation(grey, Digits(), SampleSettings(), tmp_path)
    (score,) = InceptionScore(samples=60, splits=2, features=Features(extractor="classifier")).compute(here)
    assert 1.0 <= score.value <= 10.0
    assert score.protocol["classifier_accuracy"] > 0.8
    assert score.protocol["classifier_classes"] == 10
    assert score.error > 0
    # The classifier of grey digits reads the channels of colour images one by one; found in the cache by now.
    colour = Evaluation(Model(StandardNormal(6), Picture()), Synthetic(SHAPE, rows=64), SampleSettings(), tmp_path)
    fid = FID(samples=60, features=Features(extractor="classifier", dataset=Digits()))
    assert fid.compute(colour)[0].value > 0
    module = features_module.remembered(colour, fid.features.key, None).module
    grey_module = extractors_module.make_extractor(here, Features(extractor="classifier"), (1, 8, 8)).module
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    joint = dict(zip(module.features_list, module(pixels), strict=True))
    apart = [dict(zip(("features", "logits"), grey_module(pixels[:, [c]]), strict=True)) for c in range(3)]
    assert joint["logits"].shape == (4, 1000)
    parts = [one["logits"].log_softmax(1) for one in apart]
    expected = parts[0][:, 3] + parts[1][:, 1] + parts[2][:, 4]
    torch.testing.assert_close(joint["logits"].log_softmax(1)[:, 314], expected, rtol=1e-4, atol=1e-4)
    assert joint["features"].shape == (4, 192)


def test_absent_weights_without_a_network_say_what_to_fetch_and_the_rest_goes_on(tmp_path, model, monkeypatch):
    def offline(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    here = evaluation(tmp_path, model)
    here.recipe = {}
    first, second = measure(here, [("fid", FID(samples=21)), ("is", InceptionScore(samples=20, features=RANDOM))])[:2]
    assert first.value is None
    assert "can't be downloaded: <urlopen error no network>" in first.note
    assert "Fetch https://github.com/toshas/torch-fidelity/releases" in first.note
    assert "weights-inception-2015-12-05-6726825d.pth" in first.note
    assert str(tmp_path / "hub" / "checkpoints") in first.note
    assert "put it in one of these places" in first.note
    # Nothing was drawn for a number that could not be taken; the rest of the evaluation went on.
    assert not list((tmp_path / "cache").glob("samples-21-*"))
    assert second.value is not None


def test_weights_are_opened_only_when_their_hash_is_right(tmp_path, model):
    path = tmp_path / "weights.pth"
    torch.save({"maps": torch.ones(192, 12)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    here = evaluation(tmp_path, model)
    features = Features(extractor="genfw-test-tiny", weights=path, sha256=digest)
    (result,) = FID(samples=20, features=features).compute(here)
    assert result.protocol["weights_sha256"] == digest
    (other,) = FID(samples=20, features=Features(extractor="genfw-test-tiny")).compute(here)
    assert result.protocol["extractor_weights"] != other.protocol["extractor_weights"]
    with pytest.raises(DataError, match=f"its SHA-256 is {digest}, wanted is one that begins with 1234"):
        FID(samples=20, features=Features(extractor="genfw-test-tiny", weights=path, sha256="1234")).compute(here)
    with pytest.raises(DataError, match="wanted is one that begins with 6726825d"):
        FID(samples=20, features=Features(weights=path)).compute(here)
    with pytest.raises(DataError, match="can't be read: No such file"):
        FID(samples=20, features=Features(weights=tmp_path / "absent")).compute(here)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features(extractor="inceptoin"), "no extractor 'inceptoin' - did you mean 'inception'"),
        (lambda: Features(extractor="vgg16", weights="w.pth"), "pickles, which can run code; say by 'sha256'"),
        (lambda: Features(extractor="random", weights="w.pth"), "makes its own weights"),
        (lambda: FID(samples=1), "samples must be at least 2, got 1"),
        (lambda: KID(samples=10, subset_size=11), "subset_size must be at most samples, got 11 of 10"),
        (lambda: InceptionScore(samples=5, splits=6), "splits must be at most samples, got 6 of 5"),
        (lambda: PrecisionRecall(samples=5, neighbours=5), "neighbours must be below samples, got 5 of 5"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ContractError, match=message):
        make()


def test_what_can_not_be_compared_is_refused(tmp_path, model):
    here = evaluation(tmp_path, model)
    with pytest.raises(ContractError, match=r"samples have shape \(3, 8, 8\) and data \(3, 4, 4\)"):
        FID(samples=4, features=RANDOM).compute(evaluation(tmp_path, model, Synthetic((3, 4, 4))))
    with pytest.raises(ContractError, match="no layer 'seven'; its layers are six, twelve"):
        FID(samples=4, features=Features(extractor="genfw-test-tiny", layer="seven")).compute(here)
    with pytest.raises(ContractError, match="does not say which layer is meant; name a 'layer', one of six, twelve"):
        PrecisionRecall(samples=8, features=Features(extractor="genfw-test-tiny")).compute(here)
    with pytest.raises(ContractError, match="a subset has 150 images and the data 120"):
        KID(samples=200, subset_size=150, features=RANDOM).compute(here)
    bare = Evaluation(model, None, SampleSettings(), tmp_path)
    with pytest.raises(ContractError, match="no 'data:' section"):
        FID(samples=4, features=RANDOM).compute(bare)
    with pytest.raises(ContractError, match=r"images of one or three channels, and the items have shape \(2,\)"):
        FID(samples=4, features=RANDOM).compute(evaluation(tmp_path, model, Synthetic((2,))))


class Suite(MetricSuite):
    def evaluation(self, directory):
        torch.manual_seed(0)
        return evaluation(directory, Model(StandardNormal(6), Picture(), energy=Pull()))


class TestFID(Suite):
    def make(self):
        return FID(samples=24, rows=30, features=RANDOM)


class TestKID(Suite):
    def make(self):
        return KID(samples=24, rows=30, subsets=3, subset_size=10, features=RANDOM)


class TestInceptionScore(Suite):
    def make(self):
        return InceptionScore(samples=24, splits=3, features=RANDOM)


class TestPrecisionRecall(Suite):
    def make(self):
        return PrecisionRecall(samples=24, rows=30, features=RANDOM)
