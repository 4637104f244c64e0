"""A folder or a zip archive of images."""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
from functools import cached_property
from pathlib import Path

import attrs
import torch

from genfw import DataError, Split
from genfw.plugins.validators import within
from genfw_plugins.datasets._images import Channels, ImageDataset, ImageSource, image_source


@attrs.define(kw_only=True, eq=False, slots=False)
class ImageFolder(ImageDataset):
    """Images (JPEG, PNG, TIFF, ...) in a folder or a zip archive, at any depth, in the order of their paths.

    Which images are in which split: those that ``train`` and ``test`` name. Where only ``test`` is named, ``train`` is
    everything else. Where ``test`` is not named, an image is in it when a hash of its path falls below
    ``test_fraction``, so that adding images moves none; but where neither is named and there are folders ``train`` and
    ``test`` at the top, those are the splits. The split ``all`` has the images of both.

    The label of an image is the number of its folder, below the split's own, in the order of the names; there are no
    labels where all images are in one folder.

    Arguments:
        root: The folder or the zip archive.
        channels: 3 for RGB, 1 for grey, 4 for RGBA.
        train: Images of the training split: the start of their paths (``train/``), or a pattern with ``*``.
        test: Images of the test split, likewise.
        test_file: Text file that names the images of the test split, one a line, in place of ``test``.
        test_fraction: Share of the images in the test split where ``test`` does not name them.
        invert: Swap black and white.
        classes: Names of the folders kept; all where absent.
    """

    root: Path
    size: int
    channels: Channels = 3
    train: str | None = None
    test: str | None = None
    test_file: Path | None = None
    test_fraction: float = attrs.field(default=0.1, validator=within(0, 1, "()"))
    invert: bool = False
    classes: list[str] | None = None
    _opened: dict[str, Split] = attrs.field(factory=dict, init=False, repr=False)

    def examine(self) -> None:
        for name in ("train", "test"):
            self.split(name)  # which lists the images, and opens none

    def split(self, name: str) -> Split:
        if name not in ("train", "test", "all"):
            raise DataError(f"there is no split '{name}'; there are train, test, all")
        if self.test is not None and self.test_file is not None:
            raise DataError("'test' and 'test_file' both say which images are the test split; keep one")
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> Split:
        source, everyone, folders = self._source
        members = sorted(everyone["train"] + everyone["test"]) if name == "all" else everyone[name]
        folder = folders["train"] | folders["test"] if name == "all" else folders[name]
        if not members:
            raise DataError(
                f"{self.root} has no images for the split '{name}' (train: {self.train}, test: {self.test}); "
                f"set 'root', 'train' and 'test' to what is there{source.skipped and f' ({source.skipped})'}"
            )
        classes = sorted({each for names in folders.values() for each in names.values()})
        chosen = [image for image in members if self.classes is None or folder[image] in self.classes]
        if not chosen:
            raise DataError(f"no image is left with 'classes: {self.classes}'; the folders are {', '.join(classes)}")
        labels = None
        if len(classes) > 1:
            number = {each: k for k, each in enumerate(classes)}
            labels = torch.tensor([number[folder[image]] for image in chosen])
        return self.images(source, chosen, name, labels)

    @cached_property
    def _source(self) -> tuple[ImageSource, dict[str, list[str]], dict[str, dict[str, str]]]:
        """Where the images are; which are in each split; and the folder of each."""
        source = image_source(self.root)
        members = self._divide(source.names())
        return source, members, {split: _folders(names) for split, names in members.items()}

    def _divide(self, names: list[str]) -> dict[str, list[str]]:
        train, test = self.train, self.test
        if train is None and test is None and {"train", "test"} <= {name.partition("/")[0] for name in names}:
            train, test = "train/", "test/"
        pool = [name for name in names if train is None or _matches(name, train)]
        if self.test_file is not None:
            tests = self._listed(names)
        elif test is None:
            tests = [name for name in pool if _fraction(name) < self.test_fraction]
        else:
            tests = [name for name in names if _matches(name, test)]
        if train is None or test is None:
            out = set(tests)
            pool = [name for name in pool if name not in out]
        return {"train": pool, "test": tests}

    def _listed(self, names: list[str]) -> list[str]:
        """The images that ``test_file`` names, by their paths or by the ends of these."""
        assert self.test_file is not None
        file = self.test_file.expanduser()
        try:
            wanted = {line.strip() for line in file.read_text().splitlines() if line.strip()}
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"'test_file' {file} can't be read: {error}") from error
        found = [name for name in names if name in wanted or posixpath.basename(name) in wanted]
        if absent := wanted - {*found, *map(posixpath.basename, found)}:
            raise DataError(f"{self.root} has no image {min(absent)}, which {file} names ({len(absent)} are absent)")
        return found


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
