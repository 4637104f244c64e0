"""Sets that torchvision fetches: from a server on this machine, from files that lie there, and not at all."""

import functools
import hashlib
import http.server
import threading
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from datasets_util import cifar_files, digits, encoded, tar_gz, write_mnist, write_tree
from genfw.errors import DataError
from genfw.nn.torchvision import import_torchvision
from genfw_plugins.datasets._files import fetched
from genfw_plugins.datasets.large_images import CelebA, LSUNChurch
from genfw_plugins.datasets.mnist import MNIST, FashionMNIST
from genfw_plugins.datasets.torchvision_sets import CIFAR10, CIFAR100, SVHN

NAMED = [MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN, CelebA, LSUNChurch]


def everything(split):
    return split.get(torch.arange(len(split)))


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server over a folder: ``(folder, address)``."""
    folder = tmp_path / "www"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def plant_cifar(monkeypatch, name: str, label: str) -> dict[str, bytes]:
    """torchvision's class told of small batches, in the real format, instead of the real ones."""
    kind = getattr(import_torchvision("torchvision.datasets"), name)
    files = cifar_files(kind, label=label)
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[file, md5(files[file])] for file, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    archive = tar_gz({f"{kind.base_folder}/{file}": content for file, content in files.items()})
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    return {f"{kind.base_folder}/{file}": content for file, content in files.items()} | {kind.filename: archive}


@pytest.mark.parametrize("kind", NAMED)
def test_without_a_network_it_is_said_what_to_fetch_and_where_to_put_it(kind, tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("GENFW_DATA", str(tmp_path))
    data = kind()
    name = {CelebA: "celeba", LSUNChurch: "lsun-church"}.get(kind) or kind.names[0]
    with pytest.raises(DataError) as caught:
        data.split("train")
    text = str(caught.value)
    assert "can't be downloaded" in text
    assert str(tmp_path / name) in text
    assert "'root'" in text
    assert kind is CelebA or "no route to host" in text  # CelebA's download needs the package gdown first


@pytest.mark.parametrize("kind", NAMED)
def test_download_false_asks_no_network(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was used"))
    with pytest.raises(DataError, match="is absent; looked in ") as caught:
        kind(root=tmp_path / "data", download=False).split("train")
    assert str(tmp_path / "data") in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", NAMED)
def test_unknown_splits_are_refused(kind, tmp_path):
    with pytest.raises(DataError, match="no split 'dev'; there are train, "):
        kind(root=tmp_path, download=False).split("dev")


def test_mnist_is_fetched_and_kept(server, tmp_path, monkeypatch):
    folder, address = server
    write_mnist(folder)
    kind = import_torchvision("torchvision.datasets").MNIST
    monkeypatch.setattr(kind, "mirrors", [address])
    monkeypatch.setattr(kind, "resources", [(file, md5((folder / file).read_bytes())) for file, _ in kind.resources])
    x, y = everything(MNIST(root=tmp_path / "data").split("train"))
    images, labels = digits(40)
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8).squeeze(1), torch.from_numpy(images))
    assert y.tolist() == labels.tolist()
    for file in folder.iterdir():
        file.unlink()
    assert len(MNIST(root=tmp_path / "data").split("test")) == 20


def test_a_damaged_download_is_not_used(server, tmp_path, monkeypatch):
    folder, address = server
    write_mnist(folder)
    monkeypatch.setattr(import_torchvision("torchvision.datasets").MNIST, "mirrors", [address])
    with pytest.raises(DataError, match=r"can't be downloaded .*corrupted"):
        MNIST(root=tmp_path / "data").split("train")


@pytest.mark.parametrize(("kind", "label"), [(CIFAR10, "labels"), (CIFAR100, "fine_labels")])
def test_cifar_is_fetched_and_read(kind, label, server, tmp_path, monkeypatch):
    folder, address = server
    files = plant_cifar(monkeypatch, kind.names[1], label)
    theirs = getattr(import_torchvision("torchvision.datasets"), kind.names[1])
    (folder / theirs.filename).write_bytes(files[theirs.filename])
    monkeypatch.setattr(theirs, "url", address + theirs.filename)
    data = kind(root=tmp_path / "data", flip=0.5)
    x, y = everything(data.split("train"))
    batches = 5 if kind is CIFAR10 else 1
    assert x.shape == (4 * batches, *data.data_shape) == (4 * batches, 3, 32, 32)
    assert y[:4].tolist() == [0, 1, 2, 3]
    assert len(data.split("test")) == 4


def test_cifar_pixels_are_those_of_the_batches(tmp_path, monkeypatch):
    import pickle

    files = plant_cifar(monkeypatch, "CIFAR10", "labels")
    write_tree(tmp_path / "cifar10", files, archive=False)
    x, y = everything(CIFAR10(root=tmp_path, download=False).split("test"))
    batch = pickle.loads(files["cifar-10-batches-py/test_batch"])
    rows = torch.from_numpy(batch["data"]).view(-1, 3, 32, 32)
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8), rows)
    assert y.tolist() == batch["labels"]
    kept = CIFAR10(root=tmp_path, download=False, classes=[5, 6], size=16).split("test").get(torch.arange(2))
    assert kept[0].shape == (2, 3, 16, 16)
    assert set(kept[1].tolist()) == {5, 6}


def test_an_archive_that_lies_there_is_unpacked_without_a_network(tmp_path, monkeypatch, no_network):
    files = plant_cifar(monkeypatch, "CIFAR10", "labels")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(files["cifar-10-python.tar.gz"])
    assert len(CIFAR10(root=tmp_path).split("train")) == 20


def test_damaged_batches_are_refused(tmp_path, monkeypatch):
    files = plant_cifar(monkeypatch, "CIFAR10", "labels")
    write_tree(tmp_path, files, archive=False)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"not what it was")
    with pytest.raises(DataError, match=r"damaged: .*Remove it"):
        CIFAR10(root=tmp_path, download=False).split("test")


def test_svhn_is_read_from_its_matlab_files(tmp_path, monkeypatch):
    import scipy.io

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
    theirs = import_torchvision("torchvision.datasets").SVHN
    sums = {}
    for name in ("train", "test", "extra"):
        file = tmp_path / f"{name}_32x32.mat"
        scipy.io.savemat(file, {"X": pixels, "y": np.array([[1], [10], [3], [4], [10], [9]])})
        sums[name] = [*theirs.split_list[name][:2], md5(file.read_bytes())]
    monkeypatch.setattr(theirs, "split_list", sums)
    data = SVHN(root=tmp_path, download=False)
    x, y = everything(data.split("extra"))
    assert y.tolist() == [1, 0, 3, 4, 0, 9]
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8), torch.from_numpy(pixels).permute(3, 2, 0, 1))
    assert len(SVHN(root=tmp_path, download=False, exclude=[0]).split("train")) == 4


def face(number: int) -> bytes:
    """An image of CelebA's size: red outside the box of the crop, its number inside."""
    pixels = np.zeros((218, 178, 3), dtype=np.uint8)
    pixels[..., 0] = 255
    pixels[40:188, 15:163] = number % 200
    return encoded(pixels)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("inside", ["", "celeba"])
def test_celeba_is_cut_and_partitioned(tmp_path, archive, inside):
    numbers = [1, 2, 162_770, 162_771, 182_637, 182_638, 202_599]
    # torchvision keeps .jpg names; PNG content keeps the pixels exact here.
    files = {f"img_align_celeba/{number:06}.jpg": face(number) for number in numbers}
    if archive:
        write_tree(tmp_path / inside / "img_align_celeba", files, archive=True)
    else:
        write_tree(tmp_path / inside, files, archive=False)
    data = CelebA(root=tmp_path, download=False)
    rows = {name: everything(data.split(name))[0] for name in ("train", "valid", "test")}
    for name, of in (("train", numbers[:3]), ("valid", numbers[3:5]), ("test", numbers[5:])):
        levels = ((rows[name] + 1) * 127.5).round().to(torch.uint8)
        assert levels.shape == (len(of), 3, 64, 64)
        assert [image.unique().tolist() for image in levels] == [[number % 200] for number in of]
    assert len(CelebA(root=tmp_path, download=False, limit=2, crop=178).split("train")) == 2


def test_a_part_of_celeba_is_pointed_to_image_folder(tmp_path):
    write_tree(tmp_path, {"img_align_celeba/000001.jpg": face(1)}, archive=False)
    with pytest.raises(DataError, match=r"no images numbered 182638.jpg .* 'use: image-folder'"):
        CelebA(root=tmp_path, download=False).split("test")


def write_lmdb(folder: Path, images: dict[str, bytes]) -> None:
    import lmdb

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for key, content in images.items():
            transaction.put(key.encode(), content)


def test_churches_are_read_in_the_order_of_their_keys(tmp_path):
    flat = {f"{key:040x}": encoded(np.full((20 + key, 30, 3), key, np.uint8)) for key in (9, 4, 7)}
    write_lmdb(tmp_path / "lsun-church/church_outdoor_train_lmdb", flat)
    write_lmdb(tmp_path / "lsun-church/church_outdoor_val_lmdb", {"a": encoded(np.zeros((20, 20, 3), np.uint8))})
    data = LSUNChurch(root=tmp_path, download=False, size=16, cache_mib=0)
    x, y = everything(data.split("train"))
    assert y is None
    assert ((x + 1) * 127.5).round()[:, 0, 0, 0].tolist() == [4, 7, 9]
    assert everything(data.split("test"))[0].max() == -1.0


def test_churches_are_fetched(server, tmp_path, monkeypatch):
    folder, address = server
    write_lmdb(tmp_path / "made/church_outdoor_val_lmdb", {"a": encoded(np.zeros((20, 20, 3), np.uint8))})
    files = {
        f"church_outdoor_val_lmdb/{file.name}": file.read_bytes()
        for file in (tmp_path / "made/church_outdoor_val_lmdb").iterdir()
    }
    write_tree(folder / "church_outdoor_val_lmdb", files, archive=True)
    monkeypatch.setattr(LSUNChurch, "address", address + "church_outdoor_{}_lmdb.zip")
    part = tmp_path / "data/church_outdoor_val_lmdb.part"  # an interrupted download
    write_tree(part, {"church_outdoor_val_lmdb.zip": b"PK half"}, archive=False)
    assert len(LSUNChurch(root=tmp_path / "data").split("test")) == 1
    assert not part.exists()
    (folder / "church_outdoor_train_lmdb.zip").write_bytes(b"PK half")
    with pytest.raises(DataError, match="can't be downloaded"):
        LSUNChurch(root=tmp_path / "data").split("train")


def test_processes_fetch_in_turn(tmp_path):
    """Two that fetch at once: the second waits, and sees what the first left."""
    order: list[str] = []

    def slow():
        order.append("begin")
        time.sleep(0.2)
        order.append("end")

    # A lock of a file belongs to its open handle, so threads stand for processes here.
    threads = [threading.Thread(target=fetched, args=("x", tmp_path, "", slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["begin", "end"] * 3


def test_a_damaged_database_is_refused(tmp_path):
    folder = tmp_path / "church_outdoor_train_lmdb"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(DataError, match="can't be read as an LMDB database"):
        LSUNChurch(root=tmp_path, download=False).split("train")
