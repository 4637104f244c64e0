"""idx files, MNIST by name, and stacked MNIST."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets_util import digits, idx_bytes, write_idx, write_mnist
from genfw.errors import ContractError, DataError
from genfw.training.loader import Loader
from genfw_plugins.datasets._arrays import ArraySplit, resize_pixels
from genfw_plugins.datasets.digits import Digits
from genfw_plugins.datasets.idx import IdxImages, read_idx
from genfw_plugins.datasets.mnist import MNIST, FashionMNIST
from genfw_plugins.datasets.stacked import Stacked
from genfw_plugins.datasets.toy import GaussianGrid
from places import DATA

#: Real sets that are on this machine: folder and count of test images.
REAL = [name for name in ("mnist", "fashion-mnist", "notmnist") if (DATA / name).is_dir()]


def everything(split):
    return split.get(torch.arange(len(split)))


@pytest.mark.parametrize("gz", [True, False])
def test_pixels_come_back_exactly(tmp_path, gz):
    images, labels = digits(12)
    images[0, 0, :3] = (0, 128, 255)
    write_idx(tmp_path, "train", images, labels, gz=gz)
    data = IdxImages(root=tmp_path)
    x, y = everything(data.split("train"))
    assert x.shape[1:] == data.data_shape == (1, 28, 28)
    assert x.dtype == torch.float32
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8).squeeze(1), torch.from_numpy(images))
    assert x[0, 0, 0, :3].tolist() == pytest.approx([-1.0, 128 / 127.5 - 1, 1.0], abs=1e-6)
    assert y.tolist() == labels.tolist()
    assert y.dtype == torch.int64


def test_gzip_is_told_from_the_content_not_the_name(tmp_path):
    images, labels = digits(3)
    (tmp_path / "a.idx").write_bytes(gzip.compress(idx_bytes(images)))
    (tmp_path / "b.gz").write_bytes(idx_bytes(labels))
    data = IdxImages(root=tmp_path, train_images="a.idx", train_labels="b.gz")
    assert len(data.split("train")) == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not an idx file"),
        (b"PK\x03\x04....", "not an idx file"),
        (idx_bytes(digits(4)[0])[:-5], "announces 4x28x28 = 3136 bytes but holds 3131"),
        (gzip.compress(idx_bytes(digits(4)[0]), mtime=0)[:-40], "can't be read"),
        (idx_bytes(digits(4)[1]), "expected unsigned bytes"),
        (b"\0\0\x0d\x03" + bytes(12), "idx type 0x0d"),
        (b"\0\0\x08\x03" + bytes(5), "ends within its header"),
        (gzip.compress(b"\0" * 100, mtime=0)[:12] + b"garbage", "can't be read"),
    ],
)
def test_damaged_files_are_refused_with_their_path(tmp_path, content, text):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_absent_and_mismatched_files_are_said(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz\) is absent; looked in .*'train_images'"):
        IdxImages(root=tmp_path).split("train")
    images, labels = digits(4)
    write_idx(tmp_path, "train", images, labels[:3])
    with pytest.raises(DataError, match="4 images but 3 labels"):
        IdxImages(root=tmp_path).split("train")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="train_labels"):
        IdxImages(root=tmp_path).split("train")
    assert IdxImages(root=tmp_path, train_labels=None).split("train").get(torch.arange(2))[1] is None
    with pytest.raises(DataError, match="no split 'valid'; there are train, test, held-out, held-out-train"):
        IdxImages(root=tmp_path).split("valid")


def test_constructors_touch_no_file():
    nowhere = Path("/nonexistent/place")
    assert IdxImages(root=nowhere, size=32).data_shape == (1, 32, 32)
    assert MNIST(root=nowhere).data_shape == (1, 28, 28)
    assert Stacked(source=MNIST(root=nowhere, size=32)).data_shape == (3, 32, 32)


def test_padding_centres_and_changes_no_pixel(tmp_path):
    write_mnist(tmp_path)
    small, _ = everything(IdxImages(root=tmp_path).split("train"))
    large, _ = everything(IdxImages(root=tmp_path, size=32).split("train"))
    assert torch.equal(large[:, :, 2:-2, 2:-2], small)
    assert large.sum() == pytest.approx((small.sum() - small[:, 0].numel() / 784 * (32**2 - 28**2)).item(), rel=1e-4)
    with pytest.raises(DataError, match="28x28 can't be padded to 16x16"):
        IdxImages(root=tmp_path, size=16).split("train")


def test_shrinking_filters_and_rounds_as_pillow_does():
    import PIL.Image

    images, _ = digits(6, size=28)
    ours = resize_pixels(torch.from_numpy(images).unsqueeze(1), 14, "bilinear").squeeze(1).numpy().astype(int)
    for image, mine in zip(images, ours, strict=True):
        theirs = np.asarray(PIL.Image.fromarray(image).resize((14, 14), PIL.Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(theirs - mine).max() <= 1
    flat = torch.full((1, 1, 28, 28), 201, dtype=torch.uint8)
    assert resize_pixels(flat, 9, "bilinear").unique().tolist() == [201]
    # Rounding, not cutting: the mean of noise is kept to far less than half a level.
    assert abs(ours.mean() - images.mean()) < 0.25


def test_the_splits_of_zenati_hold_every_image_of_a_class_out(tmp_path):
    write_mnist(tmp_path, train=50, test=20)
    data = IdxImages(root=tmp_path, exclude=[1], splits="zenati", flip=0.5)
    train, test, held = (everything(data.split(name)) for name in ("train", "test", "held-out"))
    # All 70 images; 7 of them are ones, and four fifths of the other 63 train.
    assert [len(part[1]) for part in (train, test, held)] == [50, 13, 7]
    assert set(held[1].tolist()) == {1}
    assert not {1} & set(torch.cat([train[1], test[1]]).tolist())
    whole = torch.cat([everything(IdxImages(root=tmp_path).split(name))[0] for name in ("train", "test")])
    again = torch.cat([train[0], test[0], held[0]])
    key = (whole.flatten(1) * torch.arange(784.0)).sum(1).sort().values
    assert torch.equal((again.flatten(1) * torch.arange(784.0)).sum(1).sort().values, key)
    other = IdxImages(root=tmp_path, exclude=[1], splits="zenati", seed=1).split("train")
    assert not torch.equal(everything(other)[0], train[0])
    with pytest.raises(DataError, match="there are train, test, held-out"):
        data.split("held-out-train")
    with pytest.raises(DataError, match="name them with 'exclude'"):
        IdxImages(root=tmp_path, splits="zenati").split("train")


def test_classes_are_kept_and_held_out(tmp_path):
    write_mnist(tmp_path, train=50, test=20)
    assert set(everything(IdxImages(root=tmp_path, classes=[3, 5]).split("train"))[1].tolist()) == {3, 5}
    data = IdxImages(root=tmp_path, exclude=[1, 9])
    sizes = {name: len(data.split(name)) for name in ("train", "test", "held-out", "held-out-train")}
    assert sizes == {"train": 40, "test": 16, "held-out": 4, "held-out-train": 10}
    assert set(everything(data.split("held-out"))[1].tolist()) == {1, 9}
    assert not {1, 9} & set(everything(data.split("train"))[1].tolist())
    assert len(IdxImages(root=tmp_path, exclude=[1], limit=7).split("train")) == 7
    with pytest.raises(DataError, match=r"no row is left after 'classes: \[11\]'"):
        IdxImages(root=tmp_path, classes=[11]).split("train")


def test_flips_are_drawn_from_the_generator_and_in_training_alone(tmp_path):
    write_mnist(tmp_path, train=200)
    split = IdxImages(root=tmp_path, flip=0.5).split("train")
    index = torch.arange(200)
    plain, _ = split.get(index)
    first, _ = split.get(index, generator=torch.Generator().manual_seed(1))
    again, _ = split.get(index, generator=torch.Generator().manual_seed(1))
    other, _ = split.get(index, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mirrored = (first == plain.flip(-1)).all((1, 2, 3))
    kept = (first == plain).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 70 < mirrored.sum() < 130
    test = IdxImages(root=tmp_path, flip=1.0).split("test")
    assert torch.equal(everything(test)[0], test.get(torch.arange(20), generator=torch.Generator())[0])
    with pytest.raises(ContractError, match=r"flip must lie in \[0, 1\], got 2"):
        IdxImages(root=tmp_path, flip=2.0)


def test_reading_leaves_the_stored_rows_alone(tmp_path):
    write_mnist(tmp_path)
    split = IdxImages(root=tmp_path).split("train")
    before = split.items.clone()
    x, _ = split.get(torch.arange(5))
    x.zero_()
    assert torch.equal(split.items, before)
    floats = ArraySplit(torch.ones(4, 2))
    floats.get(torch.arange(4))[0].zero_()
    assert torch.equal(floats.items, torch.ones(4, 2))


def test_the_loader_reads_each_row_once_an_epoch(tmp_path):
    write_mnist(tmp_path, train=40)
    split = IdxImages(root=tmp_path).split("train")
    loader = Loader(split, 8, seed=0)
    labels = torch.cat([loader.batch_at(step).label for step in range(5)])
    assert labels.bincount(minlength=10).tolist() == [4] * 10


@pytest.mark.parametrize("inside", ["", "mnist", "MNIST/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize("gz", [True, False])
def test_mnist_is_found_where_it_lies(tmp_path, inside, gz):
    write_mnist(tmp_path / inside, gz=gz)
    assert len(MNIST(root=tmp_path, download=False).split("train")) == 40
    assert len(MNIST(root=str(tmp_path), download=False, size=32).split("test")) == 20


def test_data_home_is_the_default_and_does_not_mix_up_the_family(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFW_DATA", str(tmp_path))
    write_mnist(tmp_path)  # loose files could be either set
    with pytest.raises(DataError, match=r"is absent; looked in .*fashion-mnist") as caught:
        FashionMNIST(download=False).split("train")
    assert "fashion-mnist" in str(caught.value)
    assert "download: true" in str(caught.value)
    write_mnist(tmp_path / "fashion-mnist", train=10)
    assert len(FashionMNIST(download=False).split("train")) == 10


def test_stacked_rows_are_three_source_rows(tmp_path):
    write_mnist(tmp_path, train=60)
    source = IdxImages(root=tmp_path)
    data = Stacked(source=source, train=500, test=30, seed=4)
    x, y = everything(data.split("train"))
    assert x.shape == (500, 3, 28, 28)
    singles, labels = everything(source.split("train"))
    for row in range(20):
        parts = [int((singles == x[row, c]).all((1, 2, 3)).nonzero()) for c in range(3)]
        assert y[row] == 100 * labels[parts[0]] + 10 * labels[parts[1]] + labels[parts[2]]
    assert torch.equal(x, everything(Stacked(source=source, train=500, seed=4).split("train"))[0])
    assert not torch.equal(x, everything(Stacked(source=source, train=500, seed=5).split("train"))[0])
    assert (len(data.split("test")), y.unique().numel() > 300) == (30, True)
    # Any set of rows gives what the whole gives.
    some, label = data.split("train").get(torch.tensor([7, 3]))
    assert torch.equal(some, x[[7, 3]])
    assert torch.equal(label, y[[7, 3]])


def test_stacking_runs_over_any_grey_set_and_refuses_others():
    assert everything(Stacked(source=Digits(), train=10, test=5).split("train"))[0].shape == (10, 3, 8, 8)
    with pytest.raises(ContractError, match="images of one channel"):
        Stacked(source=GaussianGrid())
    with pytest.raises(DataError, match="no split 'held-out'"):
        Stacked(source=Digits()).split("held-out")


@pytest.mark.parametrize("name", REAL)
def test_real_sets_read_whole(name):
    data = IdxImages(root=DATA / name, size=32)
    x, y = everything(data.split("test"))
    assert x.shape == (10_000, 1, 32, 32)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    assert y.bincount(minlength=10).min() > 800


@pytest.mark.parametrize("kind", [kind for kind in (MNIST, FashionMNIST) if kind.names[0] in REAL])
def test_real_sets_are_found_by_name(kind):
    data = kind(root=DATA, download=False)
    assert (len(data.split("train")), len(data.split("test"))) == (60_000, 10_000)
    first = {"mnist": [5, 0, 4, 1, 9], "fashion-mnist": [9, 0, 0, 3, 0]}[kind.names[0]]
    assert data.split("train").labels[:5].tolist() == first
    mean = {"mnist": 0.1307, "fashion-mnist": 0.2860}[kind.names[0]]
    assert data.split("train").items.double().mean().item() / 255 == pytest.approx(mean, abs=1e-4)
