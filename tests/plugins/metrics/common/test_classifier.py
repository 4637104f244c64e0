"""The small classifier: it learns, it is the same every time, it is kept by content, and bad data are refused."""

import json

import pytest
import torch

from genfw.errors import ContractError, DataError
from genfw.interfaces import Dataset
from genfw.training.synthetic import Synthetic
from genfw_plugins.datasets._arrays import ArraySplit
from genfw_plugins.datasets.digits import Digits
from genfw_plugins.metrics.common import classifier
from genfw_plugins.metrics.common.classifier import ClassifierNetwork, trained_classifier
from genfw_plugins.metrics.common.content import digest_of_split


class Arrays(Dataset):
    """Rows given."""

    def __init__(self, x, label):
        self.x, self.label = x, label

    @property
    def data_shape(self):
        return tuple(self.x.shape[1:])

    def split(self, name):
        return ArraySplit(self.x, self.label)


@pytest.fixture(scope="module")
def digits():
    return trained_classifier(Digits(), steps=120)


def test_it_tells_digits_apart(digits):
    assert digits.accuracy > 0.9
    assert (digits.classes, digits.data_shape) == (10, (1, 8, 8))
    test = Digits().split("test")
    x, label = test.get(torch.arange(len(test)))
    right = (digits.network(x).argmax(1) == label).float().mean()
    assert float(right) == pytest.approx(digits.accuracy)


def test_one_without_training_does_not():
    x, label = Digits().split("test").get(torch.arange(359))
    right = (ClassifierNetwork((1, 8, 8), 10, 16, 64).eval()(x).argmax(1) == label).float().mean()
    assert float(right) < 0.4


def test_features_are_what_the_last_layer_reads(digits):
    x = 2 * torch.rand(5, 1, 8, 8) - 1
    features = digits.features(x)
    assert features.shape == (5, 64)
    torch.testing.assert_close(digits.network.head(features), digits.network(x))
    assert not any(parameter.requires_grad for parameter in digits.network.parameters())
    assert not digits.network.training


def test_the_same_seed_gives_the_same_weights_and_leaves_global_randomness_alone():
    data = Synthetic((1, 8, 8), rows=64)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = trained_classifier(data, steps=3, width=4, size=8)
    assert torch.equal(torch.rand(1), expected)
    with torch.no_grad():  # as metrics may call it
        again = trained_classifier(data, steps=3, width=4, size=8)
    assert first.digest == again.digest
    assert first.digest != trained_classifier(data, steps=3, width=4, size=8, seed=1).digest


def test_a_run_in_double_precision_gets_the_same_classifier():
    data = Digits(limit=64)
    single = trained_classifier(data, steps=2, width=4, size=8)
    torch.set_default_dtype(torch.float64)
    try:
        double = trained_classifier(data, steps=2, width=4, size=8)
        assert double.network(torch.zeros(1, 1, 8, 8)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert single.digest == double.digest


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 9, 17)])
def test_images_of_other_shapes(shape):
    trained = trained_classifier(Synthetic(shape, rows=32), steps=2, width=4, size=8)
    assert trained.features(torch.zeros(2, *shape)).shape == (2, 8)


def test_it_is_kept_by_the_content_of_data_and_settings(tmp_path, monkeypatch):
    x, label = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    settings = {"steps": 3, "width": 4, "size": 8, "cache": tmp_path}
    first = trained_classifier(Arrays(x, label), **settings)

    def refuse(*arguments):
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        patched.setattr(classifier, "_train", refuse)
        # Another object with the same content.
        found = trained_classifier(Arrays(x.clone(), label.clone()), **settings)
        assert (found.digest, found.accuracy, found.classes) == (first.digest, first.accuracy, 4)
        torch.testing.assert_close(found.network(x), first.network(x))
        changed = x.clone()
        changed[7, 0, 3, 3] += 0.01
        for other in (Arrays(changed, label), Arrays(x, label.flip(0))):
            with pytest.raises(AssertionError, match="trained again"):
                trained_classifier(other, **settings)
        with pytest.raises(AssertionError, match="trained again"):
            trained_classifier(Arrays(x, label), **(settings | {"steps": 4}))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["weights", "facts", "swapped"])
def test_a_damaged_file_is_trained_anew(tmp_path, damage):
    data = Arrays(torch.rand(40, 1, 8, 8), torch.arange(40) % 4)
    settings = {"steps": 3, "width": 4, "size": 8, "cache": tmp_path}
    first = trained_classifier(data, **settings)
    (weights,) = tmp_path.glob("*.safetensors")
    facts = weights.with_suffix(".json")
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "facts":
        facts.write_text("{")
    else:
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"digest": "0" * 64}))
    assert trained_classifier(data, **settings).digest == first.digest
    assert json.loads(facts.read_text())["digest"] == first.digest


def test_images_on_another_scale_are_refused_and_half_of_the_range_is_noted(tmp_path):
    x, label = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    for cache in (None, tmp_path, tmp_path):
        settings = {"steps": 3, "width": 4, "size": 8, "cache": cache}
        assert trained_classifier(Arrays(x, label), **settings).note.startswith("All data lie in [0, 1]: half of")
        assert trained_classifier(Arrays(2 * x - 1, label), **settings).note == ""
        with pytest.raises(ContractError, match=r"trained on have values from .* to 25.*, and genfw's images lie in"):
            trained_classifier(Arrays(255 * x, label), **settings)


def test_bad_data_and_settings_are_refused():
    with pytest.raises(DataError, match="this data set has none; name one that has labels"):
        trained_classifier(Arrays(torch.rand(8, 1, 8, 8), None))
    with pytest.raises(ContractError, match=r"takes images .* but items are \(2,\)"):
        trained_classifier(Arrays(torch.rand(8, 2), torch.zeros(8, dtype=torch.long)))
    with pytest.raises(ContractError, match="steps must be at least 1, got 0"):
        trained_classifier(Digits(), steps=0)
    with pytest.raises(DataError, match="is empty"):
        digest_of_split(ArraySplit(torch.zeros(0, 1, 8, 8)))
