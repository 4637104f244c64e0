"""CelebA-HQ by name: found where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs

from genfw.interfaces import Split
from genfw_plugins.datasets._files import absent, data_home, find_file
from genfw_plugins.datasets._images import ImageDataset
from genfw_plugins.datasets.image_folder import ImageFolder


@attrs.define(kw_only=True, eq=False, slots=False)
class CelebAHQ(ImageDataset):
    """Faces in high quality, 30,000 RGB images; no labels. A tenth is the test split, chosen by a hash of its names.
    The split ``all`` has every image; VAEBM's FID is measured against it.

    Its images, JPEG or PNG, are shrunk to ``size``. The set is made out of CelebA by its authors' script and has no
    address to fetch it from. Models that were published on it split it in a way of their own (27,000 + 3,000 images).

    References:
        Progressive growing of GANs (Karras et al., 2018), https://arxiv.org/abs/1710.10196

    Arguments:
        root: Folder or zip archive of the images; ``celeba-hq`` or ``celeba-hq.zip`` in ``$GENFW_DATA``, or in
            ``~/.cache/genfw``, where absent.
    """

    # The side too: networks over images of 256 pixels take seconds a step.
    smoke: ClassVar[Mapping[str, Any]] = {"limit": 256, "size": 64}

    root: Path | None = None
    size: int = 256
    crop: None = attrs.field(default=None, init=False)
    random_crop: bool = attrs.field(default=False, init=False)

    def examine(self) -> None:
        self._folder.examine()

    def split(self, name: str) -> Split:
        return self._folder.split(name)

    @cached_property
    def _folder(self) -> ImageFolder:
        root = self.root or find_file([data_home()], "celeba-hq", "celeba-hq.zip")
        if root is None:
            home = data_home() / "celeba-hq"
            remedy = f"Put its images in {home}, or set 'root' to the folder or the archive that has them."
            raise absent("CelebA-HQ (celeba-hq or celeba-hq.zip)", [data_home()], remedy)
        size, resample, flip = self.size, self.resample, self.flip
        return ImageFolder(
            root=root,
            size=size,
            resample=resample,
            flip=flip,
            limit=self.limit,
            cache_mib=self.cache_mib,
            bits=self.bits,
        )
