"""Folders and archives of images, Hugging Face sets, files of arrays."""

import io
import sys
import threading
import types

import numpy as np
import PIL.Image
import pytest
import torch

from datasets_util import encoded, write_tree
from genfw.errors import ContractError, DataError
from genfw_plugins.datasets._images import ZipSource
from genfw_plugins.datasets.huggingface import HuggingFace
from genfw_plugins.datasets.image_folder import ImageFolder
from genfw_plugins.datasets.tensor_file import TensorFile
from places import DATA

#: Real archives that are on this machine -> how they are read, count of images, labels.
REAL = {
    "cifar10/cifar10-jpeg.zip": ({"size": 32}, (50_000, 10_000), 10),
    "celeba/celeba-10k-89x109.zip": ({"size": 64, "crop": [8, 20, 82, 94]}, (9_000, 1_000), 1),
    "tiny-imagenet-32/tiny-imagenet-val-32x32.zip": ({"size": 32}, (9_000, 1_000), 1),
    "omniglot/images_background_small1.zip": ({"size": 28, "channels": 1, "invert": True}, (2_448, 272), 136),
}


def png(pixels):
    """An image of (H, W, 1) as a file."""
    return encoded(pixels[:, :, 0])


def everything(split):
    return split.get(torch.arange(len(split)))


def levels(x):
    return ((x + 1) * 127.5).round().to(torch.uint8)


def flat(level: int, height: int = 8, width: int = 8) -> bytes:
    return encoded(np.full((height, width, 3), level, np.uint8))


def two_classes(count: int = 6) -> dict[str, bytes]:
    """``train`` and ``test`` folders with cats (dark) and dogs (light), and files that are not images."""
    files = {"train/notes.txt": b"hello", "__MACOSX/train/cat/._0.png": b"shadow", "train/cat/.hidden.png": b"x"}
    for split, shift in (("train", 0), ("test", 100)):
        for k in range(count):
            files[f"{split}/cat/{k}.png"] = flat(shift + k)
            files[f"{split}/dog/{k}.PNG"] = flat(shift + k + 50)
    return files


@pytest.mark.parametrize("archive", [True, False])
def test_folders_become_splits_and_labels(tmp_path, archive):
    data = ImageFolder(root=write_tree(tmp_path / "pets", two_classes(), archive=archive), size=8)
    for name, shift in (("train", 0), ("test", 100)):
        x, y = everything(data.split(name))
        assert x.shape[1:] == data.data_shape == (3, 8, 8)
        assert levels(x)[:, 0, 0, 0].tolist() == [shift + k for k in range(6)] + [shift + 50 + k for k in range(6)]
        assert y.tolist() == [0] * 6 + [1] * 6
    assert not data.split("train").in_memory


def test_splits_can_be_named(tmp_path):
    root = write_tree(tmp_path / "pets", two_classes(), archive=False)
    assert len(ImageFolder(root=root, size=8, train="train/cat/", test="test/").split("train")) == 6
    only_test = ImageFolder(root=root, size=8, test="*/dog/*")
    assert (len(only_test.split("test")), len(only_test.split("train"))) == (12, 12)
    assert only_test.split("train").labels is not None
    with pytest.raises(DataError, match=r"no images for the split 'test' .*test: valid/"):
        ImageFolder(root=root, size=8, train="train/", test="valid/").split("test")


def test_the_drawn_split_depends_on_names_alone(tmp_path):
    files = {f"{k:03}.png": flat(k % 256) for k in range(300)}
    root = write_tree(tmp_path / "many", files, archive=False)
    data = ImageFolder(root=root, size=8, test_fraction=0.2)
    train, test = data.split("train"), data.split("test")
    assert len(train) + len(test) == 300
    assert 35 < len(test) < 85
    assert not set(train.names) & set(test.names)
    assert everything(test)[1] is None
    write_tree(root, {"0000.png": flat(0), "zzz.png": flat(1)}, archive=False)
    again = ImageFolder(root=root, size=8, test_fraction=0.2).split("test")
    assert set(test.names) <= set(again.names)
    archived = ImageFolder(root=write_tree(tmp_path / "zipped", files, archive=True), size=8, test_fraction=0.2)
    assert archived.split("test").names == test.names


def test_a_file_may_name_the_test_images(tmp_path):
    files = {f"{k:03}.png": flat(k) for k in range(20)}
    root = write_tree(tmp_path / "many", files, archive=True)
    names = tmp_path / "test.txt"
    names.write_text("003.png\n\n017.png\n")
    data = ImageFolder(root=root, size=8, test_file=names)
    assert list(data.split("test").names) == ["003.png", "017.png"]
    assert len(data.split("train")) == 18
    assert not {"003.png", "017.png"} & set(data.split("train").names)
    assert list(data.split("all").names) == sorted(files)
    names.write_text("003.png\n900.png\n")
    with pytest.raises(DataError, match=r"no image 900\.png, which .* names \(1 are absent\)"):
        ImageFolder(root=root, size=8, test_file=names).split("test")
    with pytest.raises(DataError, match="keep one"):
        ImageFolder(root=root, size=8, test_file=names, test="0*").split("test")
    with pytest.raises(DataError, match=r"'test_file' .* can't be read"):
        ImageFolder(root=root, size=8, test_file=tmp_path / "absent").split("test")


def test_a_random_crop_is_one_of_the_squares_along_the_longer_side(tmp_path):
    ramp = np.repeat(np.arange(24, dtype=np.uint8)[None, :, None] * 10, 8, axis=0)
    root = write_tree(tmp_path / "wide", {"train/a.png": png(ramp), "test/a.png": png(ramp)}, archive=False)
    data = ImageFolder(root=root, size=8, channels=1, random_crop=True)
    generator = torch.Generator().manual_seed(0)
    train, index = data.split("train"), torch.zeros(200, dtype=torch.int64)
    x = levels(train.get(index, generator=generator)[0])
    assert {int(first) // 10 for first in x[:, 0, 0, 0]} == set(range(17))
    assert (x.diff(dim=-1) == 10).all()
    # Whoever looks at the data sees the centre, as in the test split.
    assert torch.equal(train.get(index[:1])[0], data.split("test").get(index[:1])[0])
    tall = write_tree(tmp_path / "tall", {"a.png": png(np.zeros((48, 16, 1), np.uint8))}, archive=False)
    split = ImageFolder(root=tall, size=8, channels=1, random_crop=True, test="b").split("train")
    assert split.get(index[:1], generator=generator)[0].shape == (1, 1, 8, 8)
    with pytest.raises(ContractError, match="random_crop chooses the square"):
        ImageFolder(root=root, size=8, crop=4, random_crop=True)


def test_five_bits_are_32_levels_from_end_to_end(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    root = write_tree(tmp_path / "ramp", {"a.png": png(ramp)}, archive=False)
    x = ImageFolder(root=root, size=16, channels=1, bits=5, test="b").split("train").get(torch.tensor([0]))[0]
    expected = torch.arange(256).div(8, rounding_mode="floor") / 31 * 2 - 1
    torch.testing.assert_close(x.flatten(), expected.float())


def test_classes_and_limit(tmp_path):
    root = write_tree(tmp_path / "pets", two_classes(), archive=True)
    x, y = everything(ImageFolder(root=root, size=8, classes=["dog"], limit=4).split("train"))
    assert (len(x), set(y.tolist())) == (4, {1})
    with pytest.raises(DataError, match="the folders are cat, dog"):
        ImageFolder(root=root, size=8, classes=["bird"]).split("train")


def test_crops(tmp_path):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 100  # the largest centred square
    pixels[3:7, 8:12] = 200  # a centred square of side 4
    pixels[0:2, 0:3] = 255
    root = write_tree(tmp_path / "one", {"a.png": encoded(pixels), "b.png": encoded(pixels)}, archive=False)

    def seen(**options):
        return levels(everything(ImageFolder(root=root, train="a", test="b", **options).split("train"))[0])

    assert seen(size=10).unique().tolist() == [100, 200]
    assert seen(size=4, crop=4).unique().tolist() == [200]
    assert seen(size=2, crop=[0, 0, 3, 2]).unique().tolist() == [255]
    assert seen(size=4, crop=4, invert=True).unique().tolist() == [55]
    with pytest.raises(DataError, match=r"image a.png: it is 20 wide and 10 high, too small for 'crop: 11'"):
        seen(size=4, crop=11)


def test_grey_and_colour_and_odd_modes(tmp_path):
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[..., 0] = 255
    deep = io.BytesIO()
    PIL.Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(deep, "PNG")
    bits = io.BytesIO()
    PIL.Image.fromarray(np.full((4, 4), 255, np.uint8)).convert("1").save(bits, "PNG")
    files = {
        "1.png": encoded(colour),
        "2.png": encoded(colour[..., 0]),
        "3.png": bits.getvalue(),
        "4.png": deep.getvalue(),
    }
    root = write_tree(tmp_path / "modes", files, archive=False)
    data = ImageFolder(root=root, size=4, channels=1, test="4")
    x, _ = everything(data.split("train"))
    assert x.shape == (3, 1, 4, 4)
    assert levels(x)[:, 0, 0, 0].tolist() == [76, 255, 255]  # ITU-R 601 luma of red is 76
    x, _ = everything(ImageFolder(root=root, size=4, test="4").split("train"))
    assert levels(x)[:, :, 0, 0].tolist() == [[255, 0, 0], [255, 255, 255], [255, 255, 255]]
    assert levels(everything(data.split("test"))[0]).unique().tolist() == [156]  # 40,000 of 65,535


@pytest.mark.parametrize(("kind", "mode"), [("TIFF", "RGB"), ("TIFF", "I;16"), ("PNG", "I;16"), ("PNG", "RGBA")])
def test_what_other_programs_write_is_read(tmp_path, kind, mode):
    file, colour = io.BytesIO(), {"RGB": (10, 20, 30), "I;16": 20 * 257, "RGBA": (10, 20, 30, 40)}[mode]
    PIL.Image.new(mode, (8, 8), colour).save(file, kind)
    root = write_tree(tmp_path / "set", {f"{k}.{kind.lower()}": file.getvalue() for k in "ab"}, archive=False)
    x, _ = everything(ImageFolder(root=root, size=8, test="b", channels=4).split("train"))
    expected = {"RGB": [10, 20, 30, 255], "I;16": [20, 20, 20, 255], "RGBA": [10, 20, 30, 40]}[mode]
    assert levels(x)[0, :, 4, 4].tolist() == expected


def test_floats_and_a_background_of_nothing_are_refused(tmp_path):
    file = io.BytesIO()
    PIL.Image.new("F", (8, 8), 0.5).save(file, "TIFF")
    root = write_tree(tmp_path / "set", {"a.tif": file.getvalue(), "b.tif": file.getvalue()}, archive=False)
    with pytest.raises(DataError, match=r"image a.tif: its numbers are neither 8 nor 16 bits \(mode F\)"):
        everything(ImageFolder(root=root, size=8, test="b").split("train"))
    with pytest.raises(ContractError, match="'channels: 4' reads the opacity as it is"):
        ImageFolder(root=root, size=8, channels=4, background=0)


@pytest.mark.parametrize("archive", [True, False])
def test_files_that_are_no_images_are_counted(tmp_path, archive, caplog):
    files = {f"{k}.png": flat(k) for k in range(4)} | {"a.heic": b"x", "b.HEIC": b"x", "LICENSE": b"x"}
    data = ImageFolder(root=write_tree(tmp_path / "set", files, archive=archive), size=8, test="0")
    data.split("train")
    assert "3 files are not read as images: 2 .heic, 1 without ending" in caplog.text
    with pytest.raises(DataError, match=r"no images for the split 'test' .* \(3 files are not read"):
        ImageFolder(root=data.root, size=8, test="valid/").split("test")


def test_a_background_is_behind_transparent_pixels(tmp_path):
    file = io.BytesIO()
    PIL.Image.fromarray(np.full((8, 8, 4), (0, 100, 255, 51), np.uint8)).save(file, "PNG")
    root = write_tree(tmp_path / "set", {"1.png": file.getvalue(), "2.png": flat(7), "3.png": flat(7)}, archive=False)
    with pytest.raises(DataError, match=r"image 1.png: it has transparent pixels; .*'background'"):
        everything(ImageFolder(root=root, size=8, test="3").split("train"))
    x, _ = everything(ImageFolder(root=root, size=8, test="3", background=200).split("train"))
    # Of alpha 51 / 255, a fifth is the pixel's own.
    assert levels(x)[0, :, 0, 0].tolist() == [160, 180, 211]
    assert levels(x)[1].unique().tolist() == [7]


def test_shrinking_filters(tmp_path):
    """A fine checkerboard turns to even grey; reading every other pixel would give black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    root = write_tree(tmp_path / "board", {"a.png": encoded(pixels), "b.png": encoded(pixels)}, archive=False)
    for resample in ("bilinear", "bicubic", "lanczos", "box"):
        x, _ = everything(ImageFolder(root=root, size=16, train="a", test="b", resample=resample).split("train"))
        # Away from the border, where the filters see the pattern cut off.
        assert (levels(x)[..., 3:-3, 3:-3].float() - 127.5).abs().max() < 3


@pytest.mark.parametrize("cache_mib", [0, 1024])
def test_rows_are_pure_functions_of_their_number(tmp_path, cache_mib):
    root = write_tree(tmp_path / "pets", two_classes(), archive=True)
    split = ImageFolder(root=root, size=8, flip=0.5, cache_mib=cache_mib).split("train")
    whole, labels = everything(split)
    index = torch.tensor([7, 0, 7, 3])
    x, y = split.get(index)
    assert torch.equal(x, whole[index])
    assert torch.equal(y, labels[index])
    x.zero_()
    assert torch.equal(split.get(index)[0], whole[index])
    first, again = (split.get(index, generator=torch.Generator().manual_seed(0))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert (split._cache is None) == (cache_mib == 0)


def test_threads_and_forks_read_one_archive(tmp_path):
    rng = np.random.default_rng(0)
    files = {f"{k:03}.png": encoded(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for k in range(64)}
    root = write_tree(tmp_path / "noise", files, archive=True)
    split = ImageFolder(root=root, size=16, test="none", train="0", cache_mib=0).split("train")
    whole, _ = everything(split)
    wrong: list[int] = []

    def read(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(10):
            index = torch.randint(len(split), (8,), generator=generator)
            if not torch.equal(split.get(index)[0], whole[index]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_opens_the_archive_anew(tmp_path):
    source = ZipSource(write_tree(tmp_path / "pets", two_classes(), archive=True))
    name = source.names()[3]
    mine, (process, handle) = np.asarray(source.open(name)).tobytes(), source._archive
    assert np.asarray(source.open(name)).tobytes() == mine
    assert source._archive[1] is handle
    source._archive = (process + 1, handle)  # what a child inherits: a handle of another process
    assert np.asarray(source.open(name)).tobytes() == mine
    assert source._archive[0] == process
    assert source._archive[1] is not handle


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no folder or zip archive at .*nowhere; set 'root'"):
        ImageFolder(root=tmp_path / "nowhere", size=8).split("train")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(DataError, match="can't be read: File is not a zip file"):
        ImageFolder(root=tmp_path / "text.zip", size=8).split("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images for the split 'train'"):
        ImageFolder(root=tmp_path / "empty", size=8).split("train")
    root = write_tree(tmp_path / "broken", {"a.png": flat(3)[:40], "b.jpg": b"hello"}, archive=False)
    with pytest.raises(DataError, match=r"image a.png: it can't be read: .* Is it damaged"):
        everything(ImageFolder(root=root, size=8, train="a", test="b").split("train"))
    with pytest.raises(DataError, match=r"image b.jpg: it can't be read: .* Is it damaged"):
        everything(ImageFolder(root=root, size=8, train="a", test="b").split("test"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "at least 1"),
        ({"crop": [0, 0, 4]}, "a crop box is"),
        ({"crop": [4, 0, 4, 4]}, "left < right"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"flip": -0.1}, r"flip must lie in \[0, 1\]"),
    ],
)
def test_nonsense_is_refused_at_once(options, text):
    with pytest.raises(ContractError, match=text):
        ImageFolder(root="/nowhere", **{"size": 8, **options})


@pytest.mark.parametrize("name", [name for name in REAL if (DATA / name).is_file()])
def test_real_archives_read(name):
    options, counts, classes = REAL[name]
    data = ImageFolder(root=DATA / name, **options)
    train, test = data.split("train"), data.split("test")
    assert len(train) + len(test) == sum(counts)
    assert len(test) == pytest.approx(counts[1], rel=0.15)
    index = torch.arange(0, len(train), len(train) // 50)
    x, y = train.get(index)
    assert x.shape[1:] == data.data_shape
    assert x.std() > 0.2
    if classes == 1:
        assert y is None
    else:
        assert train.labels.unique().numel() == classes
    if name.startswith("cifar10"):
        assert (counts, y[:6].tolist()) == ((len(train), len(test)), [0] * 5 + [1])


class FakeRows:
    """The part of ``datasets.Dataset`` that the loader uses, over a list of rows."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    column_names = property(lambda self: list(self.rows[0]))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def select(self, indices):
        return FakeRows([self.rows[k] for k in indices])

    def select_columns(self, names):
        return FakeRows([{name: row[name] for name in names} for row in self.rows])

    def cast_column(self, name, feature):
        assert feature.decode is False
        return self


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the package ``datasets``, which is an optional extra; ``asked`` records the calls."""
    (tmp_path / "c.png").write_bytes(flat(30))
    rows = [
        {"image": {"bytes": flat(10), "path": None}, "label": 4},
        {"image": {"bytes": flat(20), "path": "b.png"}, "label": 2},
        {"image": {"bytes": None, "path": str(tmp_path / "c.png")}, "label": 0},
    ]
    module = types.ModuleType("datasets")
    module.asked = []
    module.exceptions = types.SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    module.Image = lambda decode: types.SimpleNamespace(decode=decode)

    def load_dataset(path, name=None, *, data_dir=None, split=None, revision=None):
        module.asked.append((path, name, data_dir, split, revision))
        if path == "absent":
            raise FileNotFoundError("couldn't reach the Hub")
        if split == "validation":
            raise ValueError("Unknown split")
        return FakeRows(rows)

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_hugging_face_rows_become_images(hub):
    data = HuggingFace(path="user/set", size=8, config="small", revision="abc", label="label", test="test[:1%]")
    assert not hub.asked
    x, y = everything(data.split("train"))
    assert x.shape[1:] == data.data_shape == (3, 8, 8)
    assert levels(x)[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert y.tolist() == [4, 2, 0]
    data.split("test")
    assert hub.asked == [("user/set", "small", None, "train", "abc"), ("user/set", "small", None, "test[:1%]", "abc")]
    assert len(HuggingFace(path="user/set", size=8, label="label", limit=2).split("train")) == 2
    assert everything(HuggingFace(path="user/set", size=8, channels=1).split("train"))[1] is None


def test_hugging_face_failures_are_said(hub):
    with pytest.raises(DataError, match="can't be loaded: couldn't reach the Hub"):
        HuggingFace(path="absent", size=8).split("train")
    with pytest.raises(DataError, match="the split 'validation' of user/set"):
        HuggingFace(path="user/set", size=8, test="validation").split("test")
    with pytest.raises(DataError, match="no column 'img'; it has image, label"):
        HuggingFace(path="user/set", size=8, image="img").split("train")
    with pytest.raises(DataError, match="no split 'dev'"):
        HuggingFace(path="user/set", size=8).split("dev")


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_arrays_in_a_file(tmp_path, form):
    from safetensors.numpy import save_file

    arrays = {
        "train": np.arange(60, dtype=np.uint8).reshape(20, 3),
        "label": np.arange(20, dtype=np.int64),
        "other": np.ones((5, 3), np.float64),
        "few": np.zeros(5, np.int64),
    }
    file = tmp_path / f"rows.{form}"
    np.savez(file, **arrays) if form == "npz" else save_file(arrays, file)
    data = TensorFile(file=file, shape=[3], train_labels="label", test_fraction=0.25)
    x, y = everything(data.split("train"))
    x2, y2 = everything(data.split("test"))
    assert data.data_shape == (3,)
    assert torch.equal(levels(torch.cat([x, x2])), torch.from_numpy(arrays["train"]))
    assert (len(x), torch.cat([y, y2]).tolist()) == (15, list(range(20)))
    whole = TensorFile(file=file, shape=[3], test="other")
    assert (len(whole.split("train")), whole.split("train").labels) == (20, None)
    assert everything(whole.split("test"))[0].dtype == torch.float32
    assert everything(whole.split("test"))[0].unique().tolist() == [1.0]
    assert len(TensorFile(file=file, shape=[3], limit=4).split("train")) == 4
    with pytest.raises(DataError, match="no array 'rows'; it has "):
        TensorFile(file=file, shape=[3], train="rows").split("train")
    with pytest.raises(DataError, match=r"have shape \(3,\), but 'shape' is \(1, 2\)"):
        TensorFile(file=file, shape=[1, 2]).split("train")
    with pytest.raises(DataError, match="20 rows but 5 labels"):
        TensorFile(file=file, shape=[3], train_labels="few").split("train")
    with pytest.raises(DataError, match=r"'other' of .* has shape \(5, 3\); classes are one number each"):
        TensorFile(file=file, shape=[3], train_labels="other").split("train")
    file.write_bytes(b"junk")
    with pytest.raises(DataError, match="can't be read"):
        TensorFile(file=file, shape=[3]).split("train")
    file.unlink()
    with pytest.raises(DataError, match="there is no file"):
        TensorFile(file=file, shape=[3]).split("train")


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "rows.npz", train=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(DataError, match="it holds Python objects, and nothing is ever unpickled"):
        TensorFile(file=tmp_path / "rows.npz", shape=[1]).split("train")
    with pytest.raises(ContractError, match=r"must end in \.npz, \.npy, \.csv, \.safetensors, \.pt, \.pth; got"):
        TensorFile(file=tmp_path / "rows.h5", shape=[1])


def _write_rows(file, rows):
    from safetensors.torch import save_file

    match file.name:
        case "rows.npz":
            np.savez_compressed(file, train=rows.numpy())
        case "rows.npy":
            np.save(file, rows.numpy())
        case "rows.csv":
            np.savetxt(file, rows.numpy(), delimiter=",", header="x,y,z")
        case "names.csv":
            file.write_text("\ufeffx;y;z\n" + "\n".join(";".join(map(repr, row)) for row in rows.tolist()) + "\n")
        case "rows.safetensors":
            save_file({"train": rows}, file)
        case "rows.pt":
            torch.save(rows, file)
        case "rows.pth":
            torch.save({"train": rows, "epoch": 3}, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "name", ["rows.npz", "rows.npy", "rows.csv", "names.csv", "rows.safetensors", "rows.pt", "rows.pth"]
)
def test_every_kind_of_file_gives_its_rows_and_their_shape(tmp_path, name):
    rows = torch.randn(20, 3, dtype=torch.float64)
    _write_rows(tmp_path / name, rows)
    data = TensorFile(file=tmp_path / name)
    assert data.data_shape == (3,)
    read = torch.cat([everything(data.split("train"))[0], everything(data.split("test"))[0]])
    assert (len(data.split("train")), read.dtype) == (18, torch.float32)
    assert torch.equal(read, rows.float())


def test_columns_of_a_csv_file_become_images(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(",".join(str(n) for n in range(8)) for _ in range(4)))
    x, _ = everything(TensorFile(file=tmp_path / "a.csv", shape=[2, 2, 2]).split("train"))
    assert x[0].flatten().tolist() == list(range(8))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "x,y\n1,2\n3,nan\n5,6\n", r"'train' of .*a.csv has 1 values .* nan in row 1, column 1, .*\[1, 3\]"),
        ("a.csv", "1,2\n3,4,5\n", "columns changed from 2 to 3"),
        ("a.csv", "1,two\n3,4\n", "both numbers and texts, such as 'two'"),
        ("a.csv", "x,y\n1,two\n", "could not convert string 'two'"),
        ("a.csv", "x,y\n", "no data"),
        ("a.csv", "", "no data"),
        ("a.npy", "junk", "can't be read"),
        ("a.pt", "junk", "no checkpoint of torch.save"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_wrong_with_an_array_is_said(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        TensorFile(file=tmp_path / name).split("train")


def test_a_lying_header_takes_no_memory(tmp_path):
    """NumPy asks for as much memory as a header says."""
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match="the header says 64 bytes of numbers, and 56 are there"):
        TensorFile(file=tmp_path / "a.npy").split("train")
