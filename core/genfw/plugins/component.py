"""What a plugin offers: a kind, a name, and the path of a class, which is imported on first use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs

#: Kind of component -> the interface its class must subclass. Nothing here imports torch.
KINDS: Mapping[str, str] = {
    "prior": "genfw.interfaces.prior:Prior",
    "decoder": "genfw.interfaces.decoder:Decoder",
    "encoder": "genfw.interfaces.encoder:Encoder",
    "energy": "genfw.interfaces.energy:Energy",
    "sampler": "genfw.interfaces.sampler:Sampler",
    "start": "genfw.interfaces.start:Start",
    "amortizer": "genfw.interfaces.amortizer:Amortizer",
    "dataset": "genfw.interfaces.dataset:Dataset",
    "optimizer": "genfw.training.optimizer:OptimizerFactory",
    "stage": "genfw.training.stage:Stage",
    "metric": "genfw.evaluation.metric:Metric",
    "tracker": "genfw.training.tracker:Tracker",
}

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _known_kind(_: object, __: object, value: str) -> None:
    if value not in KINDS:
        raise ValueError(f"unknown kind '{value}'; the kinds are {', '.join(KINDS)}")


def _matches(pattern: re.Pattern[str], what: str) -> Callable[[object, object, str], None]:
    def check(_: object, __: object, value: str) -> None:
        if not pattern.fullmatch(value):
            raise ValueError(f"{what} is not well formed: '{value}'")

    return check


#: Most characters of a line that a list shows.
_LINE = 500


def _line(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not isinstance(value, str) or len(value) > _LINE:
        got = f"{len(value):,} characters" if isinstance(value, str) else repr(value)[:100]
        raise ValueError(f"'{attribute.name}' is a text of at most {_LINE} characters, got {got}")


def _texts(instance: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for word in value:
        _line(instance, attribute, word)


def _packages(_: object, __: object, value: Mapping[str, str]) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for item in value.items() for word in item):
        raise ValueError(f"'needs' maps names of packages to how to install them, got {value!r:.100}")


def _opener(_: object, __: object, value: str) -> None:
    if value and not _TARGET.fullmatch(value):
        raise ValueError(f"an importer's opener is not well formed: '{value}'")


def _words(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(words)


@attrs.frozen
class Component:
    """One thing a recipe can name under ``use:``.

    Arguments:
        kind: One of :data:`KINDS`.
        name: Lower-case words joined by ``-``, unique within its kind and plugin.
        target: ``package.module:Class``; imported on first use, never for listing.
        summary: One line for ``genfw list``, of at most 500 characters, as each text here.
        reference: Paper, section or URL the component follows.
        tags: Free words to search by.
        aliases: Further names it answers to.
        status: ``stable``, ``experimental`` or ``deprecated``.
        primary: Arguments of its constructor that matter first, three to five; all where empty.
        needs: Packages beyond genfw's own that it imports -> how to install them.
        provider: Distribution that supplies it; filled by the loader.
        plugin: Entry point that supplies it; filled by the loader.
        version: Version of that distribution; filled by the loader.
        source: ``built-in``, ``installed`` or ``local``; filled by the loader.
        file: Where the plugin's module lies; filled by the loader.
    """

    kind: str = attrs.field(validator=_known_kind)
    name: str = attrs.field(validator=_matches(_NAME, "a component's name"))
    target: str = attrs.field(validator=_matches(_TARGET, "a component's target"))
    summary: str = attrs.field(validator=_line)
    reference: str = attrs.field(default="", validator=_line)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_words, validator=_texts)
    aliases: tuple[str, ...] = attrs.field(default=(), converter=_words, validator=_texts)
    status: str = attrs.field(
        default="stable", validator=attrs.validators.in_(("stable", "experimental", "deprecated"))
    )
    primary: tuple[str, ...] = attrs.field(default=(), converter=_words, validator=_texts)
    needs: Mapping[str, str] = attrs.field(factory=dict, validator=_packages)
    provider: str = ""
    plugin: str = ""
    version: str = ""
    source: str = ""
    file: str = ""


@attrs.frozen
class Importer:
    """A kind of published checkpoint that ``genfw import`` can read, or a plugin's part of one.

    Where a checkpoint holds networks of several plugins, each offers an importer of the same name; genfw merges their
    parts.

    Arguments:
        name: Lower-case words joined by ``-``.
        target: ``package.module:function``, called as ``function(tensors, arguments)`` with every tensor of the file by
            its path and the file's argument record; it returns a :class:`genfw.weights.importing.Conversion`, without
            tensors where its part is not in the file. Where a file can hold several networks of the kind,
            :func:`genfw.weights.importing.choose` takes the one that the user picks.
        summary: One line for ``genfw import``, of this part.
        reference: Where such files are published.
        opener: ``package.module:function`` that opens a file which ``torch.save`` did not write, a context manager like
            :func:`genfw.weights.torch_files.open_published`; empty uses that function.
        provider: Distribution that supplies it; filled by the loader.
        plugin: Entry point that supplies it; filled by the loader.
        version: Version of that distribution; filled by the loader.
    """

    name: str = attrs.field(validator=_matches(_NAME, "an importer's name"))
    target: str = attrs.field(validator=_matches(_TARGET, "an importer's target"))
    summary: str = attrs.field(validator=_line)
    reference: str = attrs.field(default="", validator=_line)
    opener: str = attrs.field(default="", validator=_opener)
    provider: str = ""
    plugin: str = ""
    version: str = ""


class Settings:
    """Marks a class that a recipe fills by a mapping of its constructor's arguments, without ``use:``.

    A parameter annotated with a subclass takes such a mapping. Use it for what has one implementation (a chain, a
    clip), and a component for what may have several. Where a parameter's default is an object of the subclass, a
    recipe that leaves it out has an empty mapping there.
    """

    #: Keys that people look for here -> what to do instead; it follows "X has no parameter 'key'".
    instead: ClassVar[Mapping[str, str]] = {}
