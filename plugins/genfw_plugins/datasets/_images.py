"""Images that are decoded when they are read: from files, archives, databases."""

from __future__ import annotations

import abc
import collections
import functools
import io
import logging
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from genfw import ContractError, DataError, Dataset, Size, Split
from genfw.errors import AbsentDataError, quoted, readable, shown
from genfw.plugins.validators import at_least, within
from genfw.weights.archives import Archive
from genfw_plugins.datasets._arrays import pixels_to_float, random_flip

Filter = Literal["bilinear", "bicubic", "lanczos", "box"]

#: What a model sees of an image: grey, red-green-blue, or these and their opacity.
Channels = Literal[1, 3, 4]

#: Endings of files that are taken for images.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})

#: Most pixels of one image: beyond them Pillow, too, suspects a bomb.
_MOST_PIXELS = 89_478_485

#: Formats that are opened, whatever a file's ending says: Pillow would run Ghostscript for a script.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")

_log = logging.getLogger("genfw")


def open_picture(content: bytes) -> PIL.Image.Image:
    """An image of a format that :data:`SUFFIXES` names; its pixels are read later.

    Arguments:
        content: A file's content.

    Raises:
        PIL.UnidentifiedImageError: It is of none of the formats.
    """
    return PIL.Image.open(io.BytesIO(content), formats=_FORMATS)


@attrs.frozen
class Pixels:
    """What is done to an image between its file and the model: channels, crop, size, levels.

    Arguments:
        size: Height and width handed out.
        channels: 3 for RGB, 1 for grey, 4 for RGBA.
        crop: Side of a centred square, or the box ``[left, top, right, bottom]`` in pixels; the largest centred square
            where absent.
        resample: Filter of the resize; all of them filter before they shrink, and round to the nearest level.
        invert: Swap black and white.
        background: Grey level behind transparent pixels; they are refused where absent.
        whole: Shrink the shorter side to ``size`` and keep all of the longer one, to be cropped at random.
    """

    size: int = attrs.field(validator=at_least(1))
    channels: Channels = 3
    crop: int | list[int] | None = None
    resample: Filter = "bilinear"
    invert: bool = False
    background: int | None = None
    whole: bool = False

    def __attrs_post_init__(self) -> None:
        crop = self.crop
        if not isinstance(crop, list):
            at_least(1).check(crop=crop)
        elif len(crop) != 4 or crop[0] >= crop[2] or crop[1] >= crop[3] or min(crop) < 0:
            raise ContractError(
                f"a crop box is [left, top, right, bottom] with left < right and top < bottom, got {crop}"
            )
        if self.channels == 4 and (self.background is not None or self.invert):
            raise ContractError("'channels: 4' reads the opacity as it is; leave out 'background' and 'invert'")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return (self.channels, self.size, self.size)

    def read(self, image: PIL.Image.Image) -> Tensor:
        """Pixels of an image, uint8, with shape ``(C, size, size)``; with ``whole`` one side may be longer.

        16 bits of grey are rounded to the nearest of 256 levels.

        Raises:
            DataError: The image has other numbers than 8 or 16 bits, is far too large, is smaller than the crop, or has
                transparent pixels and there is no background.
        """
        if image.width * image.height > _MOST_PIXELS:
            raise DataError(
                f"it is {image.width:,} wide and {image.height:,} high, and {_MOST_PIXELS:,} pixels are read"
            )
        width = height = self.size
        if self.whole and self.crop is None:
            short = min(image.size)
            width, height = (max(round(side * self.size / short), self.size) for side in image.size)
        else:
            image = image.crop(self._box(*image.size))
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image)
        if image.has_transparency_data and self.channels != 4:
            image = self._opaque(image.convert("RGBA"))
        image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[self.channels])
        if image.size != (width, height):
            image = image.resize((width, height), PIL.Image.Resampling[self.resample.upper()])
        array = np.array(image, dtype=np.uint8).reshape(height, width, self.channels)
        pixels = torch.from_numpy(array).permute(2, 0, 1)
        return 255 - pixels if self.invert else pixels

    def _opaque(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """An RGBA image before the background: a transparent pixel's own colour is nobody's."""
        if np.asarray(image.getchannel("A")).min() == 255:
            return image
        if self.background is None:
            raise DataError(
                "it has transparent pixels; say what is behind them with 'background', such as 255 for white"
            )
        level = (self.background,) * 3
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, (*level, 255)), image)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        if isinstance(self.crop, list):
            left, top, right, bottom = self.crop
        else:
            side = min(width, height) if self.crop is None else self.crop
            left, top = (width - side) // 2, (height - side) // 2
            right, bottom = left + side, top + side
        if left < 0 or top < 0 or right > width or bottom > height:
            raise DataError(f"it is {width} wide and {height} high, too small for 'crop: {self.crop}'")
        return left, top, right, bottom


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of 16-bit grey levels as one of 8 bits."""
    levels = np.asarray(image)
    if levels.dtype.kind not in "iu" or levels.min() < 0 or levels.max() > 65_535:
        raise DataError(f"its numbers are neither 8 nor 16 bits (mode {image.mode}); convert it to 8 bits")
    return PIL.Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))


class ImageSource(abc.ABC):
    """Encoded images by name.

    A subclass guarantees that ``open`` may be called from several threads, and after a fork.
    """

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Every image, in a fixed order."""

    @property
    def skipped(self) -> str:
        """How many files are no images, with their endings; empty where there are none."""
        return ""

    @abc.abstractmethod
    def open(self, name: str) -> PIL.Image.Image:
        """One image; it may be decoded later."""


class FileSource(ImageSource):
    """Image files, by their paths, in the order of the paths."""

    @abc.abstractmethod
    def files(self) -> list[str]:
        """Every file, image or not."""

    @functools.cached_property
    def _sorted(self) -> tuple[list[str], str]:
        """The images; and what :attr:`skipped` says."""
        # Archives made on macOS carry a shadow "__MACOSX/._name" of each file.
        seen = [name for name in self.files() if not (name.startswith((".", "__MACOSX/")) or "/." in name)]
        endings = collections.Counter(posixpath.splitext(name)[1].lower() for name in seen)
        others = {ending or "without ending": count for ending, count in endings.items() if ending not in SUFFIXES}
        images = sorted(name for name in seen if posixpath.splitext(name)[1].lower() in SUFFIXES)
        if not others:
            return images, ""
        kinds = [f"{count} {shown(ending, 20)}" for ending, count in sorted(others.items(), key=lambda kind: -kind[1])]
        return images, f"{sum(others.values()):,} files are not read as images: {quoted(kinds[:8])}"

    def names(self) -> list[str]:
        return self._sorted[0]

    @property
    def skipped(self) -> str:
        return self._sorted[1]


class FolderSource(FileSource):
    """Image files anywhere below a folder, by their paths relative to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def open(self, name: str) -> PIL.Image.Image:
        return open_picture((self.folder / name).read_bytes())


class ZipSource(FileSource):
    """Image files in a zip archive, by their paths in it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._archive: tuple[int, Archive] | None = None

    def files(self) -> list[str]:
        return [name for name in self._opened().entries if not name.endswith("/")]

    def open(self, name: str) -> PIL.Image.Image:
        return open_picture(self._opened().read(name))

    def _opened(self) -> Archive:
        # ZipFile locks its reads among threads, but a forked child would share, and move, its parent's file offset.
        archive = self._archive
        if archive is None or archive[0] != os.getpid():
            archive = self._archive = (os.getpid(), Archive(self.file))
        return archive[1]


def image_source(root: Path) -> ImageSource:
    """The images of a folder or of a zip archive.

    Raises:
        DataError: There is nothing at ``root``, or it is another kind of file.
    """
    root = Path(os.path.expanduser(root))
    if root.is_dir():
        return FolderSource(root)
    if root.is_file():
        return ZipSource(root)
    raise AbsentDataError(f"there is no folder or zip archive at {root}; set 'root' to where the images are")


class ImageSplit(Split):
    """Images decoded when first read, and kept as 8-bit pixels where the whole split fits a limit.

    Arguments:
        source: Where the images come from.
        names: Which of them, in order.
        pixels: What is done to each.
        labels: Their classes, int64, with shape ``(N,)``, or ``None``.
        flip: Probability of mirroring an image, where the reader passes a generator.
        cache_mib: Keep decoded pixels where those of all images take at most so many MiB.
        bits: Bits of a pixel that are kept.
    """

    in_memory = False

    def __init__(
        self,
        source: ImageSource,
        names: Sequence[str],
        pixels: Pixels,
        labels: Tensor | None = None,
        *,
        flip: float = 0.0,
        cache_mib: int = 1024,
        bits: int = 8,
    ) -> None:
        self.source, self.names, self.pixels, self.labels, self.flip = source, names, pixels, labels, flip
        self.bits = bits
        self._cache: Tensor | None = None
        # Images that are cropped at random have sides of their own.
        if not pixels.whole and len(names) * np.prod(pixels.shape) <= cache_mib * 2**20:
            self._cache = torch.empty(len(names), *pixels.shape, dtype=torch.uint8)
        self._known = torch.zeros(len(names), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.names)

    def get(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        pixels = self._crops(index, generator) if self.pixels.whole else self._read(index)
        x = pixels_to_float(pixels, self.bits)
        labels = None if self.labels is None else self.labels[index]
        return random_flip(x, self.flip, generator), labels

    def _read(self, index: Tensor) -> Tensor:
        if self._cache is None:
            return torch.stack([self._decode(row) for row in index.tolist()])
        # A row is marked as known after it is written: two threads may both decode it, neither reads half of it.
        for row in index[~self._known[index]].tolist():
            self._cache[row] = self._decode(row)
            self._known[row] = True
        return self._cache[index]

    def _crops(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """A square at random out of each image; the centred one without a generator."""
        size, crops = self.pixels.size, []
        for row in index.tolist():
            image = self._decode(row)
            rooms = [side - size for side in image.shape[1:]]
            if generator is None:
                top, left = (room // 2 for room in rooms)
            else:
                top, left = (int(torch.randint(room + 1, (), generator=generator)) for room in rooms)
            crops.append(image[:, top : top + size, left : left + size])
        return torch.stack(crops)

    def _decode(self, row: int) -> Tensor:
        name = shown(self.names[row], 200)
        try:
            with readable("it", "Is it damaged, or not an image?"), self.source.open(self.names[row]) as image:
                return self.pixels.read(image)
        except DataError as error:
            raise DataError(f"image {name}: {error}") from error


@attrs.define(kw_only=True, eq=False, slots=False)
class ImageDataset(Dataset):
    """Sets of images that are decoded when they are read.

    Arguments:
        size: Height and width handed out.
        crop: Side of a centred square, or the box ``[left, top, right, bottom]`` in pixels; the largest centred square
            where absent.
        resample: Filter of the resize; all of them filter before they shrink.
        flip: Probability of mirroring a training image.
        background: Grey level, 0 to 255, behind transparent pixels; images that have such pixels are refused where
            absent.
        limit: Images kept in each split, from the first.
        cache_mib: Decoded images are kept, 8 bits a channel, where those of the split take at most so many MiB.
        random_crop: In ``train``, shrink the shorter side to ``size`` and cut a square out at random, in place of the
            largest centred square.
        bits: Bits of a pixel that are kept: 5 leaves 32 levels, spread evenly over [-1, 1], as in NVAE's code.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 256, "download": False}

    channels: Channels = attrs.field(default=3, init=False)
    invert: bool = attrs.field(default=False, init=False)
    size: int = 64
    crop: int | list[int] | None = None
    resample: Filter = "bilinear"
    flip: float = attrs.field(default=0.0, validator=within(0, 1))
    background: int | None = attrs.field(default=None, validator=within(0, 255))
    limit: int | None = attrs.field(default=None, validator=at_least(1))
    cache_mib: int = attrs.field(default=1024, validator=at_least(0))
    random_crop: bool = False
    bits: int = attrs.field(default=8, validator=within(1, 8))

    def __attrs_post_init__(self) -> None:
        if self.random_crop and self.crop is not None:
            raise ContractError(f"random_crop chooses the square; leave 'crop: {self.crop}' out")
        self.pixels = Pixels(self.size, self.channels, self.crop, self.resample, self.invert, self.background)

    @property
    def data_shape(self) -> Size:
        """Channels, height, width."""
        return self.pixels.shape

    def images(self, source: ImageSource, names: Sequence[str], split: str, labels: Tensor | None = None) -> Split:
        """The first images of a split, as many as ``limit`` keeps; ``labels`` may have more."""
        if source.skipped and split == "train":
            _log.warning("genfw: of the data set's files, %s", source.skipped)
        names, flip = names[: self.limit], self.flip if split == "train" else 0.0
        labels = None if labels is None else labels[: self.limit]
        pixels = attrs.evolve(self.pixels, whole=self.random_crop and split == "train")
        return ImageSplit(source, names, pixels, labels, flip=flip, cache_mib=self.cache_mib, bits=self.bits)
