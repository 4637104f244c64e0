"""Images in idx files, the format of the MNIST family."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import attrs
import torch
from torch import Tensor

from genfw.errors import DataError
from genfw_plugins.datasets._arrays import PixelDataset
from genfw_plugins.datasets._files import absent, find_file

#: Type code of unsigned bytes in an idx header.
_UBYTE = 8


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
    remedy = "Remove it and fetch it again."
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}. {remedy}") from error
    header = 4 + 4 * dimensions
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{path} is not an idx file: it starts with {content[:4].hex(' ') or 'nothing'}. {remedy}")
    if content[2] != _UBYTE or content[3] != dimensions:
        raise DataError(
            f"{path} holds idx type {content[2]:#04x} with {content[3]} dimensions; expected unsigned bytes "
            f"({_UBYTE:#04x}) with {dimensions}. Are images and labels swapped?"
        )
    if len(content) < header:
        raise DataError(f"{path} ends within its header. {remedy}")
    shape = [int.from_bytes(content[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions)]
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} announces {'x'.join(map(str, shape))} = {math.prod(shape)} bytes "
            f"but holds {len(content) - header}. {remedy}"
        )
    if dimensions > 1 and shape[0] and not math.prod(shape):
        raise DataError(f"{path} announces images of {'x'.join(map(str, shape[1:]))} pixels. {remedy}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(shape)


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

    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        parts = {"train": (self.train_images, self.train_labels), "test": (self.test_images, self.test_labels)}
        images, labels = parts[name]
        pixels = read_idx(self._find(images, f"'{name}_images'"), 3).unsqueeze(1)
        if labels is None:
            return pixels, None
        return pixels, read_idx(self._find(labels, f"'{name}_labels' (null for none)"), 1).to(torch.int64)

    def _find(self, name: str, parameter: str) -> Path:
        home = Path(self.root).expanduser()
        path = find_file([home], name, f"{name}.gz", name.removesuffix(".gz"))
        if path is None:
            raise absent(
                f"the idx file {name} (or {name}.gz)",
                [home],
                f"Put it there, or set 'root' or {parameter} to what you have.",
            )
        return path
