"""CelebA-HQ by name: found where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from genfw.interfaces import Split
from genfw_plugins.datasets._files import absent, data_home, find_file
from genfw_plugins.datasets._images import Filter
from genfw_plugins.datasets.image_folder import ImageFolder

__all__ = ["CelebAHQ"]


class CelebAHQ(ImageFolder):
    """Faces in high quality, 30,000 RGB images; no labels. A tenth is the test split, chosen by a hash of its names.

    Its images, JPEG or PNG, are shrunk to ``size``. The set is made out of CelebA by its authors' script and has no
    address to fetch it from. Models that were published on it split it in a way of their own (27,000 + 3,000 images).

    References:
        Progressive growing of GANs (Karras et al., 2018), https://arxiv.org/abs/1710.10196

    Arguments:
        root: Folder or zip archive of the images; ``celeba-hq`` or ``celeba-hq.zip`` in ``$GENFW_DATA``, or in
            ``~/.cache/genfw``, where absent.
        size: Height and width handed out.
        resample: Filter of the resize.
        flip: Probability of mirroring a training image.
        limit: Images kept in each split, from the first.
        cache_mib: Decoded images are kept, 8 bits a channel, where those of the split take at most so many MiB.
    """

    # The side too: networks over images of 256 pixels take seconds a step.
    smoke: ClassVar[Mapping[str, Any]] = {"limit": 256, "size": 64}

    def __init__(
        self,
        root: Path | None = None,
        size: int = 256,
        resample: Filter = "bilinear",
        flip: float = 0.0,
        limit: int | None = None,
        cache_mib: int = 1024,
    ) -> None:
        self.given = root is not None
        home = data_home() / "celeba-hq" if root is None else Path(root)
        super().__init__(home, size, resample=resample, flip=flip, limit=limit, cache_mib=cache_mib)

    def split(self, name: str) -> Split:
        """See :meth:`genfw.interfaces.Dataset.split`."""
        if not self.given:
            found = find_file([data_home()], "celeba-hq", "celeba-hq.zip")
            if found is None:
                remedy = f"Put its images in {self.root}, or set 'root' to the folder or the archive that has them."
                raise absent("CelebA-HQ (celeba-hq or celeba-hq.zip)", [data_home()], remedy)
            self.root = found
        return super().split(name)
