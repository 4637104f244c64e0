"""What ``genfw check`` says of data by the headers of their files, before a row is read."""

import gzip

import numpy as np
import pytest

from datasets_util import digits, encoded, idx_bytes, write_idx, write_mnist, write_tree
from genfw.errors import AbsentDataError, DataError
from genfw_plugins.datasets.celeba_hq import CelebAHQ
from genfw_plugins.datasets.huggingface import HuggingFace
from genfw_plugins.datasets.idx import IdxImages
from genfw_plugins.datasets.large_images import CelebA, LSUNChurch
from genfw_plugins.datasets.mnist import MNIST, FashionMNIST
from genfw_plugins.datasets.stacked import Stacked
from genfw_plugins.datasets.torchvision_sets import CIFAR10, SVHN


@pytest.fixture
def mnist(tmp_path):
    write_mnist(tmp_path)
    return tmp_path


def test_nothing_is_said_of_files_that_fit(mnist):
    for data in (MNIST(root=mnist), IdxImages(root=mnist), Stacked(source=MNIST(root=mnist))):
        data.examine()


def test_the_rows_stay_unread(mnist):
    images, _ = digits(4)
    cut = idx_bytes(images)[:-5]
    (mnist / "train-images-idx3-ubyte").unlink(missing_ok=True)
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(cut))
    (mnist / "train-labels-idx1-ubyte").unlink(missing_ok=True)
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(digits(4)[1])))
    data = MNIST(root=mnist, download=False)
    data.examine()  # the header is whole
    with pytest.raises(DataError, match="but holds"):
        data.split("train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 16}, "can't be padded to 16x16"),
        ({"train_labels": "train-images-idx3-ubyte"}, "swapped"),
        ({"train_labels": None, "classes": [1]}, "this data set has none"),
        ({"splits": "zenati"}, "name them with 'exclude'"),
        ({"test_images": "nowhere"}, "the idx file nowhere .* is absent"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_headers(mnist, arguments, message):
    with pytest.raises(DataError, match=message):
        IdxImages(root=mnist, **arguments).examine()


def test_labels_of_another_count_are_refused(tmp_path):
    images, labels = digits(6)
    write_idx(tmp_path, "train", images, labels[:5])
    with pytest.raises(DataError, match="6 images but 5 labels"):
        IdxImages(root=tmp_path).examine()


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10, SVHN, CelebA, LSUNChurch])
def test_absent_files_are_named_where_they_may_not_be_fetched_and_never_fetched(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("GENFW_DATA", str(tmp_path))
    with pytest.raises(AbsentDataError, match="is absent; looked in"):
        kind(download=False).examine()
    kind(download=True).examine()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        lambda folder: CelebAHQ(root=folder / "nowhere"),
        lambda folder: HuggingFace(path="imagefolder", size=8, data_dir=folder / "nowhere"),
    ],
)
def test_a_folder_that_is_not_there_is_named(tmp_path, data):
    with pytest.raises(AbsentDataError, match="nowhere"):
        data(tmp_path).examine()


def test_faces_of_another_numbering_are_refused(tmp_path):
    picture = encoded(np.zeros((4, 4, 3), np.uint8), "JPEG")
    write_tree(tmp_path / "img_align_celeba", {"000001.jpg": picture}, archive=False)
    with pytest.raises(DataError, match="no images numbered"):
        CelebA(root=tmp_path).examine()


def test_a_folder_that_is_no_database_is_refused(tmp_path):
    pytest.importorskip("lmdb")
    for part in ("train", "val"):
        folder = tmp_path / f"church_outdoor_{part}_lmdb"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(b"no database")
    with pytest.raises(DataError, match="LMDB"):
        LSUNChurch(root=tmp_path).examine()
