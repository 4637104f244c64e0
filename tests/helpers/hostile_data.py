"""Hostile data: arrays, idx files and images, for the data sets that read a user's own files."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from genfw.errors import DataError
from genfw_plugins.datasets.idx import IdxImages
from genfw_plugins.datasets.image_folder import ImageFolder
from genfw_plugins.datasets.tensor_file import TensorFile
from hostile import MARKER, Hostile, Right, WrongError
from hostile_checkpoints import Shell, bomb
from places import SHARED

Content = Callable[[], bytes]


def _read(dataset: Any) -> torch.Tensor:
    """Every row of the training split."""
    split = dataset.split("train")
    x: torch.Tensor = split.get(torch.arange(len(split)))[0]
    return x


def _write(name: str, content: Content) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content())

    return make


# -- arrays -----------------------------------------------------------------------------------------------------------


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _packed(npy: bytes, name: str = "train.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, npy)
    return buffer.getvalue()


def _header(text: str, data: bytes = b"\0" * 64, *, version: int = 1, length: int | None = None) -> bytes:
    """An npy file that may say anything of itself."""
    written = text.encode("latin1") + b"\n"
    form = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, length or len(written)) + written + data


def _says(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


#: Rows of two numbers, one of which is not as it should be.
ROWS: dict[str, Any] = {
    "NaN": [[0.5, 0.1], [float("nan"), 0.2], [0.1, 0.2]],
    "infinity": [[0.5, 0.1], [float("inf"), 0.2], [0.1, 0.2]],
    "complex": np.full((20, 2), 1 + 2j),
    "objects": np.array([[1.0, "a"], [None, {}]] * 9, dtype=object),
    "texts": np.array([["a", "b"]] * 20),
    "dates": np.array([["2020-01-01", "2020-01-02"]] * 20, dtype="datetime64[D]"),
    "records": np.zeros((20, 2), dtype=[("a", "f4"), ("b", "i8")]),
    "one number": np.float32(1.0),
    "no rows": np.zeros((0, 2), dtype="f4"),
    "one row": np.zeros((1, 2), dtype="f4"),
    "another shape": np.zeros((20, 3), dtype="f4"),
    "1e300, which no float32 holds": np.full((20, 2), 1e300),
    "numbers of 128 bits": np.zeros((20, 2), dtype=np.longdouble),
    "a shell": np.array([[Shell(), 1]] * 20, dtype=object),
}
#: Rows that are as they should be, written in less usual ways.
GOOD_ROWS: dict[str, Any] = {
    "big-endian": np.zeros((20, 2), dtype=">f4"),
    "half precision": np.zeros((20, 2), dtype="f2"),
    "column-major": np.asfortranarray(np.zeros((20, 2), dtype="f4")),
    "integers": np.zeros((20, 2), dtype="i8"),
    "16-bit integers": np.zeros((20, 2), dtype="u2"),
    "truth values": np.zeros((20, 2), dtype=bool),
}
#: Headers of npy files.
HEADERS: dict[str, bytes] = {
    "2**62 rows": _header(_says(f"({2**62}, 2)")),
    "10**12 rows": _header(_says("(1000000000000, 2)")),
    "10**9 rows": _header(_says("(1000000000, 2)")),
    "rows of 10**400": _header(_says(f"({'1' + '0' * 400}, 2)")),
    "-1 rows": _header(_says("(-1, 2)")),
    "a shape that is a text": _header(_says("'ab'")),
    "no shape": _header("{'descr': '<f4'}"),
    "a header that calls": _header(f"open({MARKER!r}, 'w')"),
    "10,000 brackets": _header("(" * 10_000, version=2),
    "100,000 minus signs": _header(_says("-" * 100_000 + "1"), version=2),
    "a length of 4 GB": _header(_says("(2, 2)"), version=2, length=0xFFFFFFF0),
    "version 9": _header(_says("(2, 2)"), version=9),
    "a type of nonsense": _header(_says("(2, 2)", "'zz'")),
    "a type of 2 GB": _header(_says("(2, 2)", "'V2000000000'")),
    "a type of types": _header(_says("(2, 2)", "[('a', [('b', [('c', '<f4')])])]")),
    "zeros": b"\0" * 100,
    "nothing": b"",
    "a cut": _npy(np.zeros((20, 2), dtype="f4"))[:60],
    "pickled objects": _npy(np.array([[Shell()]], dtype=object)),
}


def _tensors(
    name: str, content: Content, right: Right = "refused", *, file: str = "a.npz", quick: bool = True
) -> Hostile:
    use = lambda folder: _finite(_read(TensorFile(file=folder / file, shape=[2])))  # noqa: E731
    return Hostile(f"arrays: {name}", _write(file, content), use, right, quick)


def _finite(x: torch.Tensor) -> str:
    return "" if x.isfinite().all() else "rows that are not finite"


def _copied(name: str) -> Content:
    return (SHARED / "cases" / name).read_bytes


def _arrays() -> Iterator[Hostile]:
    for name, rows in ROWS.items():
        # Whether a split without rows can be used, its user says.
        right: Right = "either" if name in ("no rows", "one row") else "refused"
        yield _tensors(f"npz of {name}", lambda rows=rows: _npz(train=np.asarray(rows)), right)
    for name, rows in GOOD_ROWS.items():
        yield _tensors(f"npz of {name}", lambda rows=rows: _npz(train=rows), "ok")
    for number, (name, npy) in enumerate(HEADERS.items()):
        yield _tensors(f"npz with {name}", lambda npy=npy: _packed(npy), quick=number % 2 == 0)
    yield _tensors("npz without the array", lambda: _npz(other=np.zeros((20, 2))))
    yield _tensors("npz with labels' names alone", lambda: _packed(b"", "train"))
    yield _tensors("npz that is encrypted", lambda: _patched(6, 8, b"\x01\x00"))
    yield _tensors("npz of a method 99", lambda: _patched(8, 10, b"\x63\x00"))
    yield _tensors("npz of 1.5 GB of zeros", lambda: bomb("train.npy"), quick=False)
    yield _tensors("npz that is a csv", lambda: b"a,b\n1.0,2.0\n" * 30)
    yield _tensors("npz that is an npy", lambda: _npy(np.zeros((20, 2), dtype="f4")), "either")
    yield _tensors("npz that is a pickle", lambda: pickle.dumps(Shell()))
    yield _tensors("npz of zeros", lambda: b"\0" * 1_000)
    yield _tensors("npz of nothing", lambda: b"")
    for seed in range(30):
        yield _tensors(
            f"npz with flipped bits, seed {seed}",
            functools.partial(_flipped, _npz(train=np.zeros((20, 2))), seed),
            "either",
            quick=False,
        )
    for name, header in {
        "a header of 2**60": struct.pack("<Q", 2**60) + b"{}",
        "a header of 90 MB": struct.pack("<Q", 90_000_000) + b" " * 90_000_000,
        "deep JSON": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "numbers beyond the end": _safe('{"train":{"dtype":"F32","shape":[20,2],"data_offsets":[0,160]}}'),
        "a type of nonsense": _safe('{"train":{"dtype":"F99","shape":[2,2],"data_offsets":[0,16]}}'),
        "a shape of 2**62": _safe('{"train":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,16]}}'),
        "nothing": b"",
    }.items():
        yield _tensors(f"safetensors with {name}", lambda header=header: header, file="a.safetensors")
    if (SHARED / "cases").is_dir():
        yield _tensors("points.csv", _copied("points.csv"), "ok", file="points.csv")
        yield _tensors("points.npy", _copied("points.npy"), "ok", file="points.npy")
        for name, shape in {"complex.npz": [2], "inf-row.npz": [3]}.items():
            use = lambda folder, name=name, shape=shape: _finite(_read(TensorFile(file=folder / name, shape=shape)))  # noqa: E731
            yield Hostile(f"arrays: {name}", _write(name, _copied(name)), use, quick=True)


def _safe(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + b"\0" * 16


def _patched(local: int, central: int, value: bytes) -> bytes:
    content = bytearray(_npz(train=np.zeros((20, 2), dtype="f4")))
    at = content.find(b"PK\x01\x02")
    content[local : local + len(value)] = value
    content[at + central : at + central + len(value)] = value
    return bytes(content)


def _flipped(content: bytes, seed: int) -> bytes:
    chance, changed = random.Random(seed), bytearray(content)
    for _ in range(chance.choice([1, 3, 20])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed[: chance.choice([len(changed), chance.randrange(len(changed))])])


# -- idx files --------------------------------------------------------------------------------------------------------


def _idx(shape: tuple[int, ...], data: bytes, *, code: int = 8) -> bytes:
    return bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", one) for one in shape) + data


def _giant() -> bytes:
    """10 GB of zeros behind an honest header, in 10 MB: gzip's members stand one after another."""
    member = gzip.compress(bytes(64 * 2**20), 9, mtime=0)
    return gzip.compress(_idx((13_700_000, 28, 28), b""), mtime=0) + member * 160


IDX: dict[str, Content] = {
    "10 GB, packed": _giant,
    "2**96 bytes declared": lambda: _idx((2**32 - 1,) * 3, b"\0" * 100),
    "more declared than there": lambda: _idx((10, 28, 28), b"\0" * 100),
    "more there than declared": lambda: _idx((1, 28, 28), b"\0" * 10_000),
    "no images": lambda: _idx((0, 28, 28), b""),
    "images without pixels": lambda: _idx((5, 0, 28), b""),
    "floats": lambda: _idx((2, 28, 28), b"\0" * 6_272, code=0x0D),
    "labels for images": lambda: _idx((5,), b"\0" * 5),
    "a cut gzip": lambda: gzip.compress(_idx((9, 28, 28), bytes(random.Random(0).randbytes(7_056))))[:-300],
    "a wrong checksum": lambda: gzip.compress(_idx((1, 28, 28), bytes(784)))[:-8] + b"\0" * 8,
    "a gzip of nonsense": lambda: b"\x1f\x8b" + b"\xff" * 100,
    "nothing": lambda: b"",
    "a text": lambda: b"images\n",
}


def _idx_files() -> Iterator[Hostile]:
    for name, content in IDX.items():
        use = lambda folder: _finite(_read(IdxImages(root=folder, train_labels=None)))  # noqa: E731
        yield Hostile(f"idx: {name}", _write("train-images-idx3-ubyte", content), use, quick="10 GB" not in name)


# -- images -----------------------------------------------------------------------------------------------------------


def _image(mode: str, size: tuple[int, int], color: Any = 0, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size, color).save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *, depth: int = 8, color: int = 2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + _chunk(b"IEND", b"")


@functools.cache
def _bomb_png() -> bytes:
    """30,000 x 30,000 pixels of one bit, in 110 KB."""
    row = b"\0" * (30_000 // 8 + 1)
    return _png(30_000, 30_000, depth=1, color=0, rows=row * 30_000)


def _with_chunk(name: bytes) -> bytes:
    """A chunk that unpacks to 500 MB."""
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(bytes(10_000_000)) for _ in range(50)), packer.flush()])
    return _png(1, 1, rows=b"\0" * 4, extra=_chunk(name, b"a\0\0" + packed))


def _bmp(side: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, side, side, 1, 24, 0, 16, 0, 0, 0, 0) + bytes(16)


def _palette_with_hole() -> bytes:
    image = PIL.Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 255, 0, 255] + [0] * 750)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    return buffer.getvalue()


def _rgb16(level: int) -> bytes:
    row = b"\0" + struct.pack(">3H", level, level, level) * 16
    return _png(16, 16, depth=16, color=2, rows=row * 16)


def _no_magenta(x: torch.Tensor) -> str:
    """The colour beneath a transparent pixel is nobody's."""
    magenta = (x[:, 0] > 0.9) & (x[:, 1] < -0.9) & (x[:, 2] > 0.9)
    if magenta.any():
        raise WrongError("transparent pixels show the colour that they hide")
    return ""


def _as_bright(level: float) -> Callable[[torch.Tensor], str]:
    def right(x: torch.Tensor) -> str:
        if abs(float(x.mean()) - level) > 0.05:
            raise WrongError(f"pixels of {level:g} are read as {float(x.mean()):.3f}")
        return ""

    return right


_MAGENTA = (255, 0, 255, 0)

#: Name -> file name, content, what is right, and what must hold where it is read.
IMAGES: dict[str, tuple[str, Content, Right, Callable[[torch.Tensor], str]]] = {
    "a decompression bomb": ("a.png", _bomb_png, "refused", _finite),
    "2**31 pixels wide": ("a.png", lambda: _png(2**31 - 1, 2**31 - 1, rows=b"\0" * 100), "refused", _finite),
    "a bomb of text": ("a.png", lambda: _with_chunk(b"zTXt"), "either", _finite),
    "a bomb of a colour profile": ("a.png", lambda: _with_chunk(b"iCCP"), "either", _finite),
    "a ribbon": ("a.png", lambda: _png(1_000_000, 1, rows=b"\0" * 3_000_001), "either", _finite),
    "16 bits, three channels, half": ("a.png", lambda: _rgb16(0x8000), "either", _as_bright(0.0)),
    "16 bits, three channels, white": ("a.png", lambda: _rgb16(0xFFFF), "either", _as_bright(1.0)),
    "16 bits of grey, half": ("a.png", lambda: _image("I;16", (16, 16), 0x8000), "either", _as_bright(0.0)),
    "RGBA that hides magenta": ("a.png", lambda: _image("RGBA", (16, 16), _MAGENTA), "either", _no_magenta),
    "LA that hides white": ("a.png", lambda: _image("LA", (16, 16), (255, 0)), "either", _finite),
    "a palette that hides magenta": ("a.png", _palette_with_hole, "either", _no_magenta),
    "a GIF that hides magenta": ("a.gif", lambda: _image("P", (16, 16), 0, "GIF", transparency=0), "either", _finite),
    "TIFF": ("a.tiff", lambda: _image("RGB", (16, 16), (9, 9, 9), "TIFF"), "either", _finite),
    "floats in TIFF": ("a.tiff", lambda: _image("F", (16, 16), 0.5, "TIFF"), "either", _finite),
    "CMYK": ("a.jpg", lambda: _image("CMYK", (16, 16), (0, 0, 0, 0), "JPEG"), "either", _as_bright(1.0)),
    "a cut PNG": ("a.png", lambda: _image("RGB", (64, 64), (1, 2, 3))[:60], "refused", _finite),
    "a cut JPEG": ("a.jpg", lambda: _image("RGB", (64, 64), (1, 2, 3), "JPEG")[:400], "refused", _finite),
    "a text": ("a.png", lambda: b"not an image", "refused", _finite),
    "nothing": ("a.png", lambda: b"", "refused", _finite),
    "a script": ("a.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "refused", _finite),
    "1,000 frames": ("a.gif", lambda: _frames(1_000), "either", _finite),
    "BMP that lies": ("a.bmp", lambda: _bmp(2**30), "refused", _finite),
    "a name with control characters": ("\x1b[31m.png", lambda: b"", "refused", _finite),
}  # fmt: skip


def _frames(count: int) -> bytes:
    buffer = io.BytesIO()
    frames = [PIL.Image.new("L", (16, 16), n % 256) for n in range(count)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _folder_case(name: str, file: str, content: Content, right: Right, holds: Callable[[torch.Tensor], str]) -> Hostile:
    """The image among good ones: as a folder, which every case is, and not as an archive."""

    def make(folder: Path) -> None:
        for number in range(2):
            _write(f"set/train/good{number}.png", lambda: _image("RGB", (16, 16), (9, 9, 9)))(folder)
            _write(f"set/test/good{number}.png", lambda: _image("RGB", (16, 16), (9, 9, 9)))(folder)
        _write(f"set/train/{file}", content)(folder)

    def use(folder: Path) -> str:
        split = ImageFolder(root=folder / "set", size=16).split("train")
        at = [number for number, each in enumerate(split.names) if each.endswith(file)]
        if not at:
            # What is skipped has to be told of; nobody can tell from here that it was.
            raise DataError(f"{file} is skipped")
        return holds(split.get(torch.tensor(at))[0])

    return Hostile(f"image: {name}", make, use, right, quick="bomb" not in name and "frames" not in name)


ZIPS: dict[str, Content] = {
    "encrypted": lambda: _image_zip(6, 8, b"\x01\x00"),
    "a method of 99": lambda: _image_zip(8, 10, b"\x63\x00"),
    "1.5 GB of zeros": lambda: bomb("train/a.png"),
    "no images": lambda: _packed(b"x", "train/a.txt"),
    "a path that leads out": lambda: _packed(_image("RGB", (16, 16)), "../../a.png"),
    "a web page": lambda: b"<html>",
    "nothing": lambda: b"",
}


def _image_zip(local: int, central: int, value: bytes) -> bytes:
    content = bytearray(_packed(_image("RGB", (16, 16)), "train/a.png"))
    at = content.find(b"PK\x01\x02")
    content[local : local + len(value)] = value
    content[at + central : at + central + len(value)] = value
    return bytes(content)


def _images() -> Iterator[Hostile]:
    for name, (file, content, right, holds) in IMAGES.items():
        yield _folder_case(name, file, content, right, holds)
    for name, content in ZIPS.items():
        use = lambda folder: _finite(_read(ImageFolder(root=folder / "set.zip", size=16)))  # noqa: E731
        right: Right = "either" if "leads out" in name else "refused"
        yield Hostile(f"image archive: {name}", _write("set.zip", content), use, right, quick="GB" not in name)
    for seed in range(20):
        png = functools.partial(_flipped, _image("RGB", (40, 40), (7, 80, 200)), seed)
        case = _folder_case(f"flipped bits, seed {seed}", "a.png", png, "either", _finite)
        yield case
    shared = SHARED / "cases"
    if shared.is_dir():
        # The means of their levels, of 65,535.
        rules = {"rgb-16.png": _as_bright(-0.386), "grey-alpha-16.png": _as_bright(-0.944)}
        for name, holds in {**rules, "hidden-magenta.png": _no_magenta}.items():
            yield _folder_case(name, name, (shared / name).read_bytes, "either", holds)
    yield Hostile(
        "image: a folder in itself",
        _loop,
        lambda folder: _finite(_read(ImageFolder(root=folder / "set", size=16))),
        "ok",
        True,
    )


def _loop(folder: Path) -> None:
    for number in range(30):
        _write(f"set/good{number}.png", lambda: _image("RGB", (16, 16), (9, 9, 9)))(folder)
    (folder / "set" / "again").symlink_to(folder / "set")
    shutil.copy(folder / "set" / "good0.png", folder / "set" / "GOOD.PNG")


def cases() -> Iterator[Hostile]:
    """All of them."""
    yield from _arrays()
    yield from _idx_files()
    yield from _images()
