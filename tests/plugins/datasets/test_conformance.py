"""The package's own conformance suites, over every data set and optimiser it ships."""

import numpy as np
import pytest
import torch

from datasets_util import encoded, write_mnist, write_tree
from genfw.errors import DataError
from genfw.testing import DatasetSuite, OptimizerSuite
from genfw_plugins.datasets.celeba_hq import CelebAHQ
from genfw_plugins.datasets.digits import Digits
from genfw_plugins.datasets.idx import IdxImages
from genfw_plugins.datasets.image_folder import ImageFolder
from genfw_plugins.datasets.large_images import CelebA
from genfw_plugins.datasets.mnist import MNIST
from genfw_plugins.datasets.stacked import Stacked
from genfw_plugins.datasets.tensor_file import TensorFile
from genfw_plugins.datasets.torchvision_sets import CIFAR10
from genfw_plugins.datasets.toy import GaussianGrid, Pinwheel
from genfw_plugins.training.optimizers import SGD, Adam, Adamax, AdamW


@pytest.fixture(autouse=True)
def files(request, tmp_path):
    """Lays the data of a suite out in ``self.folder``."""
    if request.instance is not None:
        request.instance.folder = tmp_path
        getattr(request.instance, "lay_out", lambda: None)()


class TestGaussianGrid(DatasetSuite):
    def make(self):
        return GaussianGrid(train=100, test=50)


class TestPinwheel(DatasetSuite):
    def make(self):
        return Pinwheel(train=100, test=50)


class TestDigits(DatasetSuite):
    def make(self):
        return Digits(size=16)


class TestIdx(DatasetSuite):
    def lay_out(self):
        write_mnist(self.folder)

    def make(self):
        return IdxImages(root=self.folder, size=32, flip=0.5)

    def make_absent(self):
        return IdxImages(root=self.folder / "nowhere")


class TestMNIST(TestIdx):
    def make(self):
        return MNIST(root=self.folder, download=False)

    def make_absent(self):
        return MNIST(root=self.folder / "nowhere", download=False)


class TestStacked(TestIdx):
    def make(self):
        return Stacked(source=IdxImages(root=self.folder), train=50, test=20)

    def make_absent(self):
        return Stacked(source=IdxImages(root=self.folder / "nowhere"))


class TestImageFolder(DatasetSuite):
    options = {"flip": 0.5}

    def lay_out(self):
        rng = np.random.default_rng(0)
        names = [f"{split}/{kind}/{k}.jpg" for split in ("train", "test") for kind in "ab" for k in range(4)]
        images = {name: encoded(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8), "JPEG") for name in names}
        self.root = write_tree(self.folder / "images", images, archive=False)

    def make(self):
        return ImageFolder(root=self.root, size=16, **self.options)

    def make_absent(self):
        return ImageFolder(root=self.folder / "nowhere", size=16)


class TestImageFolderUncached(TestImageFolder):
    options = {"cache_mib": 0}


class TestCelebA(DatasetSuite):
    def lay_out(self):
        rng = np.random.default_rng(0)
        images = {
            f"img_align_celeba/{number:06}.jpg": encoded(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8), "JPEG")
            for number in (1, 2, 3, 202_598, 202_599)
        }
        write_tree(self.folder / "img_align_celeba", images, archive=True)

    def make(self):
        return CelebA(root=self.folder, download=False, flip=0.5)

    def make_absent(self):
        return CelebA(root=self.folder / "nowhere", download=False)


class TestCelebAHQ(DatasetSuite):
    def lay_out(self):
        rng = np.random.default_rng(0)
        images = {f"{k:05}.png": encoded(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8), "PNG") for k in range(60)}
        self.root = write_tree(self.folder / "celeba-hq", images, archive=True)

    def make(self):
        return CelebAHQ(root=self.root, size=16, flip=0.5)

    def make_absent(self):
        return CelebAHQ(root=self.folder / "nowhere", size=16)


class TestTensorFile(DatasetSuite):
    def lay_out(self):
        np.savez(self.folder / "rows.npz", train=np.random.default_rng(0).normal(size=(30, 3)))

    def make(self):
        return TensorFile(file=self.folder / "rows.npz", shape=[3])

    def make_absent(self):
        return TensorFile(file=self.folder / "nowhere.npz", shape=[3])


def test_cifar_is_absent_in_words_too(tmp_path):
    """CIFAR's own files are read in test_datasets_download.py; its constructor obeys the same law."""

    class Absent(DatasetSuite):
        def make(self):
            return CIFAR10(root=tmp_path, download=False)

        make_absent = make

    Absent().test_constructor_reads_nothing()
    Absent().test_absent_files_are_a_data_error()
    Absent().test_constructor_is_a_documented_schema()


class TestAdam(OptimizerSuite):
    def make(self):
        return Adam(warmup=3, decay="cosine", final=0.1)


class TestAdamW(OptimizerSuite):
    def make(self):
        return AdamW()


class TestAdamax(OptimizerSuite):
    def make(self):
        return Adamax(weight_decay=0.1)


class TestSGD(OptimizerSuite):
    def make(self):
        return SGD(momentum=0.9, nesterov=True)


def test_celeba_hq_is_found_in_data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"CelebA-HQ \(celeba-hq or celeba-hq.zip\) is absent; looked in .* or set 'root'"
    ):
        CelebAHQ().split("train")
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    write_tree(tmp_path / "celeba-hq", {f"{k:05}.png": encoded(pixels, "PNG") for k in range(60)}, archive=False)
    data = CelebAHQ(size=4)
    assert data.data_shape == (3, 4, 4)
    assert len(data.split("train")) + len(data.split("test")) == 60
    assert data.split("train").get(torch.tensor([0]))[0].shape == (1, 3, 4, 4)
