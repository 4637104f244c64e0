"""Small files in the formats of real data sets."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an idx file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, *, gz: bool = True) -> None:
    """The two files of one split under their usual names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        (folder / (f"{name}.gz" if gz else name)).write_bytes(gzip.compress(content) if gz else content)


def digits(count: int, size: int = 28, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random grey images whose labels run 0 to 9 in turn."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size), dtype=np.uint8), np.arange(count) % 10


def write_mnist(folder: Path, *, train: int = 40, test: int = 20, gz: bool = True) -> None:
    """The four files of a small MNIST."""
    write_idx(folder, "train", *digits(train), gz=gz)
    write_idx(folder, "t10k", *digits(test, seed=1), gz=gz)


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write_tree(root: Path, files: dict[str, bytes], *, archive: bool) -> Path:
    """Files below a folder, or in a zip archive beside it."""
    if archive:
        root.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as target:
            for name, content in files.items():
                target.writestr(name, content)
        return root.with_suffix(".zip")
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def cifar_files(kind, *, per_batch: int = 4, label: str = "labels") -> dict[str, bytes]:
    """CIFAR in its own format: pickled batches of flat channel-first rows."""
    rng, files = np.random.default_rng(0), {}
    for k, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        batch = {
            "data": rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8),
            label: [(k + j) % 10 for j in range(per_batch)],
        }
        files[name] = pickle.dumps(batch)
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: [str(k) for k in range(10)]})
    return files


def tar_gz(files: dict[str, bytes]) -> bytes:
    """A gzipped tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
