"""Cards of saved models: what a model is, what it was trained on and for how long, and its numbers.

A saved model is a folder: ``model.safetensors``, ``resolved.yaml``, ``card.yaml``, and the small files of the run it
comes from, from which its report is written. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from genfw.errors import RunError, did_you_mean
from genfw.runs.directory import RunDirectory, find_run
from genfw.runs.files import read_mapping, real, without_home, write_atomically

#: Licence of weights where their author names none.
LICENCE = "Apache-2.0"


@attrs.frozen
class CardNumber:
    """One number of a card.

    Arguments:
        name: The result, such as ``fid``.
        value: The number.
        error: Its standard error, where known.
        unit: Its unit.
        better: ``lower``, ``higher`` or empty.
        paper: The paper's number, where the recipe quotes one.
        protocol: How it was measured.
    """

    name: str
    value: float
    error: float | None = None
    unit: str = ""
    better: str = ""
    paper: float | None = None
    protocol: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Card:
    """What is known about a saved model.

    Arguments:
        name: Its name.
        description: What it is, in a sentence or two.
        data: The data set it was trained on, as its recipe names it.
        data_shape: Shape of one item, without batch.
        parameters: Count of weights.
        licence: Licence of the weights.
        command: The command that trains it again.
        steps: Training steps of all stages.
        minutes: Minutes of training.
        hardware: Where it was trained.
        versions: Packages it was trained with.
        tags: Words to find it by.
        picture: File of its samples, below its folder; empty without.
        weights: Type that the weights were rounded to after the numbers were measured; empty where they were not.
        numbers: What was measured.
    """

    name: str
    description: str = ""
    data: str = ""
    data_shape: tuple[int, ...] = ()
    parameters: int = 0
    licence: str = LICENCE
    command: str = ""
    steps: int = 0
    minutes: float = 0.0
    hardware: str = ""
    versions: Mapping[str, str] = attrs.field(factory=dict)
    tags: tuple[str, ...] = ()
    picture: str = ""
    weights: str = ""
    numbers: tuple[CardNumber, ...] = ()

    @property
    def rounding(self) -> str:
        """That the weights were rounded, as the end of a line about them; empty where they were not."""
        return f", rounded to {self.weights} after the numbers were measured" if self.weights else ""

    def text(self) -> str:
        """The card as YAML."""
        plain = {"format": 1, **attrs.asdict(self)}
        plain |= {key: list(plain[key]) for key in ("data_shape", "tags", "numbers")}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)

    def write(self, path: Path) -> None:
        """Write the card as YAML."""
        write_atomically(path, without_home(self.text()))


def read_card(path: Path) -> Card:
    """Read a card; what a stranger's card has that is none of a card's values is left out.

    Raises:
        RunError: There is no card, or it has no name.
    """
    plain = read_mapping(path)
    if not isinstance(plain.get("name"), str):
        raise RunError(f"{path} is no card of a model: it has no name")
    values = {key: value for key, value in plain.items() if key in _READERS and value is not None}
    return Card(**{key: _READERS[key](value) for key, value in values.items()})


def _number(record: Any) -> CardNumber | None:
    if not isinstance(record, Mapping) or (value := real(record.get("value"))) is None:
        return None
    protocol = record.get("protocol")
    return CardNumber(
        name=str(record.get("name", "")),
        value=value,
        error=real(record.get("error")),
        unit=str(record.get("unit") or ""),
        better=str(record.get("better") or ""),
        paper=real(record.get("paper")),
        protocol={str(key): item for key, item in protocol.items()} if isinstance(protocol, Mapping) else {},
    )


def read_numbers(records: Any) -> tuple[CardNumber, ...]:
    """The records of an evaluation, or of a card, that have a number."""
    found = map(_number, records if isinstance(records, Sequence) and not isinstance(records, str) else ())
    return tuple(number for number in found if number is not None)


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value if isinstance(size, int)) if isinstance(value, Sequence) else ()


_READERS: Mapping[str, Any] = {
    **dict.fromkeys(("name", "description", "data", "licence", "command", "hardware", "picture", "weights"), str),
    **dict.fromkeys(("parameters", "steps"), lambda value: int(real(value) or 0)),
    "minutes": lambda value: real(value) or 0.0,
    "versions": lambda value: {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {},
    "tags": _words,
    "data_shape": _sizes,
    "numbers": read_numbers,
}


@attrs.frozen
class ShippedModel:
    """A saved model that ``genfw sample`` finds by name.

    Arguments:
        name: The name of its folder.
        path: Its folder.
        card: Its card.
        bytes: Size of its weights.
    """

    name: str
    path: Path
    card: Card
    bytes: int


def shipped_models(search: Iterable[Path]) -> list[ShippedModel]:
    """Every saved model in some folders, by name; the first folder with a name decides.

    Arguments:
        search: The folders of :meth:`~genfw.plugins.registry.Registry.model_dirs`.
    """
    found: dict[str, ShippedModel] = {}
    for root in search:
        for path in sorted(root.glob("*/card.yaml")):
            folder = RunDirectory(path.parent)
            if folder.weights.is_file():
                name, size = path.parent.name, folder.weights.stat().st_size
                found.setdefault(name, ShippedModel(name, folder.path, read_card(path), size))
    return sorted(found.values(), key=lambda model: model.name)


def find_trained(name: str | Path, root: Path | str = "runs", search: Sequence[Path] = ()) -> Path:
    """The directory of a run, or the folder of a saved model.

    Arguments:
        name: What :func:`~genfw.runs.directory.find_run` takes, or else a shipped model's name.
        root: Folder of all runs.
        search: Folders of shipped models.

    Raises:
        RunError: Neither a run nor a model has that name.
    """
    models = {model.name: model.path for model in shipped_models(search)}
    try:
        return find_run(name, root)
    except RunError as error:
        if str(name) in models:
            return models[str(name)]
        hint = did_you_mean(str(name), models) if models else ""
        raise RunError(f"{error}\n    Nor is there a shipped model of that name{hint}") from error
