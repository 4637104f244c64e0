"""Image sets of the Hugging Face Hub, or in its format on disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import PIL.Image
import torch

from genfw.errors import AbsentDataError, DataError
from genfw.interfaces import Dataset, Split
from genfw.interfaces.values import Size
from genfw_plugins.datasets._arrays import check_flip
from genfw_plugins.datasets._images import Filter, ImageSource, ImageSplit, Pixels

__all__ = ["HuggingFace"]


class HuggingFace(Dataset):
    """Images in a set that the package ``datasets`` loads; no code of the set is run.

    Arguments:
        path: Name on the Hub, such as ``ylecun/mnist``, or a builder with ``data_dir``, such as ``imagefolder``.
        size: Height and width handed out.
        config: Configuration, where the set has several.
        data_dir: Folder of the files, for builders that read one.
        revision: Commit, tag or branch of the set on the Hub; name a commit to get the same rows again.
        image: Column of the images.
        label: Column of the classes; none where absent.
        train: Split read as ``train``; ``datasets`` reads ``train[:90%]`` too.
        test: Split read as ``test``.
        channels: 3 for RGB, 1 for grey.
        crop: Side of a centred square, or the box ``[left, top, right, bottom]``; the largest square where absent.
        resample: Filter of the resize.
        flip: Probability of mirroring a training image.
        limit: Images kept in each split, from the first.
        cache_mib: Decoded images are kept, 8 bits a channel, where those of the split take at most so many MiB.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"limit": 256}

    def __init__(
        self,
        path: str,
        size: int,
        config: str | None = None,
        data_dir: Path | None = None,
        revision: str | None = None,
        image: str = "image",
        label: str | None = None,
        train: str = "train",
        test: str = "test",
        channels: Literal[1, 3] = 3,
        crop: int | list[int] | None = None,
        resample: Filter = "bilinear",
        flip: float = 0.0,
        limit: int | None = None,
        cache_mib: int = 1024,
    ) -> None:
        self.path, self.config, self.data_dir, self.revision = path, config, data_dir, revision
        self.image, self.label, self.parts = image, label, {"train": train, "test": test}
        self.pixels = Pixels(size, channels, crop, resample)
        self.flip, self.limit, self.cache_mib = check_flip(flip), limit, cache_mib

    @property
    def data_shape(self) -> Size:
        """Channels, height, width."""
        return self.pixels.shape

    def split(self, name: str) -> Split:
        """See :meth:`genfw.interfaces.Dataset.split`."""
        if name not in self.parts:
            raise DataError(f"there is no split '{name}'; there are {', '.join(self.parts)}")
        rows = self._load(self.parts[name])
        for column in (self.image, self.label):
            if column is not None and column not in rows.column_names:
                raise DataError(f"{self.path} has no column '{column}'; it has {', '.join(rows.column_names)}")
        count = len(rows) if self.limit is None else min(self.limit, len(rows))
        labels = None if self.label is None else torch.tensor(rows.select(range(count))[self.label][:])
        source, flip = _ArrowSource(rows, self.image), self.flip if name == "train" else 0.0
        names = [str(row) for row in range(count)]
        return ImageSplit(source, names, self.pixels, labels, flip=flip, cache_mib=self.cache_mib)

    def _load(self, part: str) -> Any:
        import datasets

        folder = None if self.data_dir is None else str(self.data_dir)
        try:
            return datasets.load_dataset(self.path, self.config, data_dir=folder, split=part, revision=self.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise AbsentDataError(
                f"the split '{part}' of {self.path} can't be loaded: {error}. "
                "Check 'path', 'config' and the split's name; without a network the set must be in the cache (HF_HOME)"
            ) from error


class _ArrowSource(ImageSource):
    """Images of one column of an Arrow table, by row number."""

    def __init__(self, rows: Any, column: str) -> None:
        import datasets

        # Encoded bytes instead of decoded images: other columns stay unread, and decoding is ours.
        self.rows, self.column = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False)), column

    def names(self) -> list[str]:
        """See :meth:`ImageSource.names`."""
        return [str(row) for row in range(len(self.rows))]

    def open(self, name: str) -> PIL.Image.Image:
        """See :meth:`ImageSource.open`."""
        encoded = self.rows[int(name)][self.column]
        content = encoded["bytes"] if encoded["bytes"] is not None else Path(encoded["path"]).read_bytes()
        return PIL.Image.open(io.BytesIO(content))
