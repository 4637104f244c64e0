"""MNIST and Fashion-MNIST by name: found where they lie, or fetched by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from genfw.errors import AbsentDataError
from genfw.nn.torchvision import import_torchvision
from genfw_plugins.datasets._arrays import Headers, PixelDataset
from genfw_plugins.datasets._files import FetchedDataset, absent, download_folder, fetched, find_file, folders
from genfw_plugins.datasets.idx import idx_headers, read_idx


@attrs.define(kw_only=True, eq=False, slots=False)
class MNIST(PixelDataset, FetchedDataset):
    """Handwritten digits, 28x28 grey, 60,000 + 10,000.

    The four idx files, plain or gzipped, are looked for in ``root``, in its folder named as the set, and where
    torchvision puts them (``MNIST/raw``); where they are nowhere, torchvision fetches them.

    References:
        The MNIST database (LeCun et al.), http://yann.lecun.com/exdb/mnist/
    """

    #: Name of the folder, and of torchvision's class, which names its own folder after itself.
    names: ClassVar[tuple[str, str]] = ("mnist", "MNIST")

    def headers(self, name: str) -> Headers | None:
        found = self.there(self._find, self._absent, name)
        return None if found is None else idx_headers(*found)

    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        found = self.obtained(self._find, self._fetch, self._absent, name)
        return read_idx(found[0], 3).unsqueeze(1), read_idx(found[1], 1).to(torch.int64)

    def _places(self) -> list[Path]:
        folder, torchvision = self.names
        tops = folders(self.root, folder)
        # Every set of the family has the same file names, so those that lie loose in data home could be any of them.
        loose = tops if self.root is not None else tops[:1]
        return [place for top in tops for place in ([top] if top in loose else []) + [top / torchvision / "raw"]]

    def _wanted(self, name: str) -> tuple[str, str]:
        prefix = "train" if name == "train" else "t10k"
        return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"

    def _absent(self, name: str) -> AbsentDataError:
        return absent(f"{self.names[1]} ({', '.join(self._wanted(name))})", self._places(), self._remedy)

    def _find(self, name: str) -> tuple[Path, Path] | None:
        wanted = self._wanted(name)
        for place in self._places():
            images, labels = (find_file([place], file, f"{file}.gz") for file in wanted)
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
        folder, torchvision = self.names
        root = download_folder(self.root, folder)
        kind = getattr(import_torchvision("torchvision.datasets"), torchvision)
        fetched(torchvision, root, self._remedy, lambda: kind(root, train=name == "train", download=True))


class FashionMNIST(MNIST):
    """Articles of clothing, 28x28 grey, 60,000 + 10,000; found as :class:`MNIST` is.

    Classes 0 to 9: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    References:
        Fashion-MNIST (Xiao et al., 2017), https://arxiv.org/abs/1708.07747
    """

    names: ClassVar[tuple[str, str]] = ("fashion-mnist", "FashionMNIST")
