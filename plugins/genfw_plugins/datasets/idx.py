"""Images in idx files, the format of the MNIST family."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import IO

import attrs
import torch
from torch import Tensor

from genfw.errors import DataError, readable
from genfw.weights.archives import check_growth
from genfw_plugins.datasets._arrays import Headers, PixelDataset
from genfw_plugins.datasets._files import absent, find_file

#: Type code of unsigned bytes in an idx header.
_UBYTE = 8
_REMEDY = "Remove it and fetch it again."


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an idx file of unsigned bytes, gzipped or plain.

    The header is two zero bytes, the type code, the count of dimensions, then each length, a big-endian 32-bit number.

    References:
        The MNIST database (LeCun et al.), http://yann.lecun.com/exdb/mnist/

    Arguments:
        path: The file; gzip is told from its first bytes, not from its name.
        dimensions: Count that the file must have: 3 for images, 1 for labels.

    Returns:
        The array, uint8.

    Raises:
        DataError: The file is damaged, cut short, or not what it should be.
    """
    with readable(path, _REMEDY), _opened(path) as file:
        shape = _header(file, path, dimensions)
        content = bytearray(file.read(math.prod(shape) + 1))  # one more than it announces, to see that there is none
    if len(content) != math.prod(shape):
        there = "more" if len(content) > math.prod(shape) else f"{len(content)}"
        raise DataError(
            f"{path} announces {'x'.join(map(str, shape))} = {math.prod(shape)} bytes but holds {there}. {_REMEDY}"
        )
    return (
        torch.frombuffer(content, dtype=torch.uint8).view(shape) if content else torch.empty(shape, dtype=torch.uint8)
    )


def idx_shape(path: Path, dimensions: int) -> list[int]:
    """The lengths that an idx file's header announces, and nothing more of it; see :func:`read_idx`."""
    with readable(path, _REMEDY), _opened(path) as file:
        return _header(file, path, dimensions)


def idx_headers(images: Path, labels: Path | None) -> Headers:
    """What the headers of images and labels announce; see :meth:`PixelDataset.headers`."""
    count, height, width = idx_shape(images, 3)
    return Headers(count, (height, width), None if labels is None else idx_shape(labels, 1)[0])


def _header(file: gzip.GzipFile | IO[bytes], path: Path, dimensions: int) -> list[int]:
    length = 4 + 4 * dimensions
    head = file.read(length)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{path} is not an idx file: it starts with {head[:4].hex(' ') or 'nothing'}. {_REMEDY}")
    if head[2] != _UBYTE or head[3] != dimensions:
        raise DataError(
            f"{path} holds idx type {head[2]:#04x} with {head[3]} dimensions; expected unsigned bytes "
            f"({_UBYTE:#04x}) with {dimensions}. Are images and labels swapped?"
        )
    if len(head) < length:
        raise DataError(f"{path} ends within its header. {_REMEDY}")
    shape = [int.from_bytes(head[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions)]
    check_growth(str(path), path.stat().st_size, math.prod(shape))
    if dimensions > 1 and shape[0] and not math.prod(shape):
        raise DataError(f"{path} announces images of {'x'.join(map(str, shape[1:]))} pixels. {_REMEDY}")
    return shape


def _opened(path: Path) -> gzip.GzipFile | IO[bytes]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


@attrs.define(kw_only=True, eq=False, slots=False)
class IdxImages(PixelDataset):
    """Any set of grey images in idx files, each plain or gzipped (``name`` and ``name.gz`` are both tried).

    Arguments:
        root: Folder of the files.
        train_images: Images of the training split.
        train_labels: Their labels; ``null`` where there are none.
        test_images: Images of the test split.
        test_labels: Their labels; ``null`` where there are none.
    """

    root: Path
    train_images: str = "train-images-idx3-ubyte"
    train_labels: str | None = "train-labels-idx1-ubyte"
    test_images: str = "t10k-images-idx3-ubyte"
    test_labels: str | None = "t10k-labels-idx1-ubyte"

    def headers(self, name: str) -> Headers:
        return idx_headers(*self._paths(name))

    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        images, labels = self._paths(name)
        return read_idx(images, 3).unsqueeze(1), None if labels is None else read_idx(labels, 1).to(torch.int64)

    def _paths(self, name: str) -> tuple[Path, Path | None]:
        parts = {"train": (self.train_images, self.train_labels), "test": (self.test_images, self.test_labels)}
        images, labels = parts[name]
        found = self._find(images, f"'{name}_images'")
        return found, None if labels is None else self._find(labels, f"'{name}_labels' (null for none)")

    def _find(self, name: str, parameter: str) -> Path:
        home = Path(os.path.expanduser(self.root))
        path = find_file([home], name, f"{name}.gz", name.removesuffix(".gz"))
        if path is None:
            raise absent(
                f"the idx file {name} (or {name}.gz)",
                [home],
                f"Put it there, or set 'root' or {parameter} to what you have.",
            )
        return path
