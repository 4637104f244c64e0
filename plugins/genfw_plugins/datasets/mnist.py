"""MNIST and Fashion-MNIST by name: found where they lie, or fetched by torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genfw.nn.torchvision import import_torchvision
from genfw_plugins.datasets._arrays import PixelDataset, Resize
from genfw_plugins.datasets._files import absent, download_folder, fetched, find_file, folders
from genfw_plugins.datasets.idx import read_idx

__all__ = ["MNIST", "FashionMNIST"]


class MNIST(PixelDataset):
    """Handwritten digits, 28x28 grey, 60,000 + 10,000.

    The four idx files, plain or gzipped, are looked for in ``root``, in its folder named as the set, and where
    torchvision puts them (``MNIST/raw``); where they are nowhere, torchvision fetches them.

    References:
        The MNIST database (LeCun et al.), http://yann.lecun.com/exdb/mnist/

    Arguments:
        root: Folder of the files; ``$GENFW_DATA/mnist``, or ``~/.cache/genfw/mnist``, where absent.
        download: Fetch the files where they are absent.
        size: Height and width of the images handed out.
        resize: ``pad`` puts black around smaller images; ``bilinear`` filters and rounds.
        flip: Probability of mirroring a training image.
        classes: Classes kept; all where absent.
        exclude: Classes left out of ``train`` and ``test``; their rows are ``held-out-train`` and ``held-out``.
        limit: Rows kept in each split, from the first.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 512, "download": False}
    #: Name of the folder, and of torchvision's class, which names its own folder after itself.
    names: ClassVar[tuple[str, str]] = ("mnist", "MNIST")

    def __init__(
        self,
        root: Path | None = None,
        download: bool = True,
        size: int = 28,
        resize: Resize = "pad",
        flip: float = 0.0,
        classes: list[int] | None = None,
        exclude: list[int] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(size, resize, flip, classes, exclude, limit)
        self.root, self.download = None if root is None else Path(root), download

    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        """See :meth:`PixelDataset.read`."""
        prefix = "train" if name == "train" else "t10k"
        wanted = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        found = self._find(wanted)
        if found is None:
            self._fetch(name)
            found = self._find(wanted)
        if found is None:
            raise absent(f"{self.names[1]} ({', '.join(wanted)})", self._places(), self._remedy)
        return read_idx(found[0], 3).unsqueeze(1), read_idx(found[1], 1).to(torch.int64)

    def _places(self) -> list[Path]:
        folder, torchvision = self.names
        tops = folders(self.root, folder)
        # Every set of the family has the same file names, so those that lie loose in data home could be any of them.
        loose = tops if self.root is not None else tops[:1]
        return [place for top in tops for place in ([top] if top in loose else []) + [top / torchvision / "raw"]]

    def _find(self, wanted: tuple[str, str]) -> tuple[Path, Path] | None:
        for place in self._places():
            images, labels = (find_file([place], name, f"{name}.gz") for name in wanted)
            if images is not None and labels is not None:
                return images, labels
        return None

    @property
    def _remedy(self) -> str:
        folder = download_folder(self.root, self.names[0])
        return (
            f"Put the four files of {self.names[1]} (train-images-idx3-ubyte.gz and so on) in {folder}, "
            "or set 'root' to the folder that has them"
            + ("." if self.download else ", or 'download: true' where there is a network.")
        )

    def _fetch(self, name: str) -> None:
        if not self.download:
            return
        folder, torchvision = self.names
        root = download_folder(self.root, folder)
        kind = getattr(import_torchvision("torchvision.datasets"), torchvision)
        fetched(torchvision, root, self._remedy, lambda: kind(root, train=name == "train", download=True))


class FashionMNIST(MNIST):
    """Articles of clothing, 28x28 grey, 60,000 + 10,000; found as :class:`MNIST` is.

    Classes 0 to 9: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    References:
        Fashion-MNIST (Xiao et al., 2017), https://arxiv.org/abs/1708.07747

    Arguments:
        root: Folder of the files; ``$GENFW_DATA/fashion-mnist``, or ``~/.cache/genfw/fashion-mnist``, where absent.
        download: Fetch the files where they are absent.
        size: Height and width of the images handed out.
        resize: ``pad`` puts black around smaller images; ``bilinear`` filters and rounds.
        flip: Probability of mirroring a training image.
        classes: Classes kept; all where absent.
        exclude: Classes left out of ``train`` and ``test``; their rows are ``held-out-train`` and ``held-out``.
        limit: Rows kept in each split, from the first.
    """

    names: ClassVar[tuple[str, str]] = ("fashion-mnist", "FashionMNIST")
