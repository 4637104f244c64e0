"""Image sets of the Hugging Face Hub, or in its format on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import PIL.Image
import torch

from genfw.errors import AbsentDataError, DataError
from genfw.interfaces import Split
from genfw_plugins.datasets._files import absent
from genfw_plugins.datasets._images import Channels, ImageDataset, ImageSource, open_picture


@attrs.define(kw_only=True, eq=False, slots=False)
class HuggingFace(ImageDataset):
    """Images in a set that the package ``datasets`` loads; no code of the set is run.

    Arguments:
        path: Name on the Hub, such as ``ylecun/mnist``, or a builder with ``data_dir``, such as ``imagefolder``.
        config: Configuration, where the set has several.
        data_dir: Folder of the files, for builders that read one.
        revision: Commit, tag or branch of the set on the Hub; name a commit to get the same rows again.
        image: Column of the images.
        label: Column of the classes; none where absent.
        train: Split read as ``train``; ``datasets`` reads ``train[:90%]`` too.
        test: Split read as ``test``.
        channels: 3 for RGB, 1 for grey, 4 for RGBA.
    """

    path: str
    size: int
    config: str | None = None
    data_dir: Path | None = None
    revision: str | None = None
    image: str = "image"
    label: str | None = None
    train: str = "train"
    test: str = "test"
    channels: Channels = 3

    def examine(self) -> None:
        # A set on the Hub would have to be fetched.
        if self.data_dir is not None and not self.data_dir.expanduser().is_dir():
            raise absent(f"the folder 'data_dir' of {self.path}", [self.data_dir], "Set 'data_dir' to what is there.")

    def split(self, name: str) -> Split:
        parts = {"train": self.train, "test": self.test}
        if name not in parts:
            raise DataError(f"there is no split '{name}'; there are {', '.join(parts)}")
        rows = self._load(parts[name])
        for column in (self.image, self.label):
            if column is not None and column not in rows.column_names:
                raise DataError(f"{self.path} has no column '{column}'; it has {', '.join(rows.column_names)}")
        count = len(rows) if self.limit is None else min(self.limit, len(rows))
        labels = None if self.label is None else torch.tensor(rows.select(range(count))[self.label][:])
        return self.images(_ArrowSource(rows, self.image), [str(row) for row in range(count)], name, labels)

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
        return [str(row) for row in range(len(self.rows))]

    def open(self, name: str) -> PIL.Image.Image:
        encoded = self.rows[int(name)][self.column]
        content = encoded["bytes"] if encoded["bytes"] is not None else Path(encoded["path"]).read_bytes()
        return open_picture(content)
