"""Images as 8-bit pixels by number, from a data set or drawn by a model, never all of them in memory."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor

from genfw import ContractError, DataError, Evaluation, Size, Split
from genfw.evaluation.extent import Extent
from genfw.evaluation.pictures import is_image
from genfw.evaluation.results import Pairs
from genfw.models.sampling import stateful_parts
from genfw.plugins.signature import summarise
from genfw.runs.environment import code_digest
from genfw.runs.files import read_mapping, replacing, write_atomically
from genfw.runs.state_tree import split_tree
from genfw_plugins.metrics.common.content import digest_of_settings, digest_of_tensors

#: What :func:`to_pixels` does, for the protocol.
ROUNDING = "clamp to [-1, 1], then round((x + 1) * 127.5) to 8 bits"
_CHUNK = 1024


def to_pixels(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8: -1 is 0, 1 is 255, one rule for every image and no stretching.

    Raises:
        ContractError: A value is no number, or infinite.
    """
    if not x.isfinite().all():
        raise ContractError("an image has values that are no numbers, or infinite")
    return ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


class Pixels(Protocol):
    """Images by number, uint8, with shape (C, H, W), and the hash of all of them."""

    shape: Size

    @property
    def extent(self) -> Extent:
        """The values that the images had before they became pixels."""

    @property
    def digest(self) -> str:
        """SHA-256 of shape and pixels."""

    def __len__(self) -> int: ...

    def read(self, index: Sequence[int]) -> Tensor:
        """Images of these numbers, with shape (B, C, H, W)."""


def _hasher(count: int, shape: Size) -> hashlib._Hash:
    return hashlib.sha256(f"{count} {tuple(shape)};".encode())


class SplitPixels:
    """Rows of a split as pixels, read when asked for.

    Arguments:
        split: The split.
        index: Its rows that count, in order.
        shape: Shape of an image.
    """

    def __init__(self, split: Split, index: Tensor, shape: Size) -> None:
        self.split, self.index, self.shape = split, index, tuple(shape)
        self._seen: tuple[str, Extent] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def read(self, index: Sequence[int]) -> Tensor:
        """Images of these numbers, with shape (B, C, H, W)."""
        return to_pixels(self._rows(torch.as_tensor(index)))

    @property
    def digest(self) -> str:
        """SHA-256 of shape and pixels."""
        return self._look()[0]

    @property
    def extent(self) -> Extent:
        """The values that the images had before they became pixels."""
        return self._look()[1]

    def _rows(self, index: Tensor) -> Tensor:
        return self.split.get(self.index[index])[0]

    def _look(self) -> tuple[str, Extent]:
        """Hash and extent, which one pass over the rows gives."""
        if self._seen is None:
            seen, extent = _hasher(len(self), self.shape), Extent()
            for part in torch.arange(len(self)).split(_CHUNK):
                x = self._rows(part)
                extent.add(x)
                seen.update(to_pixels(x).contiguous().numpy().data)
            self._seen = seen.hexdigest(), extent
        return self._seen


class TensorPixels:
    """Images in memory as pixels.

    Arguments:
        x: Images in [-1, 1], with shape (N, C, H, W).
    """

    def __init__(self, x: Tensor) -> None:
        self.pixels, self.shape = to_pixels(x.cpu()).contiguous(), check_image(tuple(x.shape[1:]))
        self.extent = Extent.of(x)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: Sequence[int]) -> Tensor:
        """Images of these numbers, with shape (B, C, H, W)."""
        return self.pixels[torch.as_tensor(index)]

    @property
    def digest(self) -> str:
        """SHA-256 of shape and pixels."""
        seen = _hasher(len(self), self.shape)
        seen.update(self.pixels.numpy().data)
        return seen.hexdigest()


class FilePixels:
    """Images in an ``npy`` file; an image is read when asked for, so that memory does not grow with their count.

    Pixels no longer tell what was cut: a ``json`` file beside it holds the extent of the values.

    Arguments:
        path: The file.
        digest: Hash of shape and pixels; computed where absent.

    Raises:
        DataError: It is no such file, or its extent is absent.
    """

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                np.lib.format.read_magic(file)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                self._offset = file.tell()
            whole = self._offset + math.prod(shape) == path.stat().st_size
        except (OSError, ValueError) as error:
            raise DataError(f"{path} can't be read: {error}") from error
        if not whole or fortran or dtype != np.uint8 or len(shape) != 4:
            raise DataError(f"{path} holds no images: shape {shape}, type {dtype}")
        self.extent = _read_extent(path.with_suffix(".json"), math.prod(shape))
        self._count, self.shape = int(shape[0]), tuple(int(size) for size in shape[1:])
        self._file = open(path, "rb")  # noqa: SIM115 - open for as long as the object lives
        self._digest = digest

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def __len__(self) -> int:
        return self._count

    def read(self, index: Sequence[int]) -> Tensor:
        """Images of these numbers, with shape (B, C, H, W)."""
        size = math.prod(self.shape)
        found = torch.empty(len(index), size, dtype=torch.uint8)
        view = found.numpy()
        # Read, not mapped: pages of a mapped file count as the process's own memory.
        for row, number in enumerate(index):
            self._file.seek(self._offset + int(number) * size)
            self._file.readinto(view[row].data)
        return found.view(len(index), *self.shape)

    @property
    def digest(self) -> str:
        """SHA-256 of shape and pixels."""
        if self._digest is None:
            seen = _hasher(len(self), self.shape)
            for first in range(0, len(self), _CHUNK):
                seen.update(self.read(range(first, min(first + _CHUNK, len(self)))).numpy().data)
            self._digest = seen.hexdigest()
        return self._digest

    @classmethod
    def write(cls, path: Path, batches: Iterable[Tensor], count: int) -> FilePixels:
        """Write images in [-1, 1] as pixels; the file is whole, or is not there.

        Arguments:
            path: Where.
            batches: The images, batch by batch.
            count: How many there are in all.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        seen, written, extent = None, 0, Extent()
        with replacing(path, durable=False) as part, open(part, "wb") as file:
            for batch in batches:
                pixels = to_pixels(batch).contiguous()
                extent.add(batch)
                if seen is None:
                    seen = _hasher(count, tuple(pixels.shape[1:]))
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                seen.update(pixels.numpy().data)
                file.write(pixels.numpy().data)
                written += len(pixels)
            if seen is None or written != count:
                raise ContractError(f"{count} images were announced and {written} came")
        write_atomically(path.with_suffix(".json"), json.dumps(attrs.asdict(extent)) + "\n", durable=False)
        return cls(path, seen.hexdigest())


def data_pixels(evaluation: Evaluation, split: str, count: int | None) -> SplitPixels:
    """Rows of the recipe's data as pixels; the rows that :meth:`~genfw.evaluation.evaluation.Evaluation.rows` takes.

    All of them are looked at here, before anything is drawn that is to be compared with them.

    Raises:
        ContractError: There is no data set, or its items are no images of one or three channels in [-1, 1].
    """
    rows, index = evaluation.row_numbers(split, count)
    assert evaluation.data is not None  # row_numbers has refused it
    pixels = SplitPixels(rows, index, check_image(evaluation.data.data_shape))
    pixels.extent.of_data(_data(split))
    return pixels


def check_data(evaluation: Evaluation, split: str, index: Tensor | None = None) -> str:
    """Look at rows of the recipe's data, for a metric that takes them for images but makes no pixels of them.

    Arguments:
        evaluation: The evaluation; without data, or with data that are no images, there is nothing to look at.
        split: The split.
        index: Numbers of its rows; all where absent.

    Returns:
        A note, or nothing; see :meth:`~genfw.evaluation.extent.Extent.of_data`.

    Raises:
        ContractError: Values lie beyond [-1, 1].
    """
    if evaluation.data is None or not is_image(tuple(evaluation.data.data_shape)):
        return ""
    rows, extent = evaluation.data.split(split), Extent()
    for part in (torch.arange(len(rows)) if index is None else index).split(_CHUNK):
        extent.add(rows.get(part)[0])
    return extent.of_data(_data(split))


def join_notes(*notes: str) -> str:
    """Sentences as one note, each of them once."""
    return " ".join(dict.fromkeys(note for note in notes if note))


def _data(split: str) -> str:
    return f"the data (split '{split}')"


def _read_extent(path: Path, count: int) -> Extent:
    facts = dict(read_mapping(path))
    fields = attrs.fields_dict(Extent)
    if set(facts) != set(fields) or not all(isinstance(value, int | float) for value in facts.values()):
        raise DataError(f"{path} does not hold the extent of images")
    extent = Extent(**facts)
    if extent.count != count:
        raise DataError(f"{path} is about {extent.count} values, and the images beside it have {count}")
    return extent


def drawn_pixels(evaluation: Evaluation, count: int) -> FilePixels:
    """The model's samples as pixels, in a file of the run directory.

    The file is named by the hash of all that the samples depend on: weights, state of kernel and starts, the recipe's
    ``sample:`` section, seed, versions, code. Where it lies there already, nothing is drawn.

    Raises:
        ContractError: The samples are no images of one or three channels.
    """
    shape = check_image(evaluation.model.data_shape)
    folder = evaluation.directory / "cache"
    path = folder / f"samples-{count}-{_key(evaluation, count)[:24]}.npy"
    # Without the recipe, an object's settings are known in part only: such samples are drawn anew.
    if evaluation.recipe and path.is_file():
        try:
            found = FilePixels(path)
            if (len(found), found.shape) == (count, shape):
                return found
        except DataError:
            pass  # damaged: drawn anew
    for old in (*folder.glob(f"samples-{count}-*.npy"), *folder.glob(f"samples-{count}-*.json")):
        old.unlink(missing_ok=True)
    return FilePixels.write(path, (batch.x for batch in evaluation.sample_batches(count)), count)


def made_of(evaluation: Evaluation, metric: str) -> Pairs:
    """Data and what a metric that stands before in the recipe has made of them.

    Raises:
        ContractError: It does not stand there, was not asked for, or has failed.
    """
    if metric not in evaluation.pairs:
        raise ContractError(
            f"this metric compares data with what metric '{metric}' has made of them, and it has made nothing here: "
            f"list '{metric}' before this one, name both where you choose (--only {metric} --only ...), and see "
            "whether it failed"
        )
    return evaluation.pairs[metric]


def check_made(evaluation: Evaluation, metric: str) -> None:
    """Refuse a recipe that does not list a metric whose images another compares.

    Raises:
        ContractError: It does not.
    """
    listed = evaluation.recipe.get("evaluate")
    uses = [str(block.get("use", "")).rpartition("/")[2] for block in listed or ()]
    if listed is not None and metric not in uses:
        raise ContractError(
            f"this metric compares data with what metric '{metric}' has made of them; list '{metric}' before this one"
        )


def protocol_of(evaluation: Evaluation, metric: str) -> dict[str, Any]:
    """How a metric has made its images, for the protocol of one that compares them.

    Its keys begin with the metric's name, but for what every metric of the evaluation says of itself, such as the seed:
    under another name that would bar comparisons between runs.
    """
    common = evaluation.protocol()
    made = made_of(evaluation, metric).protocol
    return {f"{metric}_{key}": value for key, value in made.items() if key not in common}


def check_image(shape: Size) -> Size:
    """Refuse items that are no images of one or three channels.

    Raises:
        ContractError: They are not.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ContractError(
            f"this metric compares images of one or three channels, and the items have shape {tuple(shape)}"
        )
    return tuple(shape)


def _key(evaluation: Evaluation, count: int) -> str:
    settings = evaluation.settings
    parts = stateful_parts(settings)
    state = {"model": evaluation.model.state_dict(), "parts": [part.state_dict() for part in parts]}
    structure, tensors = split_tree(state)
    protocol = evaluation.protocol(samples=count)
    facts = {
        "weights": digest_of_tensors(tensors),
        "state": str(structure),
        "parts": [summarise(part) for part in parts],
        "sample": str(evaluation.recipe.get("sample")),
        "protocol": {key: str(value) for key, value in protocol.items()},
        "code": _code(evaluation.model, *evaluation.model.children(), *evaluation.model.energies, *parts),
    }
    return digest_of_settings(facts)


def _code(*objects: object) -> list[str]:
    """Hashes of the packages that the objects' classes come from, genfw's own among them."""
    tops = sorted({type(one).__module__.partition(".")[0] for one in objects} | {"genfw"})
    hashes = []
    for top in tops:
        file = getattr(sys.modules.get(top), "__file__", None)
        if file is None:
            continue
        path = Path(file)
        package = path.name == "__init__.py"
        hashes.append(code_digest(path.parent) if package else hashlib.sha256(path.read_bytes()).hexdigest())
    return hashes
