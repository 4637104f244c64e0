"""CelebA and LSUN churches: large sets, decoded as they are read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import PIL.Image

from genfw import DataError, Split
from genfw.errors import AbsentDataError
from genfw.nn.torchvision import import_torchvision
from genfw_plugins.datasets._files import FetchedDataset, absent, download_folder, fetched, find_file, folders
from genfw_plugins.datasets._images import ImageDataset, ImageSource, image_source, open_picture


@attrs.define(kw_only=True, eq=False, slots=False)
class CelebA(ImageDataset, FetchedDataset):
    """Aligned faces, 178x218 RGB, 162,770 + 19,867 (split ``valid``) + 19,962, by the official partition; no labels.

    Looked for in ``root``, its folder ``celeba`` and data home: the folder ``img_align_celeba`` or the archive
    ``img_align_celeba.zip``, which is read as it is.

    References:
        Deep learning face attributes in the wild (Liu et al., 2015), https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
        Autoencoding beyond pixels (Larsen et al., 2016), for the default crop, https://arxiv.org/abs/1512.09300

    Arguments:
        download: Fetch the images where they are absent; torchvision does, and needs the package gdown for it.
        crop: Side of a centred square, or the box ``[left, top, right, bottom]``. The box ``[15, 40, 163, 188]``, just
            the face, where absent: the crop of CelebA-64 in NVAE and VAEBM.
    """

    #: Numbers of the images of each split, as in the official list_eval_partition.txt.
    partition: ClassVar[Mapping[str, tuple[int, int]]] = {
        "train": (1, 162_770),
        "valid": (162_771, 182_637),
        "test": (182_638, 202_599),
    }

    def __attrs_post_init__(self) -> None:
        self.crop = [15, 40, 163, 188] if self.crop is None else self.crop
        super().__attrs_post_init__()

    def examine(self) -> None:
        where = self.there(self._find, self._absent)
        if where is not None:
            listed = image_source(where).names()
            for name in ("train", "test"):
                self._chosen(where, listed, name)

    def split(self, name: str) -> Split:
        """See :meth:`genfw.interfaces.Dataset.split`; there is also ``valid``."""
        if name not in self.partition:
            raise DataError(f"there is no split '{name}'; there are {', '.join(self.partition)}")
        where = self.obtained(self._find, self._fetch, self._absent)
        source = image_source(where)
        return self.images(source, self._chosen(where, source.names(), name), name)

    def _chosen(self, where: Path, listed: list[str], name: str) -> list[str]:
        """The images of a split."""
        first, last = self.partition[name]
        chosen = [image for image in listed if first <= _number(image) <= last]
        if not chosen:
            raise DataError(
                f"{where} has no images numbered {first:06}.jpg to {last:06}.jpg, which are the split '{name}'; "
                "a part of CelebA is read with 'use: image-folder'"
            )
        return chosen

    @property
    def _places(self) -> list[Path]:
        return [place / inner for place in folders(self.root, "celeba") for inner in ("", "celeba")]

    @property
    def _remedy(self) -> str:
        return (
            "Fetch img_align_celeba.zip (1.4 GB) from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html "
            f"and put it in {download_folder(self.root, 'celeba')}, or set 'root' to the folder that has it."
        )

    def _find(self) -> Path | None:
        return find_file(self._places, "img_align_celeba", "img_align_celeba.zip")

    def _fetch(self) -> None:
        goal, datasets = download_folder(self.root, "celeba"), import_torchvision("torchvision.datasets")
        fetched("CelebA", goal, self._remedy, lambda: datasets.CelebA(goal, split="test", download=True))

    def _absent(self) -> AbsentDataError:
        return absent("CelebA (img_align_celeba or img_align_celeba.zip)", self._places, self._remedy)


@attrs.define(kw_only=True, eq=False, slots=False)
class LSUNChurch(ImageDataset, FetchedDataset):
    """Outdoor photographs of churches, 126,227 + 300, cut to the largest centred square; no labels.

    Looked for in ``root``, its folder ``lsun-church`` and data home: the databases ``church_outdoor_train_lmdb`` and
    ``church_outdoor_val_lmdb``, whose keys give the order.

    References:
        LSUN (Yu et al., 2015), https://arxiv.org/abs/1506.03365

    Arguments:
        download: Fetch the databases where they are absent (2.3 GB).
    """

    #: Where the databases are fetched from, with the split's name in it.
    address: ClassVar[str] = "http://dl.yf.io/lsun/scenes/church_outdoor_{}_lmdb.zip"

    def examine(self) -> None:
        for part in ("train", "val"):
            if (found := self.there(self._find, self._absent, part)) is not None:
                LMDBSource(found).examine()

    def split(self, name: str) -> Split:
        if name not in ("train", "test"):
            raise DataError(f"there is no split '{name}'; there are train, test")
        part = "train" if name == "train" else "val"
        source = LMDBSource(self.obtained(self._find, self._fetch, self._absent, part))
        return self.images(source, source.names(), name)

    def _remedy(self, part: str) -> str:
        goal, address = download_folder(self.root, "lsun-church"), self.address.format(part)
        return f"Fetch {address}, unpack it in {goal}, or set 'root' to the folder that has {_database(part)}."

    def _find(self, part: str) -> Path | None:
        return find_file(folders(self.root, "lsun-church"), _database(part))

    def _absent(self, part: str) -> AbsentDataError:
        name = _database(part)
        return absent(f"LSUN church ({name})", folders(self.root, "lsun-church"), self._remedy(part))

    def _fetch(self, part: str) -> None:
        goal, name = download_folder(self.root, "lsun-church"), _database(part)
        fetched("LSUN church", goal, self._remedy(part), lambda: _unpack(self.address.format(part), goal, name))


def _database(part: str) -> str:
    """Name of the folder of a split's database."""
    return f"church_outdoor_{part}_lmdb"


def _unpack(address: str, goal: Path, name: str) -> None:
    """Fetch an archive of a database, and unpack it."""
    if (goal / name).exists():  # another process fetched it while this one waited
        return
    utils = import_torchvision("torchvision.datasets.utils")
    # There are no published checksums, so nothing half done may ever carry the final name.
    part = goal / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    archive = part / f"{name}.zip"
    utils.download_url(address, str(part), archive.name)
    utils.extract_archive(str(archive), str(part))
    (part / name).rename(goal / name)
    shutil.rmtree(part)


class LMDBSource(ImageSource):
    """Encoded images in an LMDB database, by their keys.

    torchvision's own reader is not used: it leaves a pickle of the keys in the working directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment: tuple[int, Any] | None = None

    def examine(self) -> None:
        """Open the database, and read nothing of it."""
        self._opened()

    def names(self) -> list[str]:
        with self._opened().begin() as transaction:
            return [bytes(key).decode("ascii") for key in transaction.cursor().iternext(keys=True, values=False)]

    def open(self, name: str) -> PIL.Image.Image:
        with self._opened().begin() as transaction:
            return open_picture(transaction.get(name.encode("ascii")))

    def _opened(self) -> Any:
        import lmdb

        # A database must not be carried over a fork.
        environment = self._environment
        if environment is None or environment[0] != os.getpid():
            try:
                opened = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False, meminit=False)
            except lmdb.Error as error:
                raise DataError(f"{self.folder} can't be read as an LMDB database: {error}. Fetch it again.") from error
            environment = self._environment = (os.getpid(), opened)
        return environment[1]


def _number(name: str) -> int:
    digits = re.search(r"(\d+)\.\w+$", name)
    return int(digits.group(1)) if digits else -1
