"""Splits over arrays in memory, and what is done to pixels on the way in."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from genfw import DataError, Dataset, Size, Split
from genfw.plugins.validators import at_least, within
from genfw.randomness import derive_seed

Resize = Literal["pad", "bilinear"]
_NO_LABELS = "'classes' and 'exclude' need labels, and this data set has none"


@attrs.frozen
class Headers:
    """What the headers of image files announce.

    Arguments:
        images: Count of images.
        size: Their height and width.
        labels: Count of labels; ``None`` where there are none.
    """

    images: int
    size: tuple[int, int]
    labels: int | None


def pixels_to_float(pixels: Tensor, bits: int = 8) -> Tensor:
    """8-bit pixels to float32 in [-1, 1]: 0 becomes -1, 255 becomes 1, ``x / 127.5 - 1``.

    Arguments:
        pixels: uint8.
        bits: Highest bits that are kept; the highest level they have becomes 1.
    """
    if bits < 8:
        return (pixels >> (8 - bits)).to(torch.float32).div_((2**bits - 1) / 2.0).sub_(1.0)
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def random_flip(x: Tensor, flip: float, generator: torch.Generator | None) -> Tensor:
    """Mirror each image left to right with probability ``flip``; none without a generator."""
    if flip == 0.0 or generator is None:
        return x
    mirrored = torch.rand(len(x), generator=generator) < flip
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)


class ArraySplit(Split):
    """Rows of a tensor in memory.

    Arguments:
        items: The rows, with shape ``(N, *)``: uint8 pixels (read as float32 in [-1, 1]) or float32 (read as they are).
        labels: Their classes, int64, with shape ``(N,)``, or ``None``.
        flip: Probability of mirroring an image, where the reader passes a generator.
    """

    def __init__(self, items: Tensor, labels: Tensor | None = None, *, flip: float = 0.0) -> None:
        if labels is not None and len(labels) != len(items):
            raise DataError(f"{len(items)} items but {len(labels)} labels; the files do not belong together")
        self.items, self.labels, self.flip = items, labels, flip
        self.random = flip > 0.0

    def __len__(self) -> int:
        return len(self.items)

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.items[index]
        if x.dtype == torch.uint8:
            x = pixels_to_float(x)
        labels = None if self.labels is None else self.labels[index]
        return random_flip(x, self.flip, generator), labels


def resize_pixels(pixels: Tensor, size: int, how: str, *, chunk: int = 4096) -> Tensor:
    """8-bit images made ``size`` high and wide.

    ``bilinear`` filters before it shrinks, as PIL does, and rounds to the nearest level; ``pad`` puts 0 around the
    image, the odd row or column at its end.

    Arguments:
        pixels: Images, uint8, with shape ``(N, C, H, W)``.
        size: New height and width.
        how: ``bilinear`` or ``pad``.
        chunk: Images resized at once, to bound the float copy.

    Raises:
        DataError: The images are larger than ``size`` and ``how`` is ``pad``.
    """
    height, width = pixels.shape[-2:]
    if (height, width) == (size, size):
        return pixels
    if how == "pad":
        check_padding(height, width, size)
        top, left = (size - height) // 2, (size - width) // 2
        return functional.pad(pixels, (left, size - width - left, top, size - height - top))
    resized = [
        functional.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
        for part in pixels.split(chunk)
    ]
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in resized])


def check_padding(height: int, width: int, size: int) -> None:
    """Refuse images that are larger than what they are padded to."""
    if height > size or width > size:
        raise DataError(
            f"images of {height}x{width} can't be padded to {size}x{size}; set a larger 'size' or 'resize: bilinear'"
        )


def check_labels(images: int, labels: int | None) -> None:
    """Refuse labels that are not as many as the images."""
    if labels is not None and labels != images:
        raise DataError(f"{images} images but {labels} labels; the files do not belong together")


def keep_rows(
    labels: Tensor | None,
    *,
    classes: Sequence[int] | None = None,
    exclude: Sequence[int] | None = None,
    count: int,
) -> Tensor:
    """Numbers of the rows that stay, in order.

    Arguments:
        labels: Classes, with shape ``(N,)``.
        classes: Classes kept; all where ``None``.
        exclude: Classes left out.
        count: ``N``.

    Raises:
        DataError: Classes are named but there are no labels, or no row is left.
    """
    kept = torch.ones(count, dtype=torch.bool)
    if classes is not None or exclude:
        if labels is None:
            raise DataError(_NO_LABELS)
        if classes is not None:
            kept &= torch.isin(labels, torch.tensor(list(classes), dtype=labels.dtype))
        if exclude:
            kept &= ~torch.isin(labels, torch.tensor(list(exclude), dtype=labels.dtype))
    rows = kept.nonzero().flatten()
    if len(rows) == 0:
        present = [] if labels is None else labels.unique().tolist()
        raise DataError(
            f"no row is left after 'classes: {classes}' and 'exclude: {exclude}'; the classes are {present}"
        )
    return rows


@attrs.define(kw_only=True, eq=False, slots=False)
class PixelDataset(Dataset):
    """Sets of small images that are read whole: classes kept or held out, a common size.

    A subclass guarantees that ``read`` gives the pixels, uint8, with shape ``(N, C, H, W)``, and the labels, int64,
    with shape ``(N,)``, or ``None``, of every split in ``files``.

    Arguments:
        size: Height and width of the images handed out.
        resize: ``pad`` puts black around smaller images; ``bilinear`` filters and rounds.
        flip: Probability of mirroring a training image.
        classes: Classes kept; all where absent.
        exclude: Classes left out of ``train`` and ``test``; their rows are ``held-out-train`` and ``held-out``.
        splits: ``files``: those that the set comes in. ``zenati``: the splits of published anomaly detection. Train and
            test files are one set there; of the rows that are not excluded, four fifths, drawn by ``seed``, are
            ``train`` and the others ``test``; ``held-out`` is every row that is excluded.
        seed: What draws ``train`` with ``splits: zenati``.
        limit: Rows kept in each split, from the first.

    References:
        Zenati et al. 2018, "Efficient GAN-based anomaly detection" (arXiv 1802.06222), for ``splits: zenati``; MEG and
        DAMC (arXiv 2310.03218, Table 3) took them over.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 512, "download": False}
    channels: ClassVar[int] = 1
    #: The splits that the set comes in.
    files: ClassVar[tuple[str, ...]] = ("train", "test")

    size: int = attrs.field(default=28, validator=at_least(1))
    resize: Resize = "pad"
    flip: float = attrs.field(default=0.0, validator=within(0, 1))
    classes: list[int] | None = None
    exclude: list[int] | None = None
    splits: Literal["files", "zenati"] = "files"
    seed: int = 0
    limit: int | None = attrs.field(default=None, validator=at_least(1))
    _opened: dict[str, Split] = attrs.field(factory=dict, init=False, repr=False)

    @property
    def data_shape(self) -> Size:
        """Channels, height, width."""
        return (self.channels, self.size, self.size)

    @abc.abstractmethod
    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Pixels and labels of one of ``files``, as they lie there."""

    def headers(self, name: str) -> Headers | None:
        """What the headers of a split's files say; ``None`` where that takes reading them, or fetching them."""
        return None

    def examine(self) -> None:
        self._check_splits()
        for name in ("train", "test"):
            found = self.headers(name)
            if found is None:
                continue
            check_labels(found.images, found.labels)
            if self.resize == "pad":
                check_padding(*found.size, self.size)
            if found.labels is None and (self.classes is not None or self.exclude):
                raise DataError(_NO_LABELS)

    def split(self, name: str) -> Split:
        """See :meth:`genfw.interfaces.Dataset.split`; there are also ``held-out`` and ``held-out-train``."""
        zenati = self.splits == "zenati"
        held = {"held-out": "test"} if zenati else {"held-out": "test", "held-out-train": "train"}
        files = ("train", "test") if zenati else self.files
        if name not in (*files, *held):
            raise DataError(f"there is no split '{name}'; there are {', '.join((*files, *held))}")
        if name not in self._opened:
            pixels, labels = self._pooled() if zenati else self._read(held.get(name, name))
            classes, exclude = (self.exclude or [], None) if name in held else (self.classes, self.exclude)
            rows = keep_rows(labels, classes=classes, exclude=exclude, count=len(pixels))
            if zenati and name not in held:
                rows = self._share(rows, name)
            rows = rows[: self.limit]
            items = resize_pixels(pixels[rows], self.size, self.resize)
            flip = 0.0 if name in ("test", *held) else self.flip
            self._opened[name] = ArraySplit(items, None if labels is None else labels[rows], flip=flip)
        return self._opened[name]

    def _read(self, name: str) -> tuple[Tensor, Tensor | None]:
        pixels, labels = self.read(name)
        check_labels(len(pixels), None if labels is None else len(labels))
        return pixels, labels

    def _pooled(self) -> tuple[Tensor, Tensor]:
        """Training and test files as one set."""
        self._check_splits()
        parts = [self._read(name) for name in ("train", "test")]
        labels = [labels for _, labels in parts if labels is not None]
        if len(labels) < len(parts):
            raise DataError("'splits: zenati' needs labels, and this data set has none")
        return torch.cat([pixels for pixels, _ in parts]), torch.cat(labels)

    def _check_splits(self) -> None:
        if self.splits == "zenati" and not self.exclude:
            raise DataError("'splits: zenati' holds classes out; name them with 'exclude'")

    def _share(self, rows: Tensor, name: str) -> Tensor:
        """The four fifths of ``rows`` that are ``train``, or the rest, in order."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "zenati"))
        order = torch.randperm(len(rows), generator=generator)
        first = len(rows) * 4 // 5
        return rows[(order[:first] if name == "train" else order[first:]).sort().values]


@attrs.define(kw_only=True, eq=False, slots=False)
class DrawnDataset(Dataset):
    """Rows drawn at random, once per split, from a seed by name.

    Arguments:
        train: Rows of the training split.
        test: Rows of the test split, drawn independently.
        seed: Source of the draws.
    """

    train: int = attrs.field(validator=at_least(1))
    test: int = attrs.field(validator=at_least(1))
    seed: int = 0

    def begin(self, name: str, source: str) -> tuple[int, torch.Generator]:
        """How many rows a split has, and what draws them; ``source`` goes into the seed."""
        counts = {"train": self.train, "test": self.test}
        if name not in counts:
            raise DataError(f"there is no split '{name}'; there are {', '.join(counts)}")
        return counts[name], torch.Generator().manual_seed(derive_seed(self.seed, source, name))
