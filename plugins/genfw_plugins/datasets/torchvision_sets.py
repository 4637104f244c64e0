"""CIFAR-10, CIFAR-100 and SVHN as torchvision reads them."""

from __future__ import annotations

import abc
import pickle
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from genfw.errors import DataError
from genfw.nn.torchvision import import_torchvision
from genfw.plugins.validators import at_least
from genfw_plugins.datasets._arrays import PixelDataset, Resize
from genfw_plugins.datasets._files import FetchedDataset, absent, download_folder, fetched, find_file, folders


@attrs.define(kw_only=True, eq=False, slots=False)
class TorchvisionPixels(PixelDataset, FetchedDataset):
    """32x32 RGB sets that torchvision fetches, checks and reads; they are kept as 8-bit pixels.

    The files are looked for in ``root`` and in its folder named as the set. torchvision checks their MD5 sums. (CIFAR's
    files are Python pickles; torchvision opens them after that check.)
    """

    channels: ClassVar[int] = 3
    #: Name of the folder, and of torchvision's class.
    names: ClassVar[tuple[str, str]]
    #: What to fetch by hand.
    address: ClassVar[str]

    size: int = attrs.field(default=32, validator=at_least(1))
    resize: Resize = "bilinear"

    @abc.abstractmethod
    def arguments(self, name: str) -> dict[str, Any]:
        """How torchvision's class is told which split to read."""

    @abc.abstractmethod
    def landmark(self, name: str) -> str:
        """The file or folder that shows that the split has been fetched."""

    @abc.abstractmethod
    def arrays(self, source: Any) -> tuple[Tensor, Tensor]:
        """Pixels ``(N, 3, 32, 32)`` and labels ``(N,)`` of torchvision's object."""

    def headers(self, name: str) -> None:
        self._find(name)  # torchvision would read whole files to check their sums

    def read(self, name: str) -> tuple[Tensor, Tensor | None]:
        title, (found, goal, remedy) = self.names[1], self._find(name)
        kind = getattr(import_torchvision("torchvision.datasets"), title)
        if self.download:
            source = fetched(title, goal, remedy, lambda: kind(goal, **self.arguments(name), download=True))
        else:
            try:
                source = kind(goal, **self.arguments(name))
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
                raise DataError(f"{title} at {found} is damaged: {error}. Remove it. {remedy}") from error
        return self.arrays(source)

    def _find(self, name: str) -> tuple[Path | None, Path, str]:
        """What shows that the split is there, the folder that torchvision is told, and what to do without it."""
        folder, title = self.names
        places = folders(self.root, folder)
        found = find_file(places, self.landmark(name))
        goal = download_folder(self.root, folder) if found is None else found.parent
        remedy = (
            f"Fetch {self.address}, put it in {goal} and read it with 'download: true' "
            "(nothing that is there is fetched again), or set 'root' to the folder that has it."
        )
        if found is None and not self.download:
            raise absent(f"{title} ({self.landmark(name)})", places, remedy)
        return found, goal, remedy


class CIFAR10(TorchvisionPixels):
    """Photographs of ten classes, 32x32 RGB, 50,000 + 10,000.

    Classes 0 to 9: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck. They lie in the folder
    ``cifar-10-batches-py``.

    References:
        Learning multiple layers of features from tiny images (Krizhevsky, 2009),
        https://www.cs.toronto.edu/~kriz/cifar.html
    """

    names: ClassVar[tuple[str, str]] = ("cifar10", "CIFAR10")
    address: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    folder: ClassVar[str] = "cifar-10-batches-py"

    def arguments(self, name: str) -> dict[str, Any]:
        return {"train": name == "train"}

    def landmark(self, name: str) -> str:
        return self.folder

    def arrays(self, source: Any) -> tuple[Tensor, Tensor]:
        # shape: (N, H, W, C) -> (N, C, H, W); contiguous, since rows are what is read.
        return torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)


class CIFAR100(CIFAR10):
    """Photographs of a hundred classes, 32x32 RGB, 50,000 + 10,000; labels are the fine ones.

    They lie in the folder ``cifar-100-python``.

    References:
        Learning multiple layers of features from tiny images (Krizhevsky, 2009),
        https://www.cs.toronto.edu/~kriz/cifar.html
    """

    names: ClassVar[tuple[str, str]] = ("cifar100", "CIFAR100")
    address: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    folder: ClassVar[str] = "cifar-100-python"


class SVHN(TorchvisionPixels):
    """House numbers, one digit in the middle, 32x32 RGB, 73,257 + 26,032; 531,131 easier ones are the split ``extra``.

    They lie in ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat``.

    References:
        Reading digits in natural images (Netzer et al., 2011), http://ufldl.stanford.edu/housenumbers
    """

    names: ClassVar[tuple[str, str]] = ("svhn", "SVHN")
    address: ClassVar[str] = "http://ufldl.stanford.edu/housenumbers/train_32x32.mat (and test_32x32.mat)"
    files: ClassVar[tuple[str, ...]] = ("train", "test", "extra")

    def arguments(self, name: str) -> dict[str, Any]:
        return {"split": name}

    def landmark(self, name: str) -> str:
        return f"{name}_32x32.mat"

    def arrays(self, source: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(source.data).contiguous(), torch.from_numpy(source.labels)
