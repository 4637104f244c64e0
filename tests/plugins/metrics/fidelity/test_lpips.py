"""LPIPS and FID of what other metrics have made of data: the formula, torch-fidelity's number, every refusal."""

import hashlib
import urllib.error

import pytest
import torch
from torch import nn

from genfw.engine import run as engine
from genfw.errors import ContractError, DataError
from genfw.evaluation.evaluation import Evaluation
from genfw.evaluation.results import Pairs
from genfw.interfaces.values import NoiseLayout
from genfw.models.model import Model
from genfw.nn.torchvision import import_torchvision
from genfw.training.synthetic import Synthetic
from genfw_plugins.basics.decoder import MLPDecoder
from genfw_plugins.basics.encoder import MLPEncoder
from genfw_plugins.basics.prior import StandardNormal
from genfw_plugins.metrics.common.pixels import to_pixels
from genfw_plugins.metrics.fidelity.extractors import Features
from genfw_plugins.metrics.fidelity.fidelity import FID
from genfw_plugins.metrics.fidelity.lpips import LPIPS
from genfw_plugins.metrics.samples.reconstruction import Reconstruction

RANDOM = Features(extractor="random")
SHAPE = (1, 16, 16)
CHANNELS = (64, 128, 256, 512, 512)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files as they are published, with other numbers in them."""
    folder = tmp_path_factory.mktemp("weights")
    generator = torch.Generator().manual_seed(0)
    features = import_torchvision("torchvision.models").vgg16(weights=None, init_weights=False).features
    state = {
        f"features.{name}": 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in features.state_dict().items()
    }
    torch.save({**state, "classifier.0.bias": torch.zeros(3)}, folder / "vgg.pth")
    lins = {f"lin{k}.model.1.weight": torch.rand(1, size, 1, 1, generator=generator) for k, size in enumerate(CHANNELS)}
    torch.save(lins, folder / "lpips.pth", _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture
def evaluation(tmp_path):
    torch.manual_seed(0)
    prior = StandardNormal(4)
    decoder = MLPDecoder(SHAPE, NoiseLayout.of(z=(4,)), hidden=(8,))
    model = Model(prior, decoder, MLPEncoder(prior, SHAPE, (8,)))
    return Evaluation(model, Synthetic(SHAPE, rows=40, classes=3), directory=tmp_path, recipe={"train": []})


def pairs(count=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, *SHAPE, generator=generator) * 2 - 1
    return Pairs(x, x.roll(1, 0), {"count": count, "sampler": "none"})


def options(files, **more):
    digest = hashlib.sha256((files / "vgg.pth").read_bytes()).hexdigest()
    return {"weights": files / "lpips.pth", "vgg": files / "vgg.pth", "vgg_sha256": digest[:8], "batch": 2, **more}


def test_it_looks_at_the_range_of_both_sides(evaluation, files):
    plain = pairs()

    def note(x, made):
        evaluation.pairs["inversion"] = Pairs(x, made, plain.protocol)
        return LPIPS(of="inversion", **options(files)).compute(evaluation)[0].note

    assert note(plain.x, plain.made) == "Mean over images."
    said = note((plain.x + 1) / 2, 1.5 * plain.made)
    assert said.startswith("All data lie in [0, 1]")
    assert "of the values of the inversions lie beyond [-1, 1] and were cut; they reach from -1." in said
    with pytest.raises(ContractError, match=r"the data have values from .*, and genfw's images lie in \[-1, 1\]"):
        note(127.5 * (plain.x + 1), plain.made)
    with pytest.raises(ContractError, match=r"the inversions have values from .* on another scale"):
        note(plain.x, 127.5 * (plain.made + 1))


def test_it_is_the_formula_and_zero_between_equal_images(evaluation, files):
    made = pairs()
    evaluation.pairs["inversion"] = made
    (result,) = LPIPS(of="inversion", **options(files)).compute(evaluation)

    vgg = torch.load(files / "vgg.pth", weights_only=True)
    lins = torch.load(files / "lpips.pth", weights_only=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(x):
        x, found, layer = (to_pixels(x).expand(-1, 3, -1, -1).float() / 255 - mean) / std, [], 0
        for convolutions in (2, 2, 3, 3, 3):
            if found:
                x, layer = nn.functional.max_pool2d(x, 2), layer + 1
            for _ in range(convolutions):
                name = f"features.{layer}"
                x = nn.functional.conv2d(x, vgg[f"{name}.weight"], vgg[f"{name}.bias"], padding=1).relu()
                layer += 2
            found.append(nn.functional.normalize(x, dim=1))
        return found

    expected = sum(
        ((one - other).square() * lins[f"lin{k}.model.1.weight"]).sum(1).mean((1, 2))
        for k, (one, other) in enumerate(zip(features(made.x), features(made.made), strict=True))
    )
    assert result.name == "lpips-inversion"
    assert result.value == pytest.approx(float(expected.mean()), rel=1e-3)
    assert result.protocol["inversion_count"] == 5
    assert result.protocol["weights_sha256"] == hashlib.sha256((files / "lpips.pth").read_bytes()).hexdigest()

    evaluation.pairs["inversion"] = Pairs(made.x, made.x, {})
    (same,) = LPIPS(of="inversion", **options(files)).compute(evaluation)
    assert same.value == 0.0


def test_a_run_in_double_precision_has_the_same_number(evaluation, files):
    evaluation.pairs["inversion"] = pairs()
    (single,) = LPIPS(of="inversion", **options(files)).compute(evaluation)
    torch.set_default_dtype(torch.float64)
    try:
        (double,) = LPIPS(of="inversion", **options(files)).compute(evaluation)
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.value == pytest.approx(single.value, rel=1e-6)


def test_files_that_are_absent_or_others_are_refused(evaluation, files, tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    evaluation.pairs["reconstruction"] = pairs()

    def no_network(url, *_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(DataError, match=r"no network.* Fetch https:.*lpips\.pth where there is"):
        LPIPS().compute(evaluation)
    with pytest.raises(DataError, match=r"none\.pth can't be read"):
        LPIPS(**options(files, weights=tmp_path / "none.pth")).compute(evaluation)
    with pytest.raises(DataError, match=r"its SHA-256 is \w+, wanted is one that begins with 397923af"):
        LPIPS(**options(files, vgg_sha256=None)).compute(evaluation)
    with pytest.raises(DataError, match="don't fit LPIPS"):
        LPIPS(**options(files, weights=files / "vgg.pth")).compute(evaluation)
    with pytest.raises(ContractError, match="at least 16"):
        LPIPS(size=8)


def test_a_smoke_run_downloads_nothing(evaluation, tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it was downloaded"))
    evaluation.pairs["reconstruction"], evaluation.smoke = pairs(), True
    with pytest.raises(DataError, match=r"a smoke run downloads nothing\. Looked in"):
        LPIPS().compute(evaluation)


@pytest.mark.parametrize("metric", [LPIPS(), FID(samples=2, features=RANDOM, of="reconstruction")])
def test_the_metric_that_makes_the_images_must_stand_before(evaluation, files, metric):
    if isinstance(metric, LPIPS):
        metric = LPIPS(**options(files))
    with pytest.raises(ContractError, match=r"list 'reconstruction' before this one.*--only reconstruction --only"):
        metric.compute(evaluation)


def test_nothing_is_fetched_or_trained_for_images_that_are_not_there(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "genfw_plugins.metrics.fidelity.fidelity.make_extractor", lambda *_, **__: pytest.fail("it was made")
    )
    with pytest.raises(ContractError, match="has made nothing here"):
        FID(samples=2, features=Features(extractor="classifier"), of="reconstruction").compute(evaluation)


def test_each_fid_is_of_the_images_that_were_made_last(evaluation):
    """A recipe may reconstruct twice, by the encoder and by chains, with a distance after each."""
    rows, metric = (
        evaluation.rows("test", 10),
        FID(samples=2, split="test", rows=10, features=RANDOM, of="reconstruction"),
    )
    values = []
    for made in (rows.x.flip(1, 2), rows.x):
        evaluation.pairs["reconstruction"] = Pairs(rows.x, made, {})
        values.append(metric.compute(evaluation)[0].value)
    assert values[0] > 1e-3
    assert values[1] == pytest.approx(0.0, abs=1e-6)


def test_seed_and_versions_bar_no_comparison(evaluation, files):
    """What every metric says of itself is not said again under another name, which would part runs of two seeds."""
    made = Reconstruction(count=10, show=0)
    made.compute(evaluation)
    metrics = [
        LPIPS(**options(files)),
        FID(samples=2, split="test", rows=10, features=RANDOM, of="reconstruction"),
    ]
    for metric in metrics:
        keys = set(metric.compute(evaluation)[0].protocol)
        assert {"seed", "torch", "reconstruction_latent", "reconstruction_split"} <= keys
        assert not {f"reconstruction_{key}" for key in evaluation.protocol()} & keys


def test_fid_of_reconstructions_compares_them_with_the_rows_they_are_of(evaluation):
    rows = evaluation.rows("test", 10)
    evaluation.pairs["reconstruction"] = Pairs(rows.x, rows.x, {"count": 10})
    same = FID(samples=2, split="test", rows=10, features=RANDOM, of="reconstruction").compute(evaluation)[0]
    assert same.name == "fid-reconstruction"
    assert same.value == pytest.approx(0.0, abs=1e-6)
    assert "samples" not in same.protocol
    assert same.protocol["of"] == "reconstruction"
    assert same.protocol["reconstruction_count"] == 10

    other = Evaluation(evaluation.model, evaluation.data, directory=evaluation.directory, recipe={"train": []})
    (first, *_) = Reconstruction(count=10, show=0).compute(other)
    made = FID(samples=2, split="test", rows=10, features=RANDOM, of="reconstruction").compute(other)[0]
    assert first.value > 0.01
    assert made.value > 1e-3
    assert made.protocol["reconstruction_latent"] == "encoder"


RECIPE = """
genfw: 1
name: measured
data: {use: digits, size: 16}
prior: {use: standard-normal, dim: 2}
decoder: {use: mlp, hidden: [8]}
encoder: {use: mlp, hidden: [8]}
train: [{use: elbo, steps: 2, batch: 8, optimizer: {use: adam, lr: 1e-3}}]
evaluate:
  - {use: reconstruction, count: 12}
  - {use: lpips, of: reconstruction}
  - {use: fid, of: reconstruction, split: test, rows: 12, features: {extractor: random}}
engine: {accelerator: cpu}
"""


def test_a_recipe_measures_reconstructions_in_three_ways(files, tmp_path):
    (tmp_path / "measured.yaml").write_text(RECIPE)
    given = options(files)
    sets = [f"evaluate.1.{name}={value}" for name, value in given.items()]
    results = engine.run(tmp_path / "measured.yaml", directory=tmp_path / "run", sets=sets).results
    values = {result.name: result.value for result in results}
    assert values.keys() >= {"mse", "lpips-reconstruction", "fid-reconstruction"}
    assert all(value is not None and value > 0 for value in values.values())
