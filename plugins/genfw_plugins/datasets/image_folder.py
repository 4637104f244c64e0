"""A folder or a zip archive of images."""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from genfw.errors import DataError
from genfw.interfaces import Dataset, Split
from genfw.interfaces.values import Size
from genfw.plugins.validators import at_least, within
from genfw_plugins.datasets._arrays import check_flip
from genfw_plugins.datasets._images import Filter, ImageSource, ImageSplit, Pixels, image_source

__all__ = ["ImageFolder"]


class ImageFolder(Dataset):
    """Images (JPEG, PNG, ...) in a folder or a zip archive, at any depth, in the order of their paths.

    Which images are in which split: those that ``train`` and ``test`` name. Where only ``test`` is named, ``train`` is
    everything else. Where ``test`` is not named, an image is in it when a hash of its path falls below
    ``test_fraction``, so that adding images moves none; but where neither is named and there are folders ``train`` and
    ``test`` at the top, those are the splits.

    The label of an image is the number of its folder, below the split's own, in the order of the names; there are no
    labels where all images are in one folder.

    Arguments:
        root: The folder or the zip archive.
        size: Height and width handed out.
        channels: 3 for RGB, 1 for grey.
        train: Images of the training split: the start of their paths (``train/``), or a pattern with ``*``.
        test: Images of the test split, likewise.
        test_fraction: Share of the images in the test split where ``test`` does not name them.
        crop: Side of a centred square, or the box ``[left, top, right, bottom]`` in pixels; the largest centred square
            where absent.
        resample: Filter of the resize; all of them filter before they shrink.
        flip: Probability of mirroring a training image.
        invert: Swap black and white.
        classes: Names of the folders kept; all where absent.
        limit: Images kept in each split, from the first.
        cache_mib: Decoded images are kept, 8 bits a channel, where those of the split take at most so many MiB.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 256}

    def __init__(
        self,
        root: Path,
        size: int,
        channels: Literal[1, 3] = 3,
        train: str | None = None,
        test: str | None = None,
        test_fraction: float = 0.1,
        crop: int | list[int] | None = None,
        resample: Filter = "bilinear",
        flip: float = 0.0,
        invert: bool = False,
        classes: list[str] | None = None,
        limit: int | None = None,
        cache_mib: int = 1024,
    ) -> None:
        within(0, 1, "()").check(test_fraction=test_fraction)
        at_least(1).check(limit=limit)
        self.root, self.train, self.test, self.test_fraction = Path(root), train, test, test_fraction
        self.pixels = Pixels(size, channels, crop, resample, invert)
        self.flip, self.classes, self.limit, self.cache_mib = check_flip(flip), classes, limit, cache_mib
        self._source: ImageSource | None = None
        self._members: dict[str, list[str]] = {}
        self._folders: dict[str, dict[str, str]] = {}
        self._opened: dict[str, Split] = {}

    @property
    def data_shape(self) -> Size:
        """Channels, height, width."""
        return self.pixels.shape

    def split(self, name: str) -> Split:
        """See :meth:`genfw.interfaces.Dataset.split`."""
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'; there are train, test")
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> Split:
        if self._source is None:
            self._source = image_source(self.root)
            self._members = self._divide(self._source.names())
            self._folders = {split: _folders(names) for split, names in self._members.items()}
        members, folder = self._members[name], self._folders[name]
        if not members:
            raise DataError(
                f"{self.root} has no images for the split '{name}' (train: {self.train}, test: {self.test}); "
                "set 'root', 'train' and 'test' to what is there"
            )
        classes = sorted({each for names in self._folders.values() for each in names.values()})
        chosen = [image for image in members if self.classes is None or folder[image] in self.classes]
        if not chosen:
            raise DataError(f"no image is left with 'classes: {self.classes}'; the folders are {', '.join(classes)}")
        chosen = chosen[: self.limit]
        labels = None
        if len(classes) > 1:
            number = {each: k for k, each in enumerate(classes)}
            labels = torch.tensor([number[folder[image]] for image in chosen])
        flip = self.flip if name == "train" else 0.0
        return ImageSplit(self._source, chosen, self.pixels, labels, flip=flip, cache_mib=self.cache_mib)

    def _divide(self, names: list[str]) -> dict[str, list[str]]:
        train, test = self.train, self.test
        if train is None and test is None and {"train", "test"} <= {name.partition("/")[0] for name in names}:
            train, test = "train/", "test/"
        pool = [name for name in names if train is None or _matches(name, train)]
        if test is None:
            tests = [name for name in pool if _fraction(name) < self.test_fraction]
        else:
            tests = [name for name in names if _matches(name, test)]
        if train is None or test is None:
            out = set(tests)
            pool = [name for name in pool if name not in out]
        return {"train": pool, "test": tests}


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) if "*" in pattern else name.startswith(pattern)


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _folders(names: list[str]) -> dict[str, str]:
    """Each image's folder, relative to the deepest folder that all share."""
    parents = {name: posixpath.dirname(name) for name in names}
    common = posixpath.commonpath(set(parents.values())) if names else ""
    return {name: parent[len(common) :].lstrip("/") or "." for name, parent in parents.items()}
